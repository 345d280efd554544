"""A missing premise (2504.06514): the sentence of a needed parameter is taken out. What rests on it has no value any
more, and the right answer is that it is undetermined. How often a problem loses one is `missing_premise` of its data.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.kernel.rng import pick
from synth.problem.arrays import INSTANCES, MISSING, N_NEEDED, N_SENTENCES, OPS, QUERY, SLOTS, ready
from synth.problem.clauses import clause_count


@jit
def drop_premise(s, p):
    """Take the sentence of one needed instance parameter out of a complete problem (a batch of one). It is uniform over
    the needed instances that the sentence of another needed one names, so the text shows that they exist; when there is
    none, the query itself if it is an instance. A problem that has neither stays complete."""
    named = np.zeros(SLOTS, dtype=np.int64)
    terms, n_terms, query = p.terms[0], p.n_terms[0], p.scalars[0, QUERY]
    for y in range(INSTANCES):
        if p.needed[0, y]:
            for t in range(n_terms[y]):
                if terms[y, t, 0] < INSTANCES:
                    named[terms[y, t, 0]] = 1
    missing = pick(s, named)
    if missing < 0:
        if query >= INSTANCES:
            return
        missing = query
    kept = 0
    for i in range(p.scalars[0, N_SENTENCES]):
        x = p.sentences[0, i]
        p.sentences[0, i] = -1
        if x != missing:
            p.sentences[0, kept] = x
            kept += 1
    p.scalars[0, N_SENTENCES] = kept
    p.scalars[0, MISSING] = missing
    p.constant[0, missing], p.constant_op[0, missing], p.combine[0, missing] = -1, 0, 0
    terms[missing] = -1
    n_terms[missing], terms[missing, 0, 0] = 1, missing
    _derive(p)


@jit
def _derive(p):
    """Keeps what can still be derived of an incomplete problem: all other values are forgotten, and of the needed
    parameters those stay that can be derived and that the query still depends on."""
    done = np.zeros(SLOTS, dtype=np.int64)
    progress = True
    while progress:
        progress = False
        for x in range(SLOTS):
            if p.exists[0, x] and not done[x] and ready(p.n_terms[0], p.terms[0], done, x):
                done[x], progress = 1, True
    reached = np.zeros(SLOTS, dtype=np.int64)
    reached[p.scalars[0, QUERY]] = 1
    count = p.scalars[0, N_NEEDED]
    for i in range(count - 1, -1, -1):
        x = p.topo[0, i]
        for t in range(p.n_terms[0, x]):
            for f in range(2):
                if reached[x] and p.terms[0, x, t, f] >= 0:
                    reached[p.terms[0, x, t, f]] = 1
    for x in range(SLOTS):
        if not done[x]:
            p.value[0, x] = -1
        if not done[x] or not reached[x]:
            p.needed[0, x] = 0
    n, ops = 0, 0
    for i in range(count):
        x = p.topo[0, i]
        p.topo[0, i] = -1
        if p.needed[0, x]:
            p.topo[0, n] = x
            n += 1
            ops += clause_count(x, p.n_terms[0], p.terms[0], p.constant_op[0])
    p.scalars[0, N_NEEDED], p.scalars[0, OPS] = n, ops
