"""pass@k: the estimate against all subsets, and what is refused. Try: `python -m pytest tests/unit/test_passes.py`."""

from itertools import combinations

import numpy as np
import pytest

from train.passes import PassConfig, pass_at_k


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_the_estimate_is_the_share_of_subsets_with_a_right_one(k):
    for right in range(7):
        outcomes = [i < right for i in range(6)]
        subsets = list(combinations(outcomes, k))
        assert np.isclose(pass_at_k([right], 6, k)[0], np.mean([any(subset) for subset in subsets]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": -1}, "passes.samples=-1: accepted: 0 or more"),
        ({"problems": 0}, "passes.problems=0: accepted: 1 or more"),
        ({"temperature": 0.0}, "passes.temperature=0.0: accepted: above 0"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said.split(":")[0]):
        PassConfig(**settings)
