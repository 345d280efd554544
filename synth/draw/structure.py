"""The structure graph: layers of items, and which item has which (algorithm 1 of Part 2.1); abstract parameters.

Kernels on the slot arrays of `synth.problem.arrays`; `s` is a generator (`synth.kernel.rng`). A set of slots is two
words: bit x of the first is instance slot x, bit a of the second abstract slot 48 + a.
"""

from synth.kernel.bits import pick_bit
from synth.kernel.jit import jit
from synth.kernel.rng import below, uniform
from synth.problem.arrays import INSTANCES, LAYER, OWNER, PAIR, SLOTS, TARGET

ABSTRACTS = SLOTS - INSTANCES


@jit
def draw_structure(s, edges, depth, low, high, widths, exists):
    """Layer widths and edges (algorithm 1): writes `widths`, and `exists` for instance and abstract slots.

    Returns the same set as words (instances, abstracts).
    """
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
    """What every abstract slot needs, itself included, as words; and its operations in `ops` (72 slots).

    Operations are the products and sums over the children, at least one.
    """
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
