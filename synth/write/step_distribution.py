"""The exact distribution of the next sentence of a solution: which parameter comes next, rightly or as a mistake.

The next parameter is uniform over those that are needed and ready; a mistake comes before it with probability p and
names one of its candidates, without replacement within one position (Part 2.2, section 2):

    retry  cannot be computed now (something it depends on is not yet in the solution); needed or not
    weak   is needed and comes later in this solution, except the one about to be written
    miss   is not yet in the solution, except the one about to be written; computable or not
    slip   (ours) has no candidates: the result of a step is wrong instead (`synth.write.mistakes`)

The writer logs its own probabilities with these functions and the oracle (`synth.oracle`) answers with them.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.problem.arrays import N_NEEDED, SLOTS, name_tokens, ready
from synth.problem.clauses import clause_count

RETRY, WEAK, MISS, SLIP = range(4)
KINDS = ("retry", "weak", "miss", "slip")


@jit
def candidates(kind, p, done, excluded, coming, mask):
    """Write the mask of wrong candidates at this position; returns their number.

    `excluded` marks what was already tried at this position. `coming` is the slot written next, or -1 to leave it in,
    as the distribution needs it.
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
    for i in range(p.scalars[0, N_NEEDED]):
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
def next_sentence_probs(kind, rate, p, done, excluded, right, wrong, letters=0):
    """P(next sentence defines x) in `right`, P(next sentence is a mistake naming x) in `wrong`; together they sum to 1.

    Exact for solutions whose order is redrawn step by step; both are 0 when nothing is ready. `letters` as in
    `next_needed`. Candidates exclude the coming parameter, so the distribution averages over it. Given what was tried,
    it is uniform over the untried ready ones, unless (weak, not the shortest) only some of them are candidates: these
    leave fewer to choose from, and so are likelier by |candidates| / |untried candidates|.
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
def name_probs(p, probs, owner, thing):
    """(P(owner token), P(thing token | owner), P(the parameter is defined | both names)).

    probs: float64[2, 72], what `next_sentence_probs` wrote to `right` and `wrong`.
    """
    with_owner, with_both, defined = 0.0, 0.0, 0.0
    for x in range(SLOTS):
        total = probs[0, x] + probs[1, x]
        if total > 0.0:
            a, b = name_tokens(p, x)
            if a == owner:
                with_owner += total
                if b == thing:
                    with_both += total
                    defined += probs[0, x]
    return with_owner, with_both / with_owner, defined / with_both
