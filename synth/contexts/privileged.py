"""Privileged contexts: fills the sections of `synth.contexts.context_tokens`, fresh or from given rollouts.

    add_contexts(source, indices, documents)    pretraining: a recipe and fresh sections for each document of a stream
    material(world, problem, responses, verdicts, own, generator)    teachers: a group of rollouts; `own` is scored

A tiny model learns to use contexts only from documents that have them; the mixture is `contexts` of the spec. Sections
are drawn from streams of their own, independently of the document: problem and solution are the same with and without
them, and given any context the solution has the generator's distribution, so `logp` stays exact. A gold section can
therefore equal the solution by chance (always where a problem has one order and letters are in order of use; see
`letter_order`); redrawing it then would make the solution depend on it. Only `concise` changes the solution, to the
distribution with `shortest=True`.

The checker finds every wrong peer (`FAILURES`) wrong and every right one right before it is used.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from synth.contexts import context_tokens
from synth.documents import CONTEXT_SEGMENT, TRACKS, Documents, join
from synth.judge.checker import Verdicts, check_responses, reason
from synth.kernel import rng
from synth.problem.arrays import Integers, Problems
from synth.problem_source import ProblemSource
from synth.world import vocabulary as vocab

# What goes wrong in the peers and attempts made here: a result is not that of its arithmetic, and later numbers follow
# from it (`synth.write.mistakes`); it stops with the value of the step it has come to; a step is left out, and its
# letter used; a step is written for another parameter; the answer alone is another number.
FAILURES = ("slip", "early", "skipped", "renamed", "answer")
SLIP_RATE = 0.4  # of each step, where a slip was chosen


def steps(verdicts: Verdicts, i: int, response: context_tokens.Tokens) -> list[list[int]]:
    """The sentences of response i."""
    spans = zip(verdicts.start[i], verdicts.stop[i], strict=True)
    return [[int(t) for t in response[a:b]] for a, b in spans if a >= 0]


def other_number(generator: np.ndarray, world: vocab.World, token: int) -> int:
    """Token of a number other than `token`, uniform."""
    numbers = [n for n in range(world.first_number, world.first_number + world.modulus) if n != token]
    return numbers[rng.below(generator, len(numbers))]


def stream(source: ProblemSource, what: str) -> str:
    """Name of a stream of contexts: apart from that of the problems, and one for each use."""
    return f"{source.stream}/{source.split}/context {what}"


def solutions(source: ProblemSource, problems: Problems, indices: np.ndarray, what: str) -> tuple[list, Verdicts]:
    """Fresh right responses to N problems, with their verdicts; addressed by (seed, stream and `what`, index)."""
    documents = source.solve(problems, stream(source, what), indices, uncorrected=0.0)
    responses = [documents.response(i) for i in range(len(documents))]
    verdicts = check_responses(problems, source.world, responses)
    assert verdicts.right.all(), "a solution of the generator is wrong"
    return responses, verdicts


def _broken(kind: str, generator: np.ndarray, world: vocab.World, names: np.ndarray, response, sentences) -> list[int]:
    """A right response with one thing made wrong; sometimes the result is right after all."""
    tokens, n = context_tokens.written(response), len(sentences)
    answer = tokens[-1]
    if kind == "early" and n > 1:  # stops with the value of the step it has come to
        kept = sentences[: 1 + rng.below(generator, n - 1)]
        number = kept[-1][-2]
        if not world.first_number <= number < world.first_number + world.modulus:
            number = other_number(generator, world, answer)
        return [*(t for s in kept for t in s), vocab.ANSWER, number, vocab.EOS]
    if kind == "skipped" and n > 1:  # uses a letter that nothing defines
        gone = rng.below(generator, n - 1)
        start = sum(map(len, sentences[:gone]))
        return [*tokens[:start], *tokens[start + len(sentences[gone]) :], vocab.EOS]
    if kind == "renamed" and n > 0:  # one step is written for another parameter
        step = rng.below(generator, n)
        at = sum(map(len, sentences[:step])) + next(i for i, t in enumerate(sentences[step]) if t >= world.first_name)
        names = names[(names != tokens[at : at + 2]).any(axis=1)]
        return [*tokens[:at], *map(int, names[rng.below(generator, len(names))]), *tokens[at + 2 :], vocab.EOS]
    return [*tokens[:-1], other_number(generator, world, answer), vocab.EOS]


def failures(source: ProblemSource, problems: Problems, indices: np.ndarray, what: str) -> tuple[list, Verdicts]:
    """Wrong responses to N problems, each one of `FAILURES` by an even draw, with their verdicts. Where the kind drawn
    cannot be (no step to skip), or comes out right, it is the answer that is wrong."""
    world, n = source.world, len(problems.value)
    golds, verdicts = solutions(source, problems, indices, what)
    generators = rng.generators(source.seed, stream(source, f"{what} kind"), indices)
    kinds = [FAILURES[rng.below(s, len(FAILURES))] for s in generators]
    slip = {"retry_kind": "slip", "retry_rate": SLIP_RATE, "uncorrected": 1.0}
    slipped = source.solve(problems, stream(source, f"{what} slip"), indices, **slip)
    names = problems.slot_names()

    def broken(i: int) -> list[int]:
        there, sentences = names[i][problems.exists[i] > 0], steps(verdicts, i, golds[i])
        return _broken(kinds[i], generators[i], world, there, golds[i], sentences)

    responses = [slipped.response(i).tolist() if kinds[i] == "slip" else broken(i) for i in range(n)]
    for i in np.flatnonzero(check_responses(problems, world, responses).right):
        responses[i] = _broken("answer", generators[i], world, names[i], golds[i], ())
    verdicts = check_responses(problems, world, responses)
    assert not verdicts.right.any(), "a failure is right"
    return responses, verdicts


def feedback(problem: Problems, verdicts: Verdicts, i: int) -> list[int]:
    """Tokens of what is wrong with response i to `problem` (a batch of one): first wrong step's parameter, its kind.
    The kind alone where the step names no parameter of the problem, or where it is the end or the answer that is wrong.
    Empty for a right response."""
    why = reason(verdicts, i)
    if why == "right":
        return []
    first = int(verdicts.first_mistake[i])
    slot = int(verdicts.param[i, first]) if first >= 0 else -1
    name = [int(t) for t in problem.slot_names()[0, slot]] if slot >= 0 else []
    return [*name, vocab.SPECIALS.index(f"<{why.removeprefix('ends ')}>")]


def final_token(world: vocab.World, value: int) -> int:
    """Token of a problem's answer; a value of -1 is undetermined."""
    return world.first_number + value if value >= 0 else int(world.phrases[vocab.UNDETERMINED])


