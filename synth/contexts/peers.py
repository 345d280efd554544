"""Fresh right and wrong solutions of given problems, as peers and attempts, with the checker's verdicts.

A failure is a fresh solution with one of `FAILURES` done to it:

    slip      a result is not that of its arithmetic, and later numbers follow from it (`synth.write.mistakes`)
    early     it stops with the value of the step it has come to
    skipped   a step is left out, and its letter used
    renamed   a step is written for another parameter
    answer    the answer alone is another number

The checker finds every failure wrong and every success right before it is used.
"""

import numpy as np

from synth.contexts import sections
from synth.judge.checker import Verdicts, check_responses
from synth.kernel import rng
from synth.problem.arrays import Problems
from synth.problem_source import ProblemSource
from synth.world import vocabulary as vocab

FAILURES = ("slip", "early", "skipped", "renamed", "answer")  # what goes wrong in the peers and attempts made here
SLIP_RATE = 0.4  # of each step, where a slip was chosen


def steps(verdicts: Verdicts, i: int, response: sections.Tokens) -> list[list[int]]:
    """The sentences of response i."""
    spans = zip(verdicts.start[i], verdicts.stop[i], strict=True)
    return [[int(t) for t in response[a:b]] for a, b in spans if a >= 0]


def other_number(generator: np.ndarray, world: vocab.World, token: int) -> int:
    """Token of a number other than `token`, uniform."""
    numbers = [n for n in range(world.first_number, world.first_number + world.modulus) if n != token]
    return numbers[rng.below(generator, len(numbers))]


def answer_token(response: sections.Tokens) -> int:
    """Token after `<answer>` of a complete response."""
    tokens = [int(t) for t in response]
    return tokens[tokens.index(vocab.ANSWER) + 1]


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
    tokens, n = sections.written(response), len(sentences)
    answer = answer_token(response)
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
    """Wrong responses to N problems, each one of `FAILURES` by an even draw, with their verdicts.

    Where the kind drawn cannot be (no step to skip), or comes out right, it is the answer that is wrong.
    """
    world, n = source.world, len(problems.value)
    golds, verdicts = solutions(source, problems, indices, what)
    generators = rng.generators(source.seed, stream(source, f"{what} kind"), indices)
    kinds = [FAILURES[rng.below(s, len(FAILURES))] for s in generators]
    slip = {"retry_kind": "slip", "retry_rate": SLIP_RATE, "uncorrected": 1.0}
    slipped = source.solve(problems, stream(source, f"{what} slip"), indices, **slip)
    names, responses = problems.slot_names(), []
    for i in range(n):
        if kinds[i] == "slip":
            responses.append(slipped.response(i).tolist())
        else:
            there = names[i][problems.exists[i] > 0]
            sentences = steps(verdicts, i, golds[i])
            responses.append(_broken(kinds[i], generators[i], world, there, golds[i], sentences))
    right = np.flatnonzero(check_responses(problems, world, responses).right)
    for i in right:
        responses[i] = _broken("answer", generators[i], world, names[i], golds[i], ())
    verdicts = check_responses(problems, world, responses)
    assert not verdicts.right.any(), "a failure is right"
    return responses, verdicts
