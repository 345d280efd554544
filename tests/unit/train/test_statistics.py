"""Intervals against independent references and against simulation.

Try: `python -m pytest tests/unit/train/test_statistics.py`.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from train.statistics import ClusterBootstrap, difference, paired_difference, paired_share, share, wilson


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(pair):
    right, n = pair
    rate, expected = wilson(right, n), binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert rate.value == right / n and rate.n == n
    assert rate.low == pytest.approx(expected.low, abs=1e-12) and rate.high == pytest.approx(expected.high, abs=1e-12)


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
        for i, rate in enumerate((paired_share(*verdicts), share(*counts))):
            inside[i] += rate.low <= truth <= rate.high
    assert (inside >= 90).all()


def test_pairing_tightens_and_keeps_the_value():
    rng = np.random.default_rng(0)
    a, b, c = drawn(rng, np.array([0.7, 0.35, 0.95]), 500)
    counts = [(int(v.sum()), 500) for v in (a, b, c)]
    paired, loose = paired_share(a, b, c), share(*counts)
    assert paired.value == pytest.approx(loose.value) and paired.high - paired.low < loose.high - loose.low
    apart, together = difference(*counts[0], *counts[1]), paired_difference(a, b)
    assert together.value == pytest.approx(apart.value) and together.high - together.low < apart.high - apart.low


def test_no_gap_has_no_share():
    for rate in (share((5, 10), (9, 10), (9, 10)), paired_share([True], [True], [True])):
        assert np.isnan(rate.value) and rate.low == -np.inf and rate.high == np.inf
    tiny = share((6, 10), (5, 10), (6, 10))
    assert tiny.low == -np.inf or tiny.low < -1, "a gap that may be none leaves the share open"


def test_the_same_counts_give_the_same_interval():
    assert share((70, 100), (30, 100), (95, 100)) == share((70, 100), (30, 100), (95, 100))


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
    paired = draws.of(np.subtract, better.mean() - worse.mean(), 400, (better, every), (worse, every))
    apart = difference(int(better.sum()), 400, int(worse.sum()), 400)
    assert paired.low <= paired.value <= paired.high and paired.high - paired.low < 0.7 * (apart.high - apart.low)
    same = draws.of(np.subtract, 0.0, 400, (worse, every), (worse, every))
    assert (same.low, same.high) == (0, 0)
