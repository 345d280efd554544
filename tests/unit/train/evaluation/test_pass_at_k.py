"""pass@k: the estimate against all subsets, and what is refused."""

from itertools import combinations

import numpy as np
import pytest

from train.evaluation.evaluator import PassConfig, pass_at_k, pass_rates


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_the_estimate_is_the_share_of_subsets_with_a_right_one(k):
    for right in range(7):
        outcomes = [i < right for i in range(6)]
        subsets = list(combinations(outcomes, k))
        assert np.isclose(pass_at_k([right], 6, k)[0], np.mean([any(subset) for subset in subsets]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": -1}, "samples=-1: accepted: 0 or more"),
        ({"problems": 0}, "problems=0: accepted: 1 or more"),
        ({"temperature": 0.0}, "temperature=0.0: accepted: above 0"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said.split(":")[0]):
        PassConfig(**settings)


def test_its_mean_over_draws_is_the_truth_where_the_naive_one_is_not():
    p, n, k = 0.2, 6, 4
    right = np.random.default_rng(0).binomial(n, p, 40_000)
    truth = 1 - (1 - p) ** k
    assert pass_at_k(right, n, k).mean() == pytest.approx(truth, abs=0.005)
    assert abs((1 - (1 - right / n) ** k).mean() - truth) > 0.02


def test_rates_grow_with_k_and_hold_an_interval_over_problems():
    right_PN = np.random.default_rng(1).random((40, 8)) < np.linspace(0, 0.6, 40)[:, None]
    found = pass_rates(right_PN, np.repeat([1, 2], 20))
    rates = [found["at"][k]["rate"] for k in ("1", "2", "4", "8")]
    assert rates == sorted(rates) and rates[0] == right_PN.mean() and rates[3] == right_PN.any(axis=1).mean()
    assert all(r["low"] < r["rate"] < r["high"] for r in found["at"].values())
    assert [row["problems"] for row in found["by_ops"]] == [20, 20]
    assert found["by_ops"][0]["1"] == right_PN[:20].mean()
    sure = pass_rates(np.ones((10, 2), dtype=bool), np.ones(10))["at"]["2"]
    assert sure["rate"] == sure["high"] == 1.0 >= sure["low"]


def test_more_tries_than_samples_are_refused():
    with pytest.raises(ValueError, match="k=5: accepted: 1 to n=4"):
        pass_at_k([1], 4, 5)
    assert list(pass_rates(np.zeros((3, 64), dtype=bool), np.ones(3))["at"]) == ["1", "2", "4", "8", "16", "32", "64"]
