"""pass@k against the mean over all subsets of the samples, and where it is reported."""

from itertools import combinations

import numpy as np
import pytest

from train.passes import budgets, pass_at_k, passes


def test_the_estimate_is_the_share_of_subsets_that_hold_a_right_one():
    for n in (1, 2, 5, 6):
        for right in range(n + 1):
            bits = [1] * right + [0] * (n - right)
            for k in range(1, n + 1):
                subsets = [any(subset) for subset in combinations(bits, k)]
                assert pass_at_k([right], n, k)[0] == pytest.approx(np.mean(subsets))
    assert pass_at_k([3], 64, 1)[0] == pytest.approx(3 / 64) and 0.0 < pass_at_k([1], 64, 63)[0] < 1.0
    with pytest.raises(ValueError, match="k=5: accepted: 1 to n=4"):
        pass_at_k([1], 4, 5)


def test_its_mean_over_draws_is_the_truth_where_the_naive_one_is_not():
    p, n, k = 0.2, 6, 4
    right = np.random.default_rng(0).binomial(n, p, 40_000)
    truth = 1 - (1 - p) ** k
    assert pass_at_k(right, n, k).mean() == pytest.approx(truth, abs=0.005)
    assert abs((1 - (1 - right / n) ** k).mean() - truth) > 0.02


def test_rates_grow_with_k_and_hold_an_interval_over_problems():
    assert budgets(1) == [1] and budgets(6) == [1, 2, 4, 6] and budgets(64) == [1, 2, 4, 8, 16, 32, 64]
    right_PN = np.random.default_rng(1).random((40, 8)) < np.linspace(0, 0.6, 40)[:, None]
    found = passes(right_PN, np.repeat([1, 2], 20))
    rates = [found["k"][k]["rate"] for k in ("1", "2", "4", "8")]
    assert rates == sorted(rates) and rates[0] == right_PN.mean() and rates[3] == right_PN.any(axis=1).mean()
    assert all(r["low"] < r["rate"] < r["high"] for r in found["k"].values())
    assert [row["problems"] for row in found["by_ops"]] == [20, 20]
    assert found["by_ops"][0]["1"] == right_PN[:20].mean()
    sure = passes(np.ones((10, 2), dtype=bool), np.ones(10))["k"]["2"]
    assert sure["rate"] == sure["high"] == 1.0 and 0.6 < sure["low"] < 0.8
