"""Several questions about one problem: the text stays, the query and all that follows from it changes.

    others = other_questions(source, problems, indices, count=3)     # three lists of N problems

Each further question is drawn as `synth.reask` draws it, uniformly among all parameters, until it has at most as many
operations as the settings allow, lies on the source's side of the split and was not asked before; of `hardest_of` such
draws the one with the most operations is taken. A problem with no such question keeps its own.
"""

from collections.abc import Sequence

import numpy as np

from synth import hashing
from synth import problem as P
from synth.dataset import SPLITS, Source
from synth.jit import jit
from synth.problem import SLOTS, Problems, one
from synth.reask import ask_again
from synth.split import problem_bin, template_bin


@jit
def _ask(states, problems, asked, law, tries, hardest_of):
    """Changes the query of every problem; law: int64 [most operations, published order, split by problem, first bin,
    last bin]; asked: int8[N, 72], the slots that were asked about."""
    needed = np.zeros(SLOTS, dtype=np.int64)
    topo = np.zeros(SLOTS, dtype=np.int64)
    scalars = np.zeros(8, dtype=np.int64)
    for i in range(states.shape[0]):
        p, s = one(problems, i), states[i]
        needed[:], topo[:], scalars[:] = p.needed[0], p.topo[0], p.scalars[0]
        most, found = 0, 0
        for _ in range(tries):
            ask_again(s, p)
            if p.scalars[0, P.OPS] > law[0] or asked[i, p.scalars[0, P.QUERY]]:
                continue
            place = problem_bin(p) if law[2] else template_bin(p, law[1])
            if place < law[3] or place > law[4]:
                continue
            found += 1
            if p.scalars[0, P.OPS] > most:
                most = p.scalars[0, P.OPS]
                p.scalars[0, P.SPLIT_BIN] = place
                needed[:], topo[:], scalars[:] = p.needed[0], p.topo[0], p.scalars[0]
            if found == hardest_of:
                break
        p.needed[0], p.topo[0], p.scalars[0] = needed, topo, scalars
        asked[i, p.scalars[0, P.QUERY]] = 1


def other_questions(
    source: Source, problems: Problems, indices: Sequence[int], count: int, tries: int = 12, hardest_of: int = 1
) -> list[Problems]:
    """`count` batches of the same problems, each with another question; a pure function of the arguments' addresses.

    Raises ValueError for settings whose problems cannot be asked anew: a missing premise or a context.
    """
    spec = source.spec
    if spec.missing_premise > 0.0 or spec.contexts:
        raise ValueError("questions: accepted: missing_premise=0 and no contexts")
    published = spec.solution_order == "published"
    law = np.array([spec.ops, published, spec.split_by == "problem", *SPLITS[source.split]], dtype=np.int64)
    n = len(problems.scalars)
    asked = np.zeros((n, SLOTS), dtype=np.int8)
    asked[np.arange(n), problems.query] = 1
    out = []
    for r in range(count):
        again = Problems(*(a.copy() for a in problems))
        states = hashing.states(source.seed, f"{source.stream}/{source.split}/question {r}", indices)
        _ask(states, again, asked, law, tries, hardest_of)
        out.append(again)
    return out
