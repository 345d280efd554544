"""The value of every parameter of a problem, and so its answer (modular arithmetic, spec section 1)."""

import numpy as np

from synth.kernel.jit import jit
from synth.problem.arrays import DIFFERENCE, MULTIPLY, N_NEEDED, SLOTS, ready


@jit
def evaluate(p, modulus):
    """Values of all parameters, in dependency order (every parameter is computable: the graph has no cycle)."""
    done = np.zeros(SLOTS, dtype=np.int64)
    waiting = np.zeros(SLOTS, dtype=np.int64)
    for i in range(p.scalars[0, N_NEEDED]):
        x = int(p.topo[0, i])
        p.value[0, x] = _value(p, x, modulus)
        done[x] = 1
    left = 0
    for x in range(SLOTS):
        if p.exists[0, x] and not done[x]:
            waiting[left] = x
            left += 1
    while left > 0:
        again = 0
        for i in range(left):
            x = waiting[i]
            if ready(p.n_terms[0], p.terms[0], done, x):
                p.value[0, x] = _value(p, x, modulus)
                done[x] = 1
            else:
                waiting[again] = x
                again += 1
        left = again


@jit
def _value(p, x, modulus):
    """Value of slot x from those of its dependencies."""
    total = 0
    for t in range(p.n_terms[0, x]):
        v = int(p.value[0, p.terms[0, x, t, 0]])
        if p.terms[0, x, t, 1] >= 0:
            v = v * int(p.value[0, p.terms[0, x, t, 1]])
        total = total - v if p.combine[0, x] == DIFFERENCE and t == 1 else total + v
    constant = int(p.constant[0, x])
    if p.constant_op[0, x] == MULTIPLY:
        total = total * constant
    elif constant >= 0:
        total = total + constant
    return total % modulus