def first_steps(generator: np.ndarray, sentences: Sequence[Sequence[int]]) -> list[int]:
    """The first k sentences of a solution, k uniform from 1 to one fewer than all; of a single one, that one."""
    k = 1 + rng.below(generator, max(1, len(sentences) - 1))
    return [token for sentence in sentences[:k] for token in sentence]


def material(
    world: vocab.World,
    problem: Problems,
    responses: Sequence[context_tokens.Tokens],
    verdicts: Verdicts,
    own: int,
    generator: np.ndarray,
    gold: context_tokens.Tokens | None = None,
) -> context_tokens.Material:
    """What a teacher may read while it scores response `own` of a group of responses to one problem.

    Args:
        problem: a batch of one. responses: of the group, with their verdicts in the same order.
        own: row of the response that is scored: the attempt, and never a peer, nor is any of the same text.
        generator: int64[4] (`rng.generators`), changed; it orders the peers and draws the wrong hint.
        gold: a right response, for `gold` and `partial`.
    Raises ValueError when `own` is no row of the group.
    """
    if not 0 <= own < len(responses):
        raise ValueError(f"own={own} is no row of a group of {len(responses)}; accepted: 0 to {len(responses) - 1}")
    texts = [context_tokens.written(r) for r in responses]
    rows = np.array([i for i in range(len(texts)) if texts[i] != texts[own]], dtype=np.int64)
    rng.shuffle(generator, rows, len(rows))
    shown = None
    if gold is not None:
        golds = check_responses(problem, world, [gold])
        if not golds.right[0]:
            raise ValueError(f"the gold response is wrong ({reason(golds, 0)}); accepted: a right one")
        shown = first_steps(generator, steps(golds, 0, gold))
    final = final_token(world, int(problem.answer[0]))
    return context_tokens.Material(
        gold=gold,
        partial=shown,
        success=[texts[i] for i in rows if verdicts.right[i]],
        failure=[texts[i] for i in rows if not verdicts.right[i]],
        attempt=texts[own],
        attempt_right=bool(verdicts.right[own]),
        feedback=feedback(problem, verdicts, own),
        final=final,
        wrong=other_number(generator, world, final),
    )


