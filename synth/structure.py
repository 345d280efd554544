"""Structure graph and necessary parameters: steps A and B of the construction (Part 2.1, algorithms 1 to 3).

Kernels on the slot arrays of `synth.problem`; `s` is a generator state (`synth.hashing`). Where paper and published
code differ, the code's behaviour is followed, because it made the published numbers; each place says so.
"""

import math

import numpy as np

from synth.hashing import below, half_normal, uniform
from synth.jit import jit
from synth.problem import CHILD, INSTANCES, LAYER, OWNER, PAIR, SLOTS, TARGET


@jit
def pick(s, mask):
    """A uniformly random slot among those with mask > 0, or -1 when there is none."""
    count = 0
    for x in range(mask.shape[0]):
        if mask[x] > 0:
            count += 1
    if count == 0:
        return -1
    chosen = below(s, count)
    for x in range(mask.shape[0]):
        if mask[x] > 0:
            if chosen == 0:
                return x
            chosen -= 1
    return -1


@jit
def draw_structure(s, edges, depth, low, high, widths, exists):
    """Layer widths and edges (algorithm 1): writes `widths`, and `exists` for instance and abstract slots."""
    widths[:] = 0
    widths[:depth] = low
    grow_more = uniform(s)
    while True:
        fewest, most = 0, 0
        for i in range(1, depth):
            fewest += widths[i]
            most += widths[i - 1] * widths[i]
        if most >= edges and (fewest == edges or uniform(s) >= grow_more):
            break
        room = np.zeros(4, dtype=np.int64)
        for i in range(depth):
            if widths[i] < high:
                room[i] = 1
        layer = pick(s, room)
        if layer < 0:
            break
        widths[layer] += 1
    exists[:] = 0
    count = 0
    for i in range(1, depth):
        for k in range(widths[i]):
            exists[(i - 1) * 16 + below(s, widths[i - 1]) * 4 + k] = 1
            count += 1
    absent = np.zeros(SLOTS, dtype=np.int64)
    for x in range(INSTANCES):
        i = LAYER[x]
        if i + 1 < depth and OWNER[x] < widths[i] and CHILD[x] < widths[i + 1] and exists[x] == 0:
            absent[x] = 1
    while count < edges:
        x = pick(s, absent)
        if x < 0:
            break
        absent[x] = 0
        exists[x] = 1
        count += 1
    for x in range(INSTANCES, SLOTS):
        if TARGET[x] < depth and OWNER[x] < widths[LAYER[x]]:
            exists[x] = 1


@jit
def children(exists, layer, owner):
    """Number of items that item `owner` of `layer` has one layer below."""
    count = 0
    for k in range(4):
        count += exists[layer * 16 + owner * 4 + k]
    return count


@jit
def abstract_ops(exists, x):
    """Operations of abstract slot x: products and sums over its children, at least one."""
    c = children(exists, LAYER[x], OWNER[x])
    if TARGET[x] > LAYER[x] + 1:
        c = 2 * c
    return max(1, c - 1)


@jit
def close(exists, x, chosen):
    """Add abstract slot x and all it recursively needs to the mask `chosen`; returns the operations this adds."""
    target = TARGET[x]
    reached = np.zeros(16, dtype=np.int64)
    reached[LAYER[x] * 4 + OWNER[x]] = 1
    added = 0
    for i in range(LAYER[x], target):
        for j in range(4):
            if reached[i * 4 + j] == 0:
                continue
            a = INSTANCES + PAIR[i, target] * 4 + j
            if chosen[a] == 0:
                chosen[a] = 1
                added += abstract_ops(exists, a)
            for k in range(4):
                instance = i * 16 + j * 4 + k
                if exists[instance] == 0:
                    continue
                if chosen[instance] == 0:
                    chosen[instance] = 1
                    added += 1
                if i + 1 < target:
                    reached[(i + 1) * 4 + k] = 1
    return added


