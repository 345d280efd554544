"""What is done to a drawn graph of expressions: the order of its sentences, another query, a missing premise.

Sentence order (`perm_level` of the published code) also orders the operands of abstract sums.

`reask`, another question about a drawn problem (Part 2.1): the query is redrawn uniformly among all parameters of the
structure graph; what it needs, the operations and a random topological order of its ancestors follow. The caller
computes the split afterwards, from the new question: a template of the training split never is a test problem.

A missing premise (2504.06514) is the sentence of a needed parameter, taken out. What rests on it has no value any more,
and the right answer is that it is undetermined.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.kernel.rng import below, pick, shuffle
from synth.problem.arrays import INSTANCES, MISSING, N_NEEDED, N_SENTENCES, OPS, QUERY, SLOTS, ready
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
    """What of an incomplete problem can still be derived: forget all other values, and keep of the needed parameters
    those that can and that the query still depends on."""
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