def recipes(source: ProblemSource, indices: Integers) -> list[str]:
    """The recipe of each document of a stream, drawn with the probabilities of the spec's `contexts`."""
    if not source.spec.contexts:
        return ["none"] * len(indices)
    names, weights = zip(*source.spec.contexts, strict=True)
    edges = np.cumsum(weights)[:-1]
    generators = rng.generators(source.seed, stream(source, "recipe"), indices)
    return [names[np.searchsorted(edges, rng.uniform(s), side="right")] for s in generators]


def draw(
    source: ProblemSource, problems: Problems, indices: Integers, chosen: Sequence[str]
) -> list[context_tokens.Material]:
    """Fresh material for N problems, as much as their recipes ask for; a pure function of (source, index, recipe)."""
    wanted = [dict(context_tokens.parse(recipe)) for recipe in chosen]
    filled: list[dict] = [{} for _ in wanted]
    generators = rng.generators(source.seed, stream(source, "detail"), indices)
    tries_right = [rng.below(s, 2) == 1 and "feedback" not in w for s, w in zip(generators, wanted, strict=True)]

    def fresh(what: str, rows: list[int], make: Callable) -> Iterator[tuple[int, context_tokens.Tokens, Verdicts, int]]:
        """(row, response, verdicts, its row there) for some of the problems."""
        if rows:
            responses, verdicts = make(source, problems.take(rows), np.asarray(indices, dtype=np.int64)[rows], what)
            yield from ((row, responses[j], verdicts, j) for j, row in enumerate(rows))

    rows = [i for i, w in enumerate(wanted) if {"gold", "partial"} & w.keys()]
    for i, response, verdicts, j in fresh("gold", rows, solutions):
        filled[i] |= {"gold": response, "partial": first_steps(generators[i], steps(verdicts, j, response))}
    for name, make in (("success", solutions), ("failure", failures)):
        for k in range(context_tokens.MOST[name]):
            rows = [i for i, w in enumerate(wanted) if w.get(name, 0) > k]
            for i, response, _, _ in fresh(f"{name} {k}", rows, make):
                filled[i].setdefault(name, []).append(response)
    for right, make in ((True, solutions), (False, failures)):
        rows = [i for i, w in enumerate(wanted) if {"attempt", "feedback"} & w.keys() and tries_right[i] == right]
        for i, response, verdicts, j in fresh("attempt", rows, make):
            filled[i] |= {"attempt": response, "attempt_right": bool(verdicts.right[j])}
            filled[i]["feedback"] = feedback(problems.take(i), verdicts, j)
    for i, fields in enumerate(filled):
        fields["final"] = final_token(source.world, int(problems.answer[i]))
        fields["wrong"] = other_number(generators[i], source.world, fields["final"])
    return [context_tokens.Material(**fields) for fields in filled]


def add_contexts(source: ProblemSource, indices: Integers, documents: Documents) -> Documents:
    """The documents of a stream with the contexts that its spec asks for; `documents` are those without."""
    chosen = recipes(source, indices)
    concise = np.array([i for i, r in enumerate(chosen) if "concise" in dict(context_tokens.parse(r))], dtype=np.int64)
    if len(concise):
        at = np.asarray(indices, dtype=np.int64)[concise]
        short = source.solve(documents.problems.take(concise), stream(source, "concise"), at, shortest=True)
        rows = np.arange(len(documents))
        rows[concise] = len(documents) + np.arange(len(concise))
        documents = join([documents, short]).take(rows)
    drawn = draw(source, documents.problems, indices, chosen)
    parts = [[t for section in context_tokens.build(r, m) for t in section] for r, m in zip(chosen, drawn, strict=True)]
    return before(documents, parts)


def before(documents: Documents, contexts: Sequence[context_tokens.Tokens]) -> Documents:
    """`documents` with the tokens of a context before each: segment `CONTEXT_SEGMENT`, no step, no loss."""
    added = np.array([len(c) for c in contexts], dtype=np.int64)
    offsets = documents.offsets + np.append(0, np.cumsum(added))
    old = np.arange(len(documents.tokens)) + np.repeat(np.cumsum(added), np.diff(documents.offsets))
    tracks = {}
    for track in TRACKS:
        values = getattr(documents, track)
        tracks[track] = np.full(offsets[-1], -1 if track in ("step", "param") else 0, dtype=values.dtype)
        tracks[track][old] = values
    if added.any():
        inside = np.ones(offsets[-1], dtype=bool)
        inside[old] = False
        tracks["tokens"][inside] = np.concatenate([np.array(c, dtype=np.int32) for c in contexts])
        tracks["segment"][inside] = CONTEXT_SEGMENT
    prompt = documents.prompt + added.astype(documents.prompt.dtype)
    return Documents(**tracks, offsets=offsets, prompt=prompt, problems=documents.problems)