@jit
def draw_needed(s, exists, depth, n, m, needed):
    """Step A: abstract parameters, hardest level first, up to n operations; then instances up to m. Returns the ops."""
    needed[:] = 0
    total = 0
    trial = np.zeros(SLOTS, dtype=np.int64)
    level = depth - 1
    while level >= 1:
        candidates = np.zeros(SLOTS, dtype=np.int64)
        for x in range(INSTANCES, SLOTS):
            if exists[x] and needed[x] == 0 and TARGET[x] - LAYER[x] == level:
                candidates[x] = 1
        x = pick(s, candidates)
        if x < 0:
            level -= 1
            continue
        trial[:] = needed
        added = close(exists, x, trial)
        if total + added <= n:
            needed[:] = trial
            total += added
            level = depth - 1
        else:
            level -= 1
    while total < m:
        candidates = np.zeros(SLOTS, dtype=np.int64)
        for x in range(INSTANCES):
            if exists[x] and needed[x] == 0:
                candidates[x] = 1
        x = pick(s, candidates)
        if x < 0:
            break
        needed[x] = 1
        total += 1
    return total


@jit
def biased_pick(s, mask, into_topo, g):
    """Slot with mask > 0, P proportional to exp(g * ([abstract] + [no placed parameter depends on it yet])).

    The second indicator follows the published code; the paper states its opposite.
    """
    total = 0.0
    for x in range(SLOTS):
        if mask[x] > 0:
            total += math.exp(g * ((1 if x >= INSTANCES else 0) + (1 if into_topo[x] == 0 else 0)))
    chosen = uniform(s) * total
    last = -1
    for x in range(SLOTS):
        if mask[x] > 0:
            last = x
            chosen -= math.exp(g * ((1 if x >= INSTANCES else 0) + (1 if into_topo[x] == 0 else 0)))
            if chosen < 0.0:
                return x
    return last


@jit
def draw_order(s, needed, n_terms, terms, topo, inward):
    """Step B (algorithm 3): place the needed slots backwards from the query, adding edges where the walk would stop.

    Writes `topo` (query last) and `inward[x]` = the slot that instance x must depend on, or -1. Returns the number of
    slots, or -1 when the walk failed (the caller redraws the structure).
    """
    p0 = uniform(s)
    g = half_normal(s)
    inward[:] = -1
    unplaced = needed.copy()
    waiting = np.zeros(SLOTS, dtype=np.int64)  # how many unplaced slots depend on this one
    into_topo = np.zeros(SLOTS, dtype=np.int64)  # how many placed slots depend on this one
    count = 0
    for x in range(SLOTS):
        if needed[x]:
            count += 1
            for t in range(n_terms[x]):
                for f in range(2):
                    if terms[x, t, f] >= 0:
                        waiting[terms[x, t, f]] += 1
    free = np.zeros(SLOTS, dtype=np.int64)
    for x in range(SLOTS):
        free[x] = 1 if unplaced[x] and waiting[x] == 0 else 0
    x = pick(s, free)
    position = count
    while True:
        position -= 1
        topo[position] = x
        unplaced[x] = 0
        if position == 0:
            return count
        for t in range(n_terms[x]):
            for f in range(2):
                y = terms[x, t, f]
                if y >= 0:
                    waiting[y] -= 1
                    into_topo[y] += 1
        both = np.zeros(SLOTS, dtype=np.int64)
        stuck = True
        for y in range(SLOTS):
            free[y] = 1 if unplaced[y] and waiting[y] == 0 else 0
            if free[y] and into_topo[y] > 0:
                both[y] = 1
                stuck = False
        y = -1
        if stuck:
            if x >= INSTANCES:
                return -1
            y = biased_pick(s, free, into_topo, g)
        elif x < INSTANCES and uniform(s) < p0:
            y = biased_pick(s, unplaced, into_topo, g)
        if y >= 0:
            inward[x] = y
            into_topo[y] += 1
            if free[y]:
                both[y] = 1
        x = pick(s, both)
