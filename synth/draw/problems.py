"""Draws problems: hyper-parameters, structure, dependencies, values, names, sentence order (Part 2.1, appendix).

`draw` is one compiled loop that redraws until the problem has exactly the wanted number of operations and lies in the
wanted split. The number of operations is drawn first and kept, so its distribution is exact (the published sampler
draws it once per object). Everything is a pure function of the generator that it is given.
"""

import math
from typing import NamedTuple

import numpy as np

from synth.draw.expressions import draw_counts, draw_needed_expressions, draw_unneeded, evaluate
from synth.draw.graph import ABSTRACTS, draw_needed, draw_order, draw_structure, reach, write_abstract_terms
from synth.draw.lengths import length
from synth.draw.sentences_and_query import order_operands, order_sentences, resample_query
from synth.draw.split import BINS, problem_bin, template_residue
from synth.kernel.jit import jit
from synth.kernel.rng import below, count_bits, lowest, shuffle, uniform
from synth.problem.arrays import DEPTH_, EDGES, INSTANCES, N_NEEDED, N_SENTENCES, OPS, QUERY, SLOTS, SPLIT_BIN, SUM

STRUCTURES = 1000  # structure redraws before the hyper-parameters are redrawn (published)
FEWER, USED = 100, 32  # redraws above the 32 operations ever published: hopeless draws would cost more than linearly
HYPER = 2000  # hyper-parameter redraws before the settings are declared impossible
WITHHELD_DIFFERENCES, WITHHELD_PRODUCTS = 1, 2  # bits of `withheld`


class DrawSettings(NamedTuple):
    """What `draw` is told: settings of a `Spec` as whole numbers, and the split."""

    ops: int  # most operations, or exactly so many
    exact_ops: bool
    edges: int
    max_depth: int
    max_width: int
    modulus: int
    perm_level: int  # -1: a random one
    published_order: bool
    split_by_problem: bool
    first_bin: int
    last_bin: int
    reask: bool
    max_length: int  # longest document in the unit of the costs, 0: any
    letters: int
    withheld: int  # operations that no solution has, as bits


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
def _draw_names(s, pool, categories, p):
    """Categorisation, window of layers, sub-category and names of each layer (section 1.1)."""
    depth = p.scalars[0, DEPTH_]
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
def _draw_graph(s, wanted, settings, p):
    """One try at structure, needed parameters and expressions with exactly `wanted` operations; False on failure."""
    edges = settings.edges
    relative = (wanted - 1) / (edges - 1)
    n = 1 + max(below(s, wanted), below(s, wanted))
    m = n + below(s, wanted - n + 1)
    depth = _draw_size(s, relative, settings.max_depth)
    a, b = _draw_size(s, relative, settings.max_width), _draw_size(s, relative, settings.max_width)
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
        ceiling, rest = count_bits(existing), there
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
            write_abstract_terms(exists, INSTANCES + lowest(rest), n_terms, terms)
            rest &= rest - 1
        count = draw_order(s, found[1], found[2], n_terms, terms, topo, inward, scratch)
        if count < 0:
            continue
        if not draw_counts(s, topo, count, wanted, ops, scratch):
            return False
        scalars = p.scalars[0]
        scalars[DEPTH_], scalars[QUERY], scalars[OPS] = depth, topo[count - 1], wanted
        scalars[N_NEEDED], scalars[EDGES], scalars[N_SENTENCES] = count, e, e
        topo[count:] = -1
        p.constant[0, :] = -1
        p.constant_op[0, :] = 0
        for x in range(SLOTS):
            p.needed[0, x] = (found[1] >> x) & 1 if x < INSTANCES else (found[2] >> (x - INSTANCES)) & 1
            p.combine[0, x] = SUM if x >= INSTANCES and n_terms[x] > 1 else 0
        draw_needed_expressions(s, topo, count, ops, inward, settings.modulus, settings.withheld, p)
        draw_unneeded(s, existing, there, below_instances, found[1], settings.modulus, settings.withheld, p)
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
def draw(s, settings, costs, pool, categories, p):
    """Draw one problem into `p` (a batch of one). Returns False when the settings admit none. A problem that is too
    long is dropped whole, as the papers drop it: the next one draws its operations anew."""
    wanted = draw_ops(s, settings.ops, settings.exact_ops)
    for _ in range(HYPER):
        p.sentences[0, :] = -1
        p.value[0, :] = -1
        if not _draw_graph(s, wanted, settings, p):
            continue
        if settings.reask:
            resample_query(s, p)
            if p.scalars[0, OPS] > settings.letters:
                continue
        if settings.withheld & WITHHELD_PRODUCTS and _multiplies(p):
            continue
        count = p.scalars[0, N_SENTENCES]
        order_sentences(s, settings.perm_level, p, count)
        if not settings.published_order:
            order_operands(p, count)
        evaluate(p, settings.modulus)
        _draw_names(s, pool, categories, p)
        split_bin = problem_bin(p) if settings.split_by_problem else template_residue(p, settings.published_order, BINS)
        p.scalars[0, SPLIT_BIN] = split_bin
        if settings.first_bin <= split_bin <= settings.last_bin:
            if settings.max_length == 0 or length(p, costs) <= settings.max_length:
                return True
            wanted = draw_ops(s, settings.ops, settings.exact_ops)
    return False
