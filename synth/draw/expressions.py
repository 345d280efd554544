"""The expression of every instance parameter (steps C and D: Part 2.1, algorithms 4 and 5), and all values.

Kernels on the slot arrays of `synth.problem.arrays` and the words of slots of `synth.draw.graph`. Where paper and
published code differ, the code's behaviour is followed; each place says so.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.kernel.rng import below, lowest, pick_bit, shuffle, uniform
from synth.problem.arrays import ADD, DIFFERENCE, INSTANCES, MULTIPLY, N_NEEDED, SLOTS, SUM, ready


@jit
def draw_counts(s, topo, count, wanted, ops, place):
    """Step C, first half: operations per instance until the total is `wanted`; False when no instance has room. `place`
    is scratch (72)."""
    total = 0
    for i in range(count):
        total += ops[topo[i]]
    room = 0
    for i in range(count):
        if topo[i] < INSTANCES and ops[topo[i]] < min(3, max(1, i)):
            room |= 1 << int(topo[i])
        place[topo[i]] = i
    while total < wanted:
        x = pick_bit(s, room)
        if x < 0:
            return False
        ops[x] += 1
        total += 1
        if ops[x] >= min(3, max(1, place[x])):
            room ^= 1 << x
    return total == wanted


@jit
def _write_expression(s, x, chosen, n, random_number, modulus, withheld, p):
    """Give instance x the terms chosen[:n], and a constant if `random_number` (section 1.6: kinds and ranges). Bits of
    `withheld`: differences, products. Their random numbers are drawn all the same, so everything else stays as it
    was."""
    shuffle(s, chosen, n)  # operand order is random (paper; the published code keeps insertion order)
    p.n_terms[0, x] = n
    for t in range(n):
        p.terms[0, x, t, 0] = chosen[t]
        p.terms[0, x, t, 1] = -1
    p.combine[0, x] = 0
    if n == 2:
        p.combine[0, x] = SUM if uniform(s) < 0.5 or withheld & 1 else DIFFERENCE
    elif n > 2:
        p.combine[0, x] = SUM
    p.constant[0, x] = -1
    p.constant_op[0, x] = 0
    if random_number:
        if n == 0:
            p.constant[0, x] = below(s, modulus)
        elif uniform(s) < 0.5 or withheld & 2:
            p.constant_op[0, x] = ADD
            p.constant[0, x] = below(s, modulus)
        else:
            p.constant_op[0, x] = MULTIPLY
            p.constant[0, x] = 1 + below(s, modulus - 1)


@jit
def draw_needed_expressions(s, topo, count, ops, inward, modulus, withheld, p):
    """Step C, second half (algorithm 4): dependencies of every needed instance, from those placed before it."""
    pool = np.zeros(SLOTS, dtype=np.int64)
    chosen = np.zeros(SLOTS, dtype=np.int64)
    for i in range(count):
        x = topo[i]
        if x >= INSTANCES:
            continue
        size = i  # pool without the random number
        pool[:size] = topo[:size]
        k = 1 + below(s, 2) if ops[x] == 1 else ops[x] + 1
        k = min(k, size + 1, 4)
        n, number = 0, False
        if k == size + 1:
            chosen[:size] = pool[:size]
            n, number = size, True
        else:
            if inward[x] >= 0:
                chosen[0] = inward[x]
                n, k = 1, k - 1
                for t in range(size):
                    if pool[t] == inward[x]:
                        pool[t] = pool[size - 1]
                        break
                size -= 1
            random_in_pool = True
            if k > 0 and uniform(s) < 0.5:
                number, random_in_pool, k = True, False, k - 1
            while k > 0:  # the random number stays in the pool when the coin failed (published code)
                t = below(s, size + (1 if random_in_pool else 0))
                if t == size:
                    number, random_in_pool = True, False
                else:
                    chosen[n] = pool[t]
                    n += 1
                    pool[t] = pool[size - 1]
                    size -= 1
                k -= 1
        _write_expression(s, x, chosen, n, number, modulus, withheld, p)


@jit
def draw_unneeded(s, existing, there, below_instances, placed, modulus, withheld, p):
    """Step D (algorithm 5): sentences for the instances that the query does not need. Words of slots: `existing`,
    `there` the structure's instances and abstracts; `placed` the needed instances."""
    independent = 0
    pool = np.zeros(SLOTS, dtype=np.int64)
    absent = existing & ~placed
    while True:
        x = pick_bit(s, absent)
        if x < 0:
            return
        absent ^= 1 << x
        size = 0
        alone = uniform(s) < 0.5
        word = independent if alone else placed
        while word:
            pool[size] = lowest(word)
            word &= word - 1
            size += 1
        word = 0 if alone else there
        while word:  # abstract slots that placed parameters alone determine
            a = lowest(word)
            word &= word - 1
            if below_instances[a] & ~placed == 0:
                pool[size] = INSTANCES + a
                size += 1
        k = 1
        while k < min(4, size + 1) and uniform(s) < 0.5:
            k += 1
        number = k == size + 1 or uniform(s) < 0.5
        n = k - 1 if number else k
        for t in range(n):
            other = t + below(s, size - t)
            pool[t], pool[other] = pool[other], pool[t]
        _write_expression(s, x, pool, n, number, modulus, withheld, p)
        placed |= 1 << x
        if alone:
            independent |= 1 << x


@jit
def evaluate(p, modulus):
    """Values of all parameters, in dependency order (every parameter is computable: the graph has no cycle)."""
    done = np.zeros(SLOTS, dtype=np.int64)
    waiting = np.zeros(SLOTS, dtype=np.int64)
    for i in range(p.scalars[0, N_NEEDED]):
        x = int(p.topo[0, i])
        p.value[0, x] = _value(p, x, modulus)
        done[x] = 1
    left = 0
    for x in range(SLOTS):
        if p.exists[0, x] and not done[x]:
            waiting[left] = x
            left += 1
    while left > 0:
        again = 0
        for i in range(left):
            x = waiting[i]
            if ready(p.n_terms[0], p.terms[0], done, x):
                p.value[0, x] = _value(p, x, modulus)
                done[x] = 1
            else:
                waiting[again] = x
                again += 1
        left = again


@jit
def _value(p, x, modulus):
    """Value of slot x from those of its dependencies."""
    total = 0
    for t in range(p.n_terms[0, x]):
        v = int(p.value[0, p.terms[0, x, t, 0]])
        if p.terms[0, x, t, 1] >= 0:
            v = v * int(p.value[0, p.terms[0, x, t, 1]])
        total = total - v if p.combine[0, x] == DIFFERENCE and t == 1 else total + v
    constant = int(p.constant[0, x])
    if p.constant_op[0, x] == MULTIPLY:
        total = total * constant
    elif constant >= 0:
        total = total + constant
    return total % modulus
