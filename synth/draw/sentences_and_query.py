"""What is done to a drawn graph of expressions: the order of its sentences, another query.

Sentence order (`perm_level` of the published code) also orders the operands of abstract sums.

`reask`, another question about a drawn problem (Part 2.1): the query is redrawn uniformly among all parameters of the
structure graph; what it needs, the operations and a random topological order of its ancestors follow. The caller
computes the split afterwards, from the new question: a template of the training split never is a test problem.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.kernel.rng import below, pick, shuffle
from synth.problem.arrays import INSTANCES, N_NEEDED, OPS, QUERY, SLOTS, ready
from synth.problem.clauses import clause_count


@jit
def order_sentences(s, level, p, count):
    """Sentence order by `perm_level`: 5 uniform; else a random topological order of the whole graph. With
    level 0..4 every place in it then gets a uniform 0..level added and the sentences are sorted (stably) by that; 6
    leaves the order; -1 draws one of the seven."""
    if level < 0:
        level = below(s, 7)
    sentences = p.sentences[0]
    n = 0
    if level == 5:
        for x in range(INSTANCES):
            if p.exists[0, x]:
                sentences[n] = x
                n += 1
        shuffle(s, sentences, n)
        return
    done = np.zeros(SLOTS, dtype=np.int64)
    free = np.zeros(SLOTS, dtype=np.int64)
    while n < count:
        for x in range(SLOTS):
            free[x] = 1 if p.exists[0, x] and not done[x] and ready(p.n_terms[0], p.terms[0], done, x) else 0
        x = pick(s, free)
        done[x] = 1
        if x < INSTANCES:
            sentences[n] = x
            n += 1
    if level == 6:
        return
    place = np.zeros(INSTANCES, dtype=np.int64)
    for i in range(n):
        place[i] = i + below(s, level + 1)
        x = sentences[i]
        u, at = i, place[i]
        while u > 0 and place[u - 1] > at:
            sentences[u], place[u] = sentences[u - 1], place[u - 1]
            u -= 1
        sentences[u], place[u] = x, at


@jit
def order_operands(p, count):
    """Abstract sums follow the order of their children's sentences, so that the visible text determines them."""
    rank = np.zeros(SLOTS, dtype=np.int64)
    for i in range(count):
        rank[p.sentences[0, i]] = i
    for x in range(INSTANCES, SLOTS):
        if p.exists[0, x]:
            for t in range(1, p.n_terms[0, x]):
                u = t
                while u > 0 and rank[p.terms[0, x, u, 0]] < rank[p.terms[0, x, u - 1, 0]]:
                    for f in range(2):
                        p.terms[0, x, u, f], p.terms[0, x, u - 1, f] = p.terms[0, x, u - 1, f], p.terms[0, x, u, f]
                    u -= 1


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
        ops += clause_count(x, p.n_terms[0], p.terms[0], p.constant_op[0])
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
