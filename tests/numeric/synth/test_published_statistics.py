"""Drawn problems against the published statistics (Part 2.1 and measurements of its generator), med and hard.

Each preset is judged on 50,000 problems, so our own sampling error is small; the tolerances cover that of the published
figures (from 400 to 2,000 problems, 600 for a single number of operations) and one known difference: op is drawn first
and kept. The same code with the published rejection instead (20,000 problems) gives, published figures in brackets:
edges 9.04 (8.97) and 10.94 (10.77), needed 4.72 (4.7) and 5.99 (5.9), abstract queries 0.404 and 0.397 (0.41), solution
lengths 108 (108) and 146 (145); keeping op gives 9.20 and 11.15, 4.78 and 6.12, 0.384 and 0.375, 109 and 147.
Laws that are exact by construction (operations, constants, operators, names, sentence order) are tested as such.
"""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from synth.dataset import Source
from synth.draw.lengths import lengths
from synth.problem.arrays import ADD, DIFFERENCE, INSTANCES, MULTIPLY, SPLIT_BIN, SUM, Problems
from synth.spec import preset

COUNT, FIXED = 50_000, 4_000
DRAWN: dict[str, Problems] = {}

PUBLISHED = {  # edges (op passed explicitly), needed, needed abstract, query abstract, answer 0; tolerances
    "med": ((9.34, 0.25), (4.7, 0.15), (1.2, 0.1), (0.41, 0.035), (0.122, 0.015)),
    "hard": ((11.04, 0.25), (5.9, 0.3), (1.4, 0.1), (0.41, 0.045), (0.106, 0.015)),
}
AT_FIXED_OPS = [  # preset, ops, edges, needed parameters
    ("med", 15, 10.8, 11.4), ("med", 20, 11.5, 14.0), ("med", 23, 11.6, 15.4), ("hard", 21, 13.4, 14.7),
    ("hard", 28, 14.7, 17.9), ("hard", 32, 14.8, 19.8),
]  # fmt: skip
LENGTHS = [  # preset, ops (None: the preset's), GPT-2 pieces: mean, 95th percentile, mean of solutions, over limit
    ("med", None, 336, 588, 108, (768, 0.001)), ("hard", None, 424, 757, 145, (768, 0.047)),
    ("med", 15, 586, 773, 294, (768, 0.058)), ("med", 20, 710, 902, 383, (768, 0.258)),
    ("med", 23, 778, 938, 435, (768, 0.507)), ("hard", 21, 772, 1019, 402, (1024, 0.048)),
    ("hard", 28, 957, 1225, 525, (1024, 0.285)), ("hard", 32, 1038, 1262, 592, (1024, 0.500)),
]  # fmt: skip
KINDS = {  # (terms, constant's operation, combination): published share of the sentences of 2,000 med problems
    (0, 0, 0): 0.337, (1, 0, 0): 0.232, (1, ADD, 0): 0.092, (1, MULTIPLY, 0): 0.091,
    (2, 0, SUM): 0.040, (2, 0, DIFFERENCE): 0.039, (3, 0, SUM): 0.031, (4, 0, SUM): 0.025,
    (2, ADD, SUM): 0.019, (2, MULTIPLY, SUM): 0.019, (2, ADD, DIFFERENCE): 0.018, (2, MULTIPLY, DIFFERENCE): 0.020,
    (3, ADD, SUM): 0.020, (3, MULTIPLY, SUM): 0.018,
}  # fmt: skip
both = pytest.mark.parametrize("name", ["med", "hard"])


def drawn(name: str) -> Problems:
    if name not in DRAWN:
        DRAWN[name] = Source(preset(name), 2024, "all").problems(range(COUNT))
    return DRAWN[name]


@both
def test_means(name):
    p = drawn(name)
    measured = (
        (p.sentences >= 0).sum(1).mean(),
        p.needed.sum(1).mean(),
        p.needed[:, INSTANCES:].sum(1).mean(),
        (p.query >= INSTANCES).mean(),
        (p.answer == 0).mean(),
    )
    for value, (published, tolerance) in zip(measured, PUBLISHED[name], strict=True):
        assert abs(value - published) < tolerance, (value, published)


@pytest.mark.parametrize(("name", "ops", "edges", "needed"), AT_FIXED_OPS)
def test_means_at_a_fixed_number_of_operations(name, ops, edges, needed):
    """Edges within 0.4 and needed parameters within 0.35 of the published; the query is abstract in 51 to 59 %."""
    p = Source(preset(name, ops=ops, exact_ops=True), 2024, "all").problems(range(FIXED))
    assert abs((p.sentences >= 0).sum(1).mean() - edges) < 0.4
    assert abs(p.needed.sum(1).mean() - needed) < 0.35
    assert 0.49 < (p.query >= INSTANCES).mean() < 0.63


