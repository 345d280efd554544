"""The order of a problem's sentences, and with it the order of the operands of abstract sums."""

import numpy as np

from synth.kernel.bits import pick
from synth.kernel.jit import jit
from synth.kernel.rng import below, shuffle
from synth.problem.arrays import INSTANCES, SLOTS, ready


@jit
def order_sentences(s, level, p, count):
    """Sentence order by `perm_level` (section 1.8): 5 uniform; else a random topological order of the whole graph.

    With level 0..4 every place in it then gets a uniform 0..level added and the sentences are sorted (stably) by that;
    6 leaves the order; -1 draws one of the seven.
    """
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
                        kept = p.terms[0, x, u, f]
                        p.terms[0, x, u, f] = p.terms[0, x, u - 1, f]
                        p.terms[0, x, u - 1, f] = kept
                    u -= 1
