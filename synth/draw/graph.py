"""The two graphs of a problem (Part 2.1, algorithms 1 to 3).

The structure graph says which items there are and which item has which others (algorithm 1). Then the
parameters that the query needs are chosen (step A, algorithm 2) and put in an order (step B, algorithm 3).

Kernels on the slot arrays of `synth.problem.arrays`; `s` is a generator (`synth.kernel.rng`). A set of slots is two
integers: bit x of the first is instance slot x, bit a of the second abstract slot 48 + a. Where paper and published
code differ, this follows the code, which made the published numbers; each place says so.
"""

import math

import numpy as np

from synth.kernel.jit import jit
from synth.kernel.rng import below, count_bits, half_normal, lowest, pick_bit, uniform
from synth.problem.arrays import INSTANCES, LAYER, OWNER, PAIR, SLOTS, TARGET

ABSTRACTS = SLOTS - INSTANCES

LEVELS = np.zeros(4, dtype=np.int64)  # word of the abstract slots of each level, TARGET - LAYER
for _a in range(ABSTRACTS):
    LEVELS[TARGET[INSTANCES + _a] - LAYER[INSTANCES + _a]] |= 1 << _a


@jit
def draw_structure(s, edges, depth, low, high, widths, exists):
    """Layer widths and edges (algorithm 1): writes `widths`, and `exists` for instance and abstract slots. Returns the
    same set as words (instances, abstracts)."""
    widths[:] = 0
    widths[:depth] = low
    grow_more = uniform(s)
    while True:
        fewest, most, room = 0, 0, 1 if widths[0] < high else 0
        for i in range(1, depth):
            fewest += widths[i]
            most += widths[i - 1] * widths[i]
            if widths[i] < high:
                room |= 1 << i
        if most >= edges and (fewest == edges or uniform(s) >= grow_more):
            break
        layer = pick_bit(s, room)
        if layer < 0:
            break
        widths[layer] += 1
    word, absent, count = 0, 0, 0
    for i in range(1, depth):
        for k in range(widths[i]):
            word |= 1 << ((i - 1) * 16 + below(s, widths[i - 1]) * 4 + k)
            count += 1
        for j in range(widths[i - 1]):
            absent |= ((1 << int(widths[i])) - 1) << ((i - 1) * 16 + j * 4)
    absent &= ~word
    while count < edges:
        x = pick_bit(s, absent)
        if x < 0:
            break
        absent ^= 1 << x
        word |= 1 << x
        count += 1
    abstracts = 0
    for i in range(depth - 1):
        for target in range(i + 1, depth):
            abstracts |= ((1 << int(widths[i])) - 1) << (PAIR[i, target] * 4)
    for x in range(INSTANCES):
        exists[x] = (word >> x) & 1
    for a in range(ABSTRACTS):
        exists[INSTANCES + a] = (abstracts >> a) & 1
    return word, abstracts


@jit
def reach(instances, widths, depth, ops, below_instances, below_abstracts):
    """What every abstract slot needs, itself included, as words; and its operations in `ops` (72 slots). Operations are
    the products and sums over the children, at least one."""
    for target in range(1, depth):
        for i in range(target - 1, -1, -1):
            for j in range(widths[i]):
                a = PAIR[i, target] * 4 + j
                down = (instances >> (i * 16 + j * 4)) & 15
                all_instances, all_abstracts, count = down << (i * 16 + j * 4), 1 << a, 0
                for k in range(4):
                    if (down >> k) & 1:
                        count += 1
                        if target > i + 1:
                            child = PAIR[i + 1, target] * 4 + k
                            all_instances |= below_instances[child]
                            all_abstracts |= below_abstracts[child]
                below_instances[a], below_abstracts[a] = all_instances, all_abstracts
                ops[INSTANCES + a] = max(1, (2 * count if target > i + 1 else count) - 1)


@jit
def write_abstract_terms(exists, x, n_terms, terms):
    """Write the terms of abstract slot x, children in item order; level one: instances, above: instance * abstract."""
    i, j, target = LAYER[x], OWNER[x], TARGET[x]
    n = 0
    for k in range(4):
        if exists[i * 16 + j * 4 + k]:
            terms[x, n, 0] = i * 16 + j * 4 + k
            terms[x, n, 1] = INSTANCES + PAIR[i + 1, target] * 4 + k if target > i + 1 else -1
            n += 1
    n_terms[x] = n


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
    16% of med problems, against the published 8%. `existing`, `there`: the structure's instances and abstracts. Returns
    (operations, instances, abstracts).
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
    """Slot of a set, P proportional to exp(g * ([abstract] + [no placed parameter depends on it yet])). The second
    indicator follows the published code; the paper states its opposite."""
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
    (72). Returns the number of slots, or -1 when the walk failed (the caller redraws the structure)."""
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
