"""Mistakes, missing premises, and the exact law of how a solution goes on (Part 2.2, sections 2 and 4; 2504.06514).

At the start of every solution sentence, with probability p, a wrong parameter is named and taken back (`Define WRONG as
BACK.`); then again with p, without replacement within one position. Which parameters are candidates:

    retry  cannot be computed now (something it depends on is not yet in the solution); needed or not
    weak   is needed and comes later in this solution, except the one about to be written
    miss   is not yet in the solution, except the one about to be written; computable or not

With `slip` (ours) no wrong parameter is named; instead the last number of a step is wrong with probability p, uniform
over the others. The step is then taken back (`... so k = 3 + 4 = 2 BACK.`) and the next one drawn afresh, or it stands.
"""

import numpy as np

from synth.draw.structure import pick
from synth.kernel.jit import jit
from synth.problem import arrays as P
from synth.problem.arrays import INSTANCES, SLOTS, ready
from synth.problem.clauses import clause_count

RETRY, WEAK, MISS, SLIP = range(4)
KINDS = ("retry", "weak", "miss", "slip")


@jit
def candidates(kind, p, done, excluded, coming, mask):
    """Write the mask of wrong candidates at this position; returns their number.

    `excluded` marks what was already tried at this position. `coming` is the slot written next, or -1 to leave it in,
    which is what the law needs.
    """
    count = 0
    for x in range(SLOTS):
        mask[x] = 0
        if kind == SLIP or not p.exists[0, x] or done[x] or excluded[x] or x == coming:
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
def next_needed(p, done, mask, letters=0):
    """Write the mask of needed parameters that are ready and not done; returns their number.

    With `letters`, the number of the world's, every ready parameter is in the mask as long as the letters suffice for
    it and all that is needed (a solution that is not the shortest).
    """
    mask[:] = 0
    n_terms, terms, constant_op = p.n_terms[0], p.terms[0], p.constant_op[0]
    count, spare = 0, letters
    for i in range(p.scalars[0, P.N_NEEDED]):
        x = p.topo[0, i]
        if not done[x] and ready(n_terms, terms, done, x):
            mask[x] = 1
            count += 1
    if letters == 0:
        return count
    for x in range(SLOTS):
        if done[x] or p.needed[0, x]:
            spare -= clause_count(x, n_terms, terms, constant_op)
    for x in range(SLOTS):
        if not p.exists[0, x] or done[x] or p.needed[0, x] or not ready(n_terms, terms, done, x):
            continue
        if clause_count(x, n_terms, terms, constant_op) <= spare:
            mask[x] = 1
            count += 1
    return count


@jit
def branch_law(kind, rate, p, done, excluded, right, wrong, letters=0):
    """P(next sentence defines x) in `right`, P(next sentence is a mistake naming x) in `wrong`; together they sum to 1.

    Exact for solutions whose order is redrawn step by step; both are 0 when nothing is ready. `letters` as in
    `next_needed`. Candidates exclude the coming parameter, so the law averages over it. Given what was tried, it is
    uniform over the untried ready ones, unless (weak, not the shortest) only some of them are candidates: these leave
    fewer to choose from, and so are likelier by |candidates| / |untried candidates|.
    """
    ready_mask = np.zeros(SLOTS, dtype=np.int64)
    n_ready = next_needed(p, done, ready_mask, letters)
    n_tried = 0
    for x in range(SLOTS):
        if excluded[x]:
            ready_mask[x] = 0
            n_tried += 1
    if rate <= 0.0 and n_tried == 0:
        for x in range(SLOTS):
            right[x] = 1.0 / n_ready if ready_mask[x] else 0.0
        wrong[:] = 0.0
        return
    open_mask = np.zeros(SLOTS, dtype=np.int64)
    n_open = candidates(kind, p, done, excluded, -1, open_mask)
    n_in, n_out = 0, 0  # ready ones that are candidates themselves, ready ones that are not
    for x in range(SLOTS):
        right[x], wrong[x] = 0.0, 0.0
        if ready_mask[x] and open_mask[x]:
            n_in += 1
        elif ready_mask[x]:
            n_out += 1
    if n_in + n_out == 0:
        return
    weight = (n_open + n_tried) / n_open if n_in > 0 and n_out > 0 else 1.0
    total = n_out + weight * n_in
    p_in = rate if n_open > 1 else 0.0
    p_out = rate if n_open > 0 else 0.0
    for x in range(SLOTS):
        if ready_mask[x]:
            right[x] = weight * (1.0 - p_in) / total if open_mask[x] else (1.0 - p_out) / total
        if open_mask[x]:
            if n_open > 1:
                wrong[x] = p_in * (n_in - ready_mask[x]) * weight / total / (n_open - 1)
            wrong[x] += p_out * n_out / total / n_open


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


@jit
def drop_premise(s, p):
    """Take the sentence of one needed given out of a complete problem (a batch of one).

    It is uniform over the needed instances that the sentence of another needed one names, so the text shows that they
    exist; when there is none, the query itself if it is an instance. A problem that has neither stays complete.
    """
    named = np.zeros(SLOTS, dtype=np.int64)
    terms, n_terms, query = p.terms[0], p.n_terms[0], p.scalars[0, P.QUERY]
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
    for i in range(p.scalars[0, P.N_SENTENCES]):
        x = p.sentences[0, i]
        p.sentences[0, i] = -1
        if x != missing:
            p.sentences[0, kept] = x
            kept += 1
    p.scalars[0, P.N_SENTENCES] = kept
    p.scalars[0, P.MISSING] = missing
    p.constant[0, missing], p.constant_op[0, missing], p.combine[0, missing] = -1, 0, 0
    terms[missing] = -1
    n_terms[missing], terms[missing, 0, 0] = 1, missing
    _derive(p)


@jit
def _derive(p):
    """What of an incomplete problem can still be derived: forget all other values, and keep of the needed parameters
    those that can and that the query still depends on."""
    known = np.zeros(SLOTS, dtype=np.int64)
    progress = True
    while progress:
        progress = False
        for x in range(SLOTS):
            if p.exists[0, x] and not known[x] and ready(p.n_terms[0], p.terms[0], known, x):
                known[x], progress = 1, True
    reached = np.zeros(SLOTS, dtype=np.int64)
    reached[p.scalars[0, P.QUERY]] = 1
    count = p.scalars[0, P.N_NEEDED]
    for i in range(count - 1, -1, -1):
        x = p.topo[0, i]
        for t in range(p.n_terms[0, x]):
            for f in range(2):
                if reached[x] and p.terms[0, x, t, f] >= 0:
                    reached[p.terms[0, x, t, f]] = 1
    for x in range(SLOTS):
        if not known[x]:
            p.value[0, x] = -1
        if not known[x] or not reached[x]:
            p.needed[0, x] = 0
    n, ops = 0, 0
    for i in range(count):
        x = p.topo[0, i]
        p.topo[0, i] = -1
        if p.needed[0, x]:
            p.topo[0, n] = x
            n += 1
            ops += clause_count(x, p.n_terms[0], p.terms[0], p.constant_op[0])
    p.scalars[0, P.N_NEEDED], p.scalars[0, P.OPS] = n, ops
