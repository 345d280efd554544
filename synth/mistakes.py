"""Inserted mistakes (`Define WRONG as BACK.`) and the exact law of how a solution goes on (Part 2.2, sections 2 and 4).

At the start of every solution sentence, with probability p, a wrong parameter is named and taken back; then again with
p, without replacement within one position. Which parameters are candidates:

    retry  cannot be computed now (something it depends on is not yet in the solution); needed or not
    weak   comes later in this solution, except the one about to be written
    miss   is not yet in the solution, except the one about to be written; computable or not
"""

import numpy as np

from synth import problem as P
from synth.jit import jit
from synth.problem import SLOTS, ready

RETRY, WEAK, MISS = range(3)
KINDS = ("retry", "weak", "miss")


@jit
def candidates(kind, p, done, excluded, coming, mask):
    """Write the mask of wrong candidates at this position; returns their number.

    `excluded` marks what was already tried at this position. `coming` is the slot written next, or -1 to leave it in,
    which is what the law needs.
    """
    count = 0
    for x in range(SLOTS):
        mask[x] = 0
        if not p.exists[0, x] or done[x] or excluded[x] or x == coming:
            continue
        if kind == RETRY:
            inside = not ready(p.n_terms[0], p.terms[0], done, x)
        elif kind == WEAK:
            inside = p.needed[0, x] > 0
        else:
            inside = True
        if inside:
            mask[x] = 1
            count += 1
    return count


@jit
def next_needed(p, done, mask):
    """Write the mask of needed parameters that are ready and not done; returns their number."""
    count = 0
    mask[:] = 0
    n_terms, terms = p.n_terms[0], p.terms[0]
    for i in range(p.scalars[0, P.N_NEEDED]):
        x = p.topo[0, i]
        if not done[x] and ready(n_terms, terms, done, x):
            mask[x] = 1
            count += 1
    return count


@jit
def branch_law(kind, rate, p, done, excluded, right, wrong):
    """P(next sentence defines x) in `right`, P(next sentence is a mistake naming x) in `wrong`; together they sum to 1.

    Exact for solutions whose order is redrawn step by step. For weak and miss the coming parameter is excluded from
    the candidates, so the law averages over it; given what was tried it stays uniform over the untried ready ones.
    """
    ready_mask = np.zeros(SLOTS, dtype=np.int64)
    n_ready = next_needed(p, done, ready_mask)
    if rate <= 0.0:
        for x in range(SLOTS):
            right[x] = 1.0 / n_ready if ready_mask[x] else 0.0
        wrong[:] = 0.0
        return
    open_mask = np.zeros(SLOTS, dtype=np.int64)
    n_open = candidates(kind, p, done, excluded, -1, open_mask)
    n_right = 0
    for x in range(SLOTS):
        if kind != RETRY and excluded[x]:
            ready_mask[x] = 0
        n_right += ready_mask[x]
    n_wrong = n_open if kind == RETRY else n_open - 1
    p_wrong = rate if n_wrong > 0 else 0.0
    for x in range(SLOTS):
        right[x] = (1.0 - p_wrong) / n_right if ready_mask[x] else 0.0
        wrong[x] = 0.0
        if open_mask[x] and p_wrong > 0.0:
            others = n_right - ready_mask[x] if kind != RETRY else n_right
            wrong[x] = p_wrong * others / n_right / n_wrong


@jit
def name_tokens(p, x):
    """(owner, thing) name tokens of slot x."""
    owner = p.items[0, P.LAYER[x] * 4 + P.OWNER[x]]
    if x < P.INSTANCES:
        return owner, p.items[0, (P.LAYER[x] + 1) * 4 + P.CHILD[x]]
    return owner, p.categories[0, P.TARGET[x]]


@jit
def name_law(p, law, owner, thing):
    """(P(owner token), P(thing token | owner), P(it is defined | both names)) for a law made by `branch_law`.

    `law` is float64[2, 72]: right and wrong probabilities.
    """
    with_owner, with_both, defined = 0.0, 0.0, 0.0
    for x in range(SLOTS):
        total = law[0, x] + law[1, x]
        if total > 0.0:
            a, b = name_tokens(p, x)
            if a == owner:
                with_owner += total
                if b == thing:
                    with_both += total
                    defined += law[0, x]
    return with_owner, with_both / with_owner, defined / with_both
