"""Intervals against independent references and against simulation.

Try: `python -m pytest tests/unit/train/test_statistics.py`.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.statistics import (
    ANY,
    CHANGE,
    SHARE,
    ClusterBootstrap,
    Z,
    auroc,
    correlation,
    difference,
    gap_closed,
    holm,
    nested_mean,
    nested_test,
    paired_difference,
    paired_gap_closed,
    wilson,
)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(pair):
    """The ends of the score interval are the rates p whose distance from right/n is Z standard errors of p."""
    right, n = pair
    rate = wilson(right, n)
    assert rate.value == right / n and rate.n == n and 0 <= rate.low <= rate.value <= rate.high <= 1
    for end in (rate.low, rate.high):
        if 0 < end < 1:
            assert (rate.value - end) ** 2 == pytest.approx(Z**2 * end * (1 - end) / n, abs=1e-12)


def test_wilson_of_nothing_and_of_nonsense():
    assert np.isnan(wilson(0, 0).value) and wilson(0, 0)[1:] == (0.0, 1.0, 0)
    with pytest.raises(ValueError, match="right = 3 is not a count out of n = 2"):
        wilson(3, 2)


def test_newcombe_is_the_published_example():
    # Newcombe 1998, table II, example (a): 56/70 against 48/80, method 10
    rate = difference(56, 70, 48, 80)
    assert rate.value == pytest.approx(0.2) and (round(rate.low, 4), round(rate.high, 4)) == (0.0524, 0.3339)


def drawn(rng, p_M: np.ndarray, n: int) -> np.ndarray:
    """Verdicts of M models on n problems of different difficulty, so that they agree more than by chance."""
    ease = rng.normal(0, 1, n)
    return np.log(p_M / (1 - p_M))[:, None] + ease[None] + rng.logistic(0, 1, (len(p_M), n)) > 0


def test_the_intervals_of_a_share_cover_it():
    """95% intervals hold the share of the population at least 90 times in 100 (binomial slack on 100 repetitions)."""
    p = np.array([0.7, 0.35, 0.95])
    goal = drawn(np.random.default_rng(99), p, 400_000).mean(axis=1)
    truth = (goal[0] - goal[1]) / (goal[2] - goal[1])
    inside = np.zeros(2)
    for seed in range(100):
        verdicts = drawn(np.random.default_rng(seed), p, 300)
        counts = [(int(v.sum()), 300) for v in verdicts]
        for i, rate in enumerate((paired_gap_closed(*verdicts), gap_closed(*counts))):
            inside[i] += rate.low <= truth <= rate.high
    assert (inside >= 90).all()


def test_pairing_tightens_and_keeps_the_value():
    rng = np.random.default_rng(0)
    a, b, c = drawn(rng, np.array([0.7, 0.35, 0.95]), 500)
    counts = [(int(v.sum()), 500) for v in (a, b, c)]
    paired, loose = paired_gap_closed(a, b, c), gap_closed(*counts)
    assert paired.value == pytest.approx(loose.value) and paired.high - paired.low < loose.high - loose.low
    apart, together = difference(*counts[0], *counts[1]), paired_difference(a, b)
    assert together.value == pytest.approx(apart.value) and together.high - together.low < apart.high - apart.low


def test_no_gap_has_no_share():
    for rate in (gap_closed((5, 10), (9, 10), (9, 10)), paired_gap_closed([True], [True], [True])):
        assert np.isnan(rate.value) and rate.low == -np.inf and rate.high == np.inf
    tiny = gap_closed((6, 10), (5, 10), (6, 10))
    assert tiny.low == -np.inf or tiny.low < -1, "a gap that may be none leaves the share open"


def test_the_same_counts_give_the_same_interval():
    assert gap_closed((70, 100), (30, 100), (95, 100)) == gap_closed((70, 100), (30, 100), (95, 100))


def test_clusters_count_once_however_often_they_are_measured():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    alone, five = (
        ClusterBootstrap(np.arange(400)).rate(right),
        ClusterBootstrap(np.repeat(np.arange(400), 5)).rate(np.repeat(right, 5)),
    )
    exact = wilson(int(right.sum()), 400)
    assert alone.value == five.value == exact.value and (alone.n, five.n) == (400, 2000)
    for rate in (alone, five):
        assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high), abs=6e-3)
    assert ClusterBootstrap(np.arange(50) // 5).rate(np.ones(50, bool)).low == pytest.approx(wilson(10, 10).low)
    assert ClusterBootstrap(np.zeros(0)).rate(np.zeros(0, bool)).n == 0
    half = ClusterBootstrap(np.arange(400)).rate(right, np.arange(400) < 100)
    assert half.value == right[:100].mean() and half.n == 100


def test_intervals_of_clusters_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        mean = rng.beta(8, 2, 80)  # problems differ, so their ten queries are not independent
        right = rng.random((80, 10)) < mean[:, None]
        rate = ClusterBootstrap(np.repeat(np.arange(80), 10), draws=400).rate(right.ravel())
        held += rate.low <= 0.8 <= rate.high
    assert 0.91 <= held / 300 <= 0.98


def test_differences_on_the_same_clusters_are_paired():
    rng = np.random.default_rng(0)
    cluster, easy = np.repeat(np.arange(100), 4), np.repeat(rng.random(100) < 0.5, 4)
    better, worse = easy | (rng.random(400) < 0.2), easy
    every, draws = np.ones(400, bool), ClusterBootstrap(cluster)
    paired = draws.statistic(
        np.subtract, better.mean() - worse.mean(), 400, (better, every), (worse, every), within=CHANGE
    )
    apart = difference(int(better.sum()), 400, int(worse.sum()), 400)
    assert paired.low <= paired.value <= paired.high and paired.high - paired.low < 0.7 * (apart.high - apart.low)
    same = draws.statistic(np.subtract, 0.0, 400, (worse, every), (worse, every), within=CHANGE)
    assert (same.low, same.high) == pytest.approx((-wilson(0, 100).high, wilson(0, 100).high))


AGREEING = {  # what is measured -> (estimate, the Wilson bound that one more disagreement could still hide)
    "all ahead": (paired_difference([1] * 3, [0] * 3), 2 * wilson(0, 3).high),
    "always equal": (paired_difference([1] * 50, [1] * 50), 2 * wilson(0, 50).high),
    "pass@k of nothing": (nested_mean([np.zeros(32)], SHARE), wilson(0, 32).high),
    "two seeds": (nested_mean([np.ones(4), np.ones(4)], CHANGE), 2 * wilson(0, 8).high),
    "clusters": (ClusterBootstrap(np.arange(40) // 4).ratio(np.ones(40), within=CHANGE), 2 * wilson(0, 10).high),
    "separated": (ClusterBootstrap(np.arange(9)).auroc(np.arange(9.0), np.arange(9) > 4), wilson(0, 4).high),
    "unbounded": (ClusterBootstrap(np.arange(9)).ratio(np.full(9, 20.0), within=ANY), np.inf),
}


@pytest.mark.parametrize("measured", AGREEING)
def test_few_that_agree_leave_the_interval_open(measured):
    found, width = AGREEING[measured]
    assert found.low <= found.value <= found.high
    assert found.high - found.low == pytest.approx(width)


def test_a_share_that_no_draw_changes_takes_the_wider_interval_of_independent_samples():
    found = paired_gap_closed([True] * 3, [False] * 3, [True] * 3)
    assert found == gap_closed((3, 3), (0, 3), (3, 3)) and found.low < 0.5 and found.value == 1 < found.high


def test_the_p_value_of_a_mean_follows_its_interval():
    rng = np.random.default_rng(0)
    found, p = nested_test([rng.normal(0.3, 1, 200)], ANY)
    assert found.low > 0 and p < 0.05
    found, p = nested_test([rng.normal(0.0, 1, 200)], ANY)
    assert found.low < 0 < found.high and p > 0.05
    assert nested_test([np.ones(3)], CHANGE)[1] == 0.25, "three of three by chance: two sides of 1/8"
    assert nested_test([np.zeros(3)], CHANGE)[1] == 1.0


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_the_area_under_the_curve_counts_the_pairs_in_order():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    score[0] = -np.inf
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(pairs)) and np.isnan(auroc(score, np.zeros(60)))


def test_correlations_of_what_does_not_vary_are_zero():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert correlation(x, y) == pytest.approx(2 / np.sqrt(5)) and correlation(x, y, "kendall") == pytest.approx(
        (2 / 3) ** 0.5
    )
    assert correlation(x**3, y, "spearman") == pytest.approx(correlation(x, y))
    assert [correlation(x, np.ones(4), kind) for kind in ("pearson", "spearman", "kendall")] == [0.0] * 3
