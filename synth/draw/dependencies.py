"""The dependency graph: which parameters the query needs and in which order (steps A and B, algorithms 2 and 3).

Kernels on the slot arrays of `synth.problem.arrays`; `s` is a generator (`synth.kernel.rng`). A set of slots is two
words of bits, as in `synth.draw.structure`. Where paper and published code differ, the code's behaviour is followed,
because it made the published numbers; each place says so.
"""

import math

import numpy as np

from synth.draw.structure import ABSTRACTS
from synth.kernel.bits import count_bits, lowest, pick_bit
from synth.kernel.jit import jit
from synth.kernel.rng import below, half_normal, uniform
from synth.problem.arrays import INSTANCES, LAYER, SLOTS, TARGET

LEVELS = np.zeros(4, dtype=np.int64)  # word of the abstract slots of each level, TARGET - LAYER
for _a in range(ABSTRACTS):
    LEVELS[TARGET[INSTANCES + _a] - LAYER[INSTANCES + _a]] |= 1 << _a


@jit
def pick_slot(s, instances, abstracts):
    """A uniformly random slot of a set, or -1 when it is empty."""
    count = count_bits(instances)
    total = count + count_bits(abstracts)
    if total == 0:
        return -1
    chosen = below(s, total)
    offset, word = 0, instances
    if chosen >= count:
        offset, word, chosen = INSTANCES, abstracts, chosen - count
    for _ in range(chosen):
        word &= word - 1
    return offset + lowest(word)


@jit
def _added(a, ops, below_instances, below_abstracts, instances, abstracts):
    """Operations that abstract slot 48 + a and what it needs add to those of a set."""
    total = count_bits(below_instances[a] & ~instances)
    rest = below_abstracts[a] & ~abstracts
    while rest:
        total += ops[INSTANCES + lowest(rest)]
        rest &= rest - 1
    return total


@jit
def draw_needed(s, existing, there, ops, below_instances, below_abstracts, depth, n, m):
    """Step A: abstract parameters up to n operations; then instances up to m.

    Of one random abstract parameter of each level, easiest level first, the hardest that fits is added, until the
    easiest level left does not fit: the published code. The paper tries the hardest level first, which gives a
    childless parameter (one operation, always 0) one chance for each level: at one operation it is then asked for in
    16% of med problems, against the published 8%.

    `existing`, `there`: the structure's instances and abstracts. Returns (operations, instances, abstracts).
    """
    instances, abstracts, total = 0, 0, 0
    while True:
        best, most = -1, 0
        for level in range(1, depth):
            a = pick_bit(s, there & LEVELS[level] & ~abstracts)
            if a < 0:
                continue
            added = _added(a, ops, below_instances, below_abstracts, instances, abstracts)
            if total + added > n:
                break
            best, most = a, added
        if best < 0:
            break
        instances |= below_instances[best]
        abstracts |= below_abstracts[best]
        total += most
    while total < m:
        x = pick_bit(s, existing & ~instances)
        if x < 0:
            break
        instances |= 1 << x
        total += 1
    return total, instances, abstracts


@jit
def biased_pick(s, instances, abstracts, into_instances, into_abstracts, g):
    """Slot of a set, P proportional to exp(g * ([abstract] + [no placed parameter depends on it yet])).

    The second indicator follows the published code; the paper states its opposite.
    """
    one, two = math.exp(g), math.exp(g * 2)
    total = 0.0
    for draw in range(2):
        chosen = uniform(s) * total if draw else 0.0
        last = -1
        for abstract in range(2):
            word, into = (abstracts, into_abstracts) if abstract else (instances, into_instances)
            while word:
                bit = word & -word
                word ^= bit
                weight = (one if into & bit else two) if abstract else (1.0 if into & bit else one)
                if not draw:
                    total += weight
                    continue
                last = count_bits(bit - 1) + INSTANCES * abstract
                chosen -= weight
                if chosen < 0.0:
                    return last
    return last


@jit
def draw_order(s, needed_instances, needed_abstracts, n_terms, terms, topo, inward, waiting):
    """Step B (algorithm 3): place the needed slots backwards from the query, adding edges where the walk would stop.

    Writes `topo` (query last) and `inward[x]` = the slot that instance x must depend on, or -1; `waiting` is scratch
    (72). Returns the number of slots, or -1 when the walk failed (the caller redraws the structure).
    """
    p0 = uniform(s)
    g = half_normal(s)
    inward[:] = -1
    waiting[:] = 0  # how many unplaced slots depend on this one
    left_instances, left_abstracts = needed_instances, needed_abstracts  # not yet placed
    free_instances, free_abstracts = needed_instances, needed_abstracts  # of these, no other one depends on it
    into_instances, into_abstracts = 0, 0  # some placed slot depends on it
    for x in range(INSTANCES, SLOTS):
        if (needed_abstracts >> (x - INSTANCES)) & 1:
            for t in range(n_terms[x]):
                y, z = int(terms[x, t, 0]), int(terms[x, t, 1])
                waiting[y] += 1
                free_instances &= ~(1 << y)
                if z >= 0:
                    waiting[z] += 1
                    free_abstracts &= ~(1 << (z - INSTANCES))
    count = position = count_bits(needed_instances) + count_bits(needed_abstracts)
    x = pick_slot(s, free_instances, free_abstracts)
    while True:
        position -= 1
        topo[position] = x
        if position == 0:
            return count
        if x < INSTANCES:
            left_instances &= ~(1 << x)
            free_instances &= ~(1 << x)
        else:
            left_abstracts &= ~(1 << (x - INSTANCES))
            free_abstracts &= ~(1 << (x - INSTANCES))
            for t in range(n_terms[x]):
                y, z = int(terms[x, t, 0]), int(terms[x, t, 1])
                waiting[y] -= 1
                into_instances |= 1 << y
                if waiting[y] == 0:
                    free_instances |= 1 << y
                if z >= 0:
                    waiting[z] -= 1
                    into_abstracts |= 1 << (z - INSTANCES)
                    if waiting[z] == 0:
                        free_abstracts |= 1 << (z - INSTANCES)
        y = -1
        if free_instances & into_instances == 0 and free_abstracts & into_abstracts == 0:
            if x >= INSTANCES:
                return -1
            y = biased_pick(s, free_instances, free_abstracts, into_instances, into_abstracts, g)
        elif x < INSTANCES and uniform(s) < p0:
            y = biased_pick(s, left_instances, left_abstracts, into_instances, into_abstracts, g)
        if y >= 0:
            inward[x] = y
            if y < INSTANCES:
                into_instances |= 1 << y
            else:
                into_abstracts |= 1 << (y - INSTANCES)
        x = pick_slot(s, free_instances & into_instances, free_abstracts & into_abstracts)
