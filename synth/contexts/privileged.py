"""Privileged contexts (opd-methods 1.9): fills the sections of `synth.contexts.sections`, fresh or from given rollouts.

Two ways to the same builder:

    add_contexts(source, indices, documents)    pretraining: a recipe and fresh sections for each document of a stream
    material(world, problem, responses, verdicts, own, generator)    teachers: a group of rollouts; `own` is scored

A tiny model learns to use contexts only from documents that have them; the mixture is `contexts` of the spec. Sections
are drawn from streams of their own, independently of the document: problem and solution are the same with and without
them, and given any context the solution has the generator's distribution, so `logp` stays exact. A gold section can
therefore equal the solution by chance (always where a problem has one order and letters are in order of use; see
`letter_order`); redrawing it then would make the solution depend on it. Only `concise` changes the solution, to the
distribution with `shortest=True`.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from synth.contexts import sections
from synth.contexts.peers import failures, other_number, solutions, steps, stream
from synth.documents import CONTEXT_SEGMENT, TRACKS, Documents, join
from synth.judge.checker import Verdicts, check_responses, reason
from synth.kernel import rng
from synth.problem.arrays import Integers, Problems
from synth.problem_source import ProblemSource
from synth.world import vocabulary as vocab


def feedback(problem: Problems, verdicts: Verdicts, i: int) -> list[int]:
    """Tokens of what is wrong with response i to `problem` (a batch of one): first wrong step's parameter, its kind.

    The kind alone where the step names no parameter of the problem, or where it is the end or the answer that is wrong.
    Empty for a right response.
    """
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


# --- given rollouts -----------------------------------------------------------------------------------------------


def material(
    world: vocab.World,
    problem: Problems,
    responses: Sequence[sections.Tokens],
    verdicts: Verdicts,
    own: int,
    generator: np.ndarray,
    gold: sections.Tokens | None = None,
) -> sections.Material:
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
    texts = [sections.written(r) for r in responses]
    rows = np.array([i for i in range(len(texts)) if texts[i] != texts[own]], dtype=np.int64)
    rng.shuffle(generator, rows, len(rows))
    shown = None
    if gold is not None:
        golds = check_responses(problem, world, [gold])
        if not golds.right[0]:
            raise ValueError(f"the gold response is wrong ({reason(golds, 0)}); accepted: a right one")
        shown = first_steps(generator, steps(golds, 0, gold))
    final = final_token(world, int(problem.answer[0]))
    return sections.Material(
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


# --- pretraining --------------------------------------------------------------------------------------------------


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
) -> list[sections.Material]:
    """Fresh material for N problems, as much as their recipes ask for; a pure function of (source, index, recipe)."""
    wanted = [dict(sections.parse(recipe)) for recipe in chosen]
    filled: list[dict] = [{} for _ in wanted]
    generators = rng.generators(source.seed, stream(source, "detail"), indices)
    tries_right = [rng.below(s, 2) == 1 and "feedback" not in w for s, w in zip(generators, wanted, strict=True)]

    def fresh(what: str, rows: list[int], make: Callable) -> Iterator[tuple[int, sections.Tokens, Verdicts, int]]:
        """(row, response, verdicts, its row there) for some of the problems."""
        if rows:
            responses, verdicts = make(source, problems.take(rows), np.asarray(indices, dtype=np.int64)[rows], what)
            yield from ((row, responses[j], verdicts, j) for j, row in enumerate(rows))

    rows = [i for i, w in enumerate(wanted) if {"gold", "partial"} & w.keys()]
    for i, response, verdicts, j in fresh("gold", rows, solutions):
        filled[i] |= {"gold": response, "partial": first_steps(generators[i], steps(verdicts, j, response))}
    for name, make in (("success", solutions), ("failure", failures)):
        for k in range(sections.MOST[name]):
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
    return [sections.Material(**fields) for fields in filled]


def add_contexts(source: ProblemSource, indices: Integers, documents: Documents) -> Documents:
    """The documents of a stream with the contexts that its spec asks for; `documents` are those without."""
    chosen = recipes(source, indices)
    concise = np.array([i for i, r in enumerate(chosen) if "concise" in dict(sections.parse(r))], dtype=np.int64)
    if len(concise):
        at = np.asarray(indices, dtype=np.int64)[concise]
        short = source.solve(documents.problems.take(concise), stream(source, "concise"), at, shortest=True)
        rows = np.arange(len(documents))
        rows[concise] = len(documents) + np.arange(len(concise))
        documents = join([documents, short]).take(rows)
    drawn = draw(source, documents.problems, indices, chosen)
    parts = [[t for section in sections.build(r, m) for t in section] for r, m in zip(chosen, drawn, strict=True)]
    return _before(documents, parts)


def _before(documents: Documents, contexts: Sequence[sections.Tokens]) -> Documents:
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
