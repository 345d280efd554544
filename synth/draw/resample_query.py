"""`reask`: another question about a drawn problem (Part 2.1, section 1.8 of the specification).

The query is redrawn uniformly among all parameters of the structure graph, instance and abstract; what it needs, the
operations and a random topological order of its ancestors follow. The split side is that of what is then asked, so the
caller hashes after this: a train template never comes back as a reasked test problem.
"""

import numpy as np

from synth.kernel.bits import pick
from synth.kernel.jit import jit
from synth.kernel.rng import below
from synth.problem.arrays import N_NEEDED, OPS, QUERY, SLOTS, ready


@jit
def operations(p, x):
    """Operations of parameter x: its operands less one, at least one (a product is two operands, a constant one)."""
    operands = 1 if p.constant[0, x] >= 0 else 0
    for t in range(p.n_terms[0, x]):
        operands += 2 if p.terms[0, x, t, 1] >= 0 else 1
    return max(1, operands - 1)


@jit
def resample_query(s, p):
    """Redraw the query of `p` (a batch of one), with `needed`, `topo` and the scalars that depend on it."""
    count = 0
    for x in range(SLOTS):
        count += p.exists[0, x]
    chosen, query = below(s, count), -1
    for x in range(SLOTS):
        if p.exists[0, x]:
            if chosen == 0:
                query = x
            chosen -= 1
    needed = p.needed[0]
    needed[:] = 0
    needed[query] = 1
    stack = np.zeros(SLOTS, dtype=np.int64)
    stack[0] = query
    left, n, ops = 1, 0, 0
    while left > 0:
        left -= 1
        x = stack[left]
        n += 1
        ops += operations(p, x)
        for t in range(p.n_terms[0, x]):
            for f in range(2):
                y = p.terms[0, x, t, f]
                if y >= 0 and not needed[y]:
                    needed[y] = 1
                    stack[left] = y
                    left += 1
    done = np.zeros(SLOTS, dtype=np.int64)
    free = np.zeros(SLOTS, dtype=np.int64)
    p.topo[0, :] = -1
    for i in range(n):
        for x in range(SLOTS):
            free[x] = 1 if needed[x] and not done[x] and ready(p.n_terms[0], p.terms[0], done, x) else 0
        x = pick(s, free)
        done[x] = 1
        p.topo[0, i] = x
    p.scalars[0, QUERY], p.scalars[0, OPS], p.scalars[0, N_NEEDED] = query, ops, n
