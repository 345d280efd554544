"""Draws problems: hyper-parameters, structure, dependencies, values, names, sentence order (Part 2.1, appendix).

`draw` is one compiled loop that redraws until the problem has exactly the wanted number of operations and lies in the
wanted split. The op count is drawn first and stays (the exact op law; the published sampler draws it once per object).
Everything is a pure function of the generator state it is given.
"""

import math

import numpy as np

from synth.draw.expressions import draw_counts, draw_needed_expressions, draw_unneeded
from synth.draw.lengths import length
from synth.draw.resample_query import ask_again
from synth.draw.split import problem_bin, template_bin
from synth.draw.structure import ABSTRACTS, bits, draw_needed, draw_order, draw_structure, lowest, pick, reach
from synth.kernel.jit import jit
from synth.kernel.rng import below, shuffle, uniform
from synth.problem import arrays as P
from synth.problem.arrays import DIFFERENCE, INSTANCES, LAYER, MULTIPLY, OWNER, PAIR, SLOTS, SUM, TARGET, ready

STRUCTURES = 1000  # structure redraws before the hyper-parameters are redrawn (published)
FEWER, USED = 100, 32  # redraws above the 32 operations ever published: hopeless draws would cost more than linearly
HYPER = 2000  # hyper-parameter redraws before the settings are declared impossible


@jit
def draw_ops(s, most, exact):
    """Operations wanted: `most`, or the minimum of two uniforms on 1..most."""
    if exact:
        return most
    return 1 + min(below(s, most), below(s, most))


@jit
def _draw_size(s, relative, most):
    """2, 3 or 4 (at most `most`) by softmax of -(relative - x)^2, x in (0.2, 0.5, 0.8)."""
    total = 0.0
    for v in range(2, most + 1):
        total += math.exp(-((relative - (0.3 * v - 0.4)) ** 2))
    chosen = uniform(s) * total
    for v in range(2, most + 1):
        chosen -= math.exp(-((relative - (0.3 * v - 0.4)) ** 2))
        if chosen < 0.0:
            return v
    return most


@jit
def set_abstract(exists, x, n_terms, terms):
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
def evaluate(p, modulus):
    """Values of all parameters, in dependency order (every parameter is computable: the graph has no cycle)."""
    known = np.zeros(SLOTS, dtype=np.int64)
    waiting = np.zeros(SLOTS, dtype=np.int64)
    for i in range(p.scalars[0, P.N_NEEDED]):
        x = int(p.topo[0, i])
        p.value[0, x] = _value(p, x, modulus)
        known[x] = 1
    left = 0
    for x in range(SLOTS):
        if p.exists[0, x] and not known[x]:
            waiting[left] = x
            left += 1
    while left > 0:
        again = 0
        for i in range(left):
            x = waiting[i]
            if ready(p.n_terms[0], p.terms[0], known, x):
                p.value[0, x] = _value(p, x, modulus)
                known[x] = 1
            else:
                waiting[again] = x
                again += 1
        left = again


@jit
def _value(p, x, modulus):
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


@jit
def _order_sentences(s, level, p, count):
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
    known = np.zeros(SLOTS, dtype=np.int64)
    free = np.zeros(SLOTS, dtype=np.int64)
    while n < count:
        for x in range(SLOTS):
            free[x] = 1 if p.exists[0, x] and not known[x] and ready(p.n_terms[0], p.terms[0], known, x) else 0
        x = pick(s, free)
        known[x] = 1
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
def _order_operands(p, count):
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


@jit
def _draw_names(s, pool, categories, p):
    """Categorisation, window of layers, sub-category and names of each layer (section 1.1)."""
    depth = p.scalars[0, P.DEPTH_]
    group = below(s, pool.shape[0])
    first = below(s, 4 - depth + 1)
    names = np.zeros(pool.shape[3], dtype=np.int64)
    for i in range(depth):
        p.categories[0, i] = categories[group, first + i]
        names[:] = pool[group, first + i, below(s, pool.shape[2])]
        shuffle(s, names, names.shape[0])
        for j in range(p.widths[0, i]):
            p.items[0, i * 4 + j] = names[j]


