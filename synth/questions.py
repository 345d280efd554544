"""Other questions about a drawn problem: the text stays; the query and all that follows from it change.

    others = other_questions(source, problems, indices, count=3)     # three batches of N problems

Each further question is drawn as `resample_query` draws it, uniformly among all parameters, until it has no more
operations than the settings allow, lies on the source's side of the split, and was not asked before; of `hardest_of`
such draws, the one with the most operations. A problem without such a question keeps its own.
"""

from typing import NamedTuple

import numpy as np

from synth.dataset import Source
from synth.draw.sentences_and_query import resample_query
from synth.draw.split import BINS, problem_bin, template_residue
from synth.kernel import rng
from synth.kernel.jit import jit
from synth.problem.arrays import OPS, QUERY, SLOTS, SPLIT_BIN, Integers, Problems, one
from synth.problem_source import SPLITS


class QuestionSettings(NamedTuple):
    """What a further question must be like. The split's bins are first_bin to last_bin."""

    most_ops: int
    published: bool  # solutions in the order of construction
    split_by_problem: bool
    first_bin: int
    last_bin: int
    tries: int  # draws for one question
    hardest_of: int


@jit
def _ask_again(generators, problems, asked, settings):
    """Changes the query of every problem. asked: int8[N, 72], the slots that were asked about."""
    needed, topo = np.zeros(SLOTS, dtype=np.int64), np.zeros(SLOTS, dtype=np.int64)
    scalars = np.zeros(8, dtype=np.int64)
    for i in range(generators.shape[0]):
        p, s = one(problems, i), generators[i]
        needed[:], topo[:], scalars[:] = p.needed[0], p.topo[0], p.scalars[0]
        most, found = 0, 0
        for _ in range(settings.tries):
            resample_query(s, p)
            if p.scalars[0, OPS] > settings.most_ops or asked[i, p.scalars[0, QUERY]]:
                continue
            place = problem_bin(p) if settings.split_by_problem else template_residue(p, settings.published, BINS)
            if place < settings.first_bin or place > settings.last_bin:
                continue
            found += 1
            if p.scalars[0, OPS] > most:
                most = p.scalars[0, OPS]
                p.scalars[0, SPLIT_BIN] = place
                needed[:], topo[:], scalars[:] = p.needed[0], p.topo[0], p.scalars[0]
            if found == settings.hardest_of:
                break
        p.needed[0], p.topo[0], p.scalars[0] = needed, topo, scalars
        asked[i, p.scalars[0, QUERY]] = 1


def other_questions(
    source: Source, problems: Problems, indices: Integers, count: int, tries: int = 12, hardest_of: int = 1
) -> list[Problems]:
    """`count` batches of the same problems, each with another question; a pure function of its arguments.

    indices: the addresses of the problems, int[N]. Raises ValueError for settings whose problems cannot be asked anew:
    a missing premise or a context.
    """
    spec = source.spec
    if spec.missing_premise > 0.0 or spec.contexts:
        raise ValueError("questions: accepted: missing_premise=0 and no contexts")
    published, by_problem = spec.solution_order == "published", spec.split_by == "problem"
    settings = QuestionSettings(spec.ops, published, by_problem, *SPLITS[source.split], tries, hardest_of)
    n = len(problems.scalars)
    asked = np.zeros((n, SLOTS), dtype=np.int8)
    asked[np.arange(n), problems.query] = 1
    out = []
    for r in range(count):
        again = Problems(*(array.copy() for array in problems))
        generators = rng.generators(source.seed, f"{source.stream}/{source.split}/question {r}", indices)
        _ask_again(generators, again, asked, settings)
        out.append(again)
    return out