def sentence_kinds(p: Problems) -> Counter:
    there = p.exists[:, :INSTANCES] > 0
    columns = (a[:, :INSTANCES][there].tolist() for a in (p.n_terms, p.constant_op, p.combine))
    return Counter(zip(*columns, strict=True))


def test_kinds_of_sentences():
    """Each share within 0.007 of the published one (2,000 problems, 18,000 sentences that share a problem)."""
    counts = sentence_kinds(drawn("med"))
    assert set(counts) == set(KINDS)
    for kind, share in KINDS.items():
        assert abs(counts[kind] / counts.total() - share) < 0.007, kind


def test_depths_and_childless_abstract_parameters():
    p = drawn("med")
    for depth, share in ((2, 0.39), (3, 0.34), (4, 0.27)):
        assert abs((p.scalars[:, 0] == depth).mean() - share) < 0.03
    abstract = p.needed[:, INSTANCES:] > 0
    assert abs((p.n_terms[:, INSTANCES:][abstract] == 0).mean() - 0.081) < 0.025  # published: 39 of about 480


def test_what_one_operation_asks():
    """A constant in 91%, a childless abstract parameter in 8% of 600 draws."""
    p = Source(preset("med", ops=1, exact_ops=True), 2024, "all").problems(range(FIXED))
    rows = np.arange(FIXED)
    childless = (p.query >= INSTANCES) & (p.n_terms[rows, p.query] == 0)
    constant = (p.query < INSTANCES) & (p.n_terms[rows, p.query] == 0)
    assert abs(childless.mean() - 0.08) < 0.03
    assert abs(constant.mean() - 0.91) < 0.03


def test_share_of_the_training_bins():
    """Published share with hash below 17: 0.78 (the numbers of operations are skewed to few, heavy templates)."""
    p = Source(preset("med", solution_order="published"), 2024, "all").problems(range(COUNT))
    assert abs((p.scalars[:, SPLIT_BIN] < 17).mean() - 0.78) < 0.02


@both
def test_law_of_operations(name):
    p, n = drawn(name), preset(name).ops
    share = (2 * (n - np.arange(1, n + 1)) + 1) / n**2
    assert stats.chisquare(np.bincount(p.ops, minlength=n + 1)[1:], COUNT * share).pvalue > 1e-4
    assert 0.10 < (p.ops == 1).mean() * n * n / (2 * n - 1) * 0.129 < 0.16


@both
def test_hyper_parameters_given_the_operations(name):
    """Widths lie between two sizes, edges between tree and complete graph, every layer below the top is reached."""
    p = drawn(name)
    depth = p.scalars[:, 0]
    there = p.widths > 0
    assert (there.sum(1) == depth).all()
    assert p.widths[there].min() == 2
    assert p.widths.max() == 4
    fewest = p.widths[:, 1:].sum(1)
    most = (p.widths[:, 1:] * p.widths[:, :-1]).sum(1)
    edges = (p.sentences >= 0).sum(1)
    assert ((fewest <= edges) & (edges <= most)).all()
    assert edges.max() == preset(name).edges


def test_law_of_sizes_before_any_rejection():
    """Depth and widths follow softmax(-(relative - x)^2): kernels drawn alone, relative = (op - 1) / (ip - 1)."""
    from synth.draw.problems import _draw_size
    from synth.kernel.rng import generators

    for relative in (0.0, 0.4, 1.0):
        weights = np.exp(-((relative - np.array([0.2, 0.5, 0.8])) ** 2))
        sizes = [_draw_size(s, relative, 4) for s in generators(1, "sizes", range(FIXED))]
        expected = FIXED * weights / weights.sum()
        assert stats.chisquare(np.bincount(sizes, minlength=5)[2:], expected).pvalue > 1e-4


@both
def test_numbers_of_dependencies(name):
    """No sentence has more than four operands; needed ones have operations + 1 where that is more than one."""
    p = drawn(name)
    there = p.exists[:, :INSTANCES] > 0
    operands = (p.n_terms + (p.constant >= 0))[:, :INSTANCES]
    counts = np.bincount(operands[there], minlength=5)
    assert counts[0] == 0
    assert len(counts) == 5
    if name == "med":  # the published kinds of sentences, by their operands
        for k in range(1, 5):
            share = sum(v for (n, op, _), v in KINDS.items() if n + (op > 0 or n == 0) == k)
            assert abs(counts[k] / counts.sum() - share) < 0.012


@both
def test_values_of_answers(name):
    """Residues other than 0: between 3.5% and 5.5%, as published."""
    p = drawn(name)
    shares = np.bincount(p.answer, minlength=23) / COUNT
    assert shares[1:].min() > 0.035
    assert shares[1:].max() < 0.055