@jit
def _draw_graph(s, wanted, edges, max_depth, max_width, modulus, withheld, p):
    """One try at structure, needed parameters and expressions with exactly `wanted` operations; False on failure."""
    relative = (wanted - 1) / (edges - 1)
    n = 1 + max(below(s, wanted), below(s, wanted))
    m = n + below(s, wanted - n + 1)
    depth = _draw_size(s, relative, max_depth)
    a, b = _draw_size(s, relative, max_width), _draw_size(s, relative, max_width)
    low, high = min(a, b), max(a, b)
    fewest = (depth - 1) * low
    if fewest > edges:
        return False
    span = edges - fewest + 1
    e = min(fewest + min(below(s, span), below(s, span)), (depth - 1) * high * high)
    exists, n_terms, terms, topo, widths = p.exists[0], p.n_terms[0], p.terms[0], p.topo[0], p.widths[0]
    inward = np.zeros(SLOTS, dtype=np.int64)
    ops = np.zeros(SLOTS, dtype=np.int64)
    scratch = np.zeros(SLOTS, dtype=np.int64)
    below_instances = np.zeros(ABSTRACTS, dtype=np.int64)
    below_abstracts = np.zeros(ABSTRACTS, dtype=np.int64)
    for _ in range(STRUCTURES if wanted <= USED else FEWER):
        existing, there = draw_structure(s, e, depth, low, high, widths, exists)
        ops[:INSTANCES] = 1
        reach(existing, widths, depth, ops, below_instances, below_abstracts)
        ceiling, rest = bits(existing), there
        while rest:
            x = INSTANCES + lowest(rest)
            rest &= rest - 1
            ceiling += ops[x]
        found = draw_needed(s, existing, there, ops, below_instances, below_abstracts, depth, min(n, ceiling), m)
        if found[0] > wanted:
            continue
        terms[:] = -1
        n_terms[:] = 0
        rest = there
        while rest:
            set_abstract(exists, INSTANCES + lowest(rest), n_terms, terms)
            rest &= rest - 1
        count = draw_order(s, found[1], found[2], n_terms, terms, topo, inward, scratch)
        if count < 0:
            continue
        if not draw_counts(s, topo, count, wanted, ops, scratch):
            return False
        p.scalars[0, P.DEPTH_] = depth
        p.scalars[0, P.QUERY] = topo[count - 1]
        p.scalars[0, P.OPS] = wanted
        p.scalars[0, P.N_NEEDED] = count
        p.scalars[0, P.EDGES] = e
        p.scalars[0, P.N_SENTENCES] = e
        topo[count:] = -1
        p.constant[0, :] = -1
        p.constant_op[0, :] = 0
        for x in range(SLOTS):
            p.needed[0, x] = (found[1] >> x) & 1 if x < INSTANCES else (found[2] >> (x - INSTANCES)) & 1
            p.combine[0, x] = SUM if x >= INSTANCES and n_terms[x] > 1 else 0
        draw_needed_expressions(s, topo, count, ops, inward, modulus, withheld, p)
        draw_unneeded(s, existing, there, below_instances, found[1], modulus, withheld, p)
        return True
    return False


@jit
def _multiplies(p):
    """Whether a needed abstract parameter is a sum of products of two others, which no sentence says."""
    for x in range(INSTANCES, SLOTS):
        if p.needed[0, x]:
            for t in range(p.n_terms[0, x]):
                if p.terms[0, x, t, 1] >= 0:
                    return True
    return False


@jit
def draw(s, law, costs, pool, categories, p):
    """Draw one problem into `p` (a batch of one). Returns False when the settings admit none.

    law: int64 [ops, exact, edges, max_depth, max_width, modulus, perm_level (-1 random), published order, split by
    problem, first bin, last bin, reask, longest document in the unit of `costs` (0: any length), letters, withheld
    operations (bits)]. A problem that is too long is dropped whole, as the papers drop it: the next one draws its
    operations anew.
    """
    wanted = draw_ops(s, law[0], law[1])
    for _ in range(HYPER):
        p.sentences[0, :] = -1
        p.value[0, :] = -1
        if not _draw_graph(s, wanted, law[2], law[3], law[4], law[5], law[14], p):
            continue
        if law[11]:
            ask_again(s, p)
            if p.scalars[0, P.OPS] > law[13]:
                continue
        if law[14] & 2 and _multiplies(p):
            continue
        count = p.scalars[0, P.N_SENTENCES]
        _order_sentences(s, law[6], p, count)
        if not law[7]:
            _order_operands(p, count)
        evaluate(p, law[5])
        _draw_names(s, pool, categories, p)
        found = problem_bin(p) if law[8] else template_bin(p, law[7])
        p.scalars[0, P.SPLIT_BIN] = found
        if law[9] <= found <= law[10]:
            if law[12] == 0 or length(p, costs) <= law[12]:
                return True
            wanted = draw_ops(s, law[0], law[1])
    return False