@pytest.mark.parametrize(("name", "ops", "mean", "high", "solution", "over"), LENGTHS)
def test_lengths_in_gpt2_pieces(name, ops, mean, high, solution, over):
    """Means within 3%; solutions within 2%; the 95th percentile within 7.5%, from below.

    Real names differ in length from problem to problem and the estimate's do not, so it has a little less spread: the
    published tail is longer, and the share over a limit may differ by 0.08.
    """
    settings = {} if ops is None else {"ops": ops, "exact_ops": True}
    source = Source(preset(name, **settings), 2024, "all")
    p = drawn(name) if ops is None else source.problems(range(FIXED))
    document, solved = lengths(p, source.world, "gpt2")
    assert abs(document.mean() / mean - 1) < 0.03, document.mean()
    assert abs(solved.mean() / solution - 1) < 0.02, solved.mean()
    assert -0.075 < np.percentile(document, 95) / high - 1 < 0.01
    assert -0.085 < (document > over[0]).mean() - over[1] < 0.03


def test_the_fitted_constant_gives_the_published_mean():
    """336 GPT-2 pieces for med, within 0.5%: the one length that is no prediction."""
    source = Source(preset("med"), 2024, "all")
    assert abs(lengths(drawn("med"), source.world, "gpt2")[0].mean() / 336 - 1) < 0.005


def test_operations_after_asking_again():
    """Published for op the minimum of two uniforms on 1..15: 29% of one operation, 22% of two.

    The published function failed in 207 of 400 tries, so those are shares of 193 problems, and without the abstract
    parameters it left out: hence the wide tolerance, two and a half standard errors.
    """
    ops = Source(preset("med", reask=True), 2024, "all").problems(range(COUNT)).ops
    assert abs((ops == 1).mean() - 0.29) < 0.08
    assert abs((ops == 2).mean() - 0.22) < 0.08
    assert ops.max() >= 14


def flat(counts) -> float:
    return float(stats.chisquare(counts).pvalue)


def test_constants_and_operators_are_uniform():
    """0..22 alone and when added, 1..22 when multiplied; fair coins between more and times, sum and difference."""
    p = drawn("med")
    there = p.exists[:, :INSTANCES] > 0
    constant, op, combine, n = (a[:, :INSTANCES][there] for a in (p.constant, p.constant_op, p.combine, p.n_terms))
    assert flat(np.bincount(constant[n == 0], minlength=23)) > 1e-4
    assert flat(np.bincount(constant[op == ADD], minlength=23)) > 1e-4
    times = np.bincount(constant[op == MULTIPLY], minlength=23)
    assert times[0] == 0
    assert flat(times[1:]) > 1e-4
    assert flat([(op == ADD).sum(), (op == MULTIPLY).sum()]) > 1e-4
    assert flat([((combine == SUM) & (n == 2)).sum(), ((combine == DIFFERENCE) & (n == 2)).sum()]) > 1e-4


def test_names_are_uniform():
    """Categorisation, window of layers for each depth, sub-category, name."""
    p, world = drawn("med"), preset("med").load_world()
    group, window = np.zeros(COUNT, dtype=int), np.zeros(COUNT, dtype=int)
    place = {int(c): (g, k) for g, row in enumerate(world.categories) for k, c in enumerate(row)}
    for i in range(COUNT):
        group[i], window[i] = place[int(p.categories[i, 0])]
    assert flat(np.bincount(group, minlength=4)) > 1e-4
    for depth in (2, 3):
        counts = np.bincount(window[p.scalars[:, 0] == depth])
        assert len(counts) == 5 - depth
        assert flat(counts) > 1e-4
    assert (window[p.scalars[:, 0] == 4] == 0).all()
    names = Counter()
    for g in range(4):  # the first item of the first layer where the window starts at the top
        first = p.items[(group == g) & (window == 0), 0]
        where = {int(t): (s, n) for s, row in enumerate(world.pool[g, 0]) for n, t in enumerate(row)}
        names.update(where[int(t)] for t in first)
    assert len(names) == 100
    assert flat(list(names.values())) > 1e-4


def test_sentences_are_in_uniform_order():
    p = drawn("med")
    generator = np.random.default_rng(0)
    instance = p.query < INSTANCES
    place = (p.sentences[instance] == p.query[instance, None]).argmax(axis=1)
    many = (p.sentences[instance] >= 0).sum(axis=1)
    assert stats.kstest((place + generator.random(len(place))) / many, "uniform").pvalue > 1e-4


def test_every_parent_is_as_likely():
    """In layers of two with the fewest edges, each item below hangs from either parent."""
    p = drawn("med")
    counts = np.zeros(2)
    tree = (p.scalars[:, 0] == 2) & (p.widths[:, 0] == 2) & (p.scalars[:, 5] == p.widths[:, 1])
    for i in np.flatnonzero(tree):
        for k in range(p.widths[i, 1]):
            counts += [p.exists[i, k], p.exists[i, 4 + k]]
    assert counts.sum() > 150
    assert flat(counts) > 1e-4
