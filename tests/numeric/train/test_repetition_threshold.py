"""The threshold of the compression detector against right solutions. With -s it prints the percentiles that set it."""

import numpy as np
import pytest

from train.data.batches import DataConfig
from train.evaluation.repetition import ZLIB_RATIO, ZLIB_TAIL, zlib_ratio

N = 2000
DATA = {"med": {}, "hard": {}, "med, 15 operations": {"ops": 15, "exact_ops": True}}


@pytest.mark.parametrize("name", DATA)
def test_right_solutions_are_not_taken_for_repetition(name):
    documents = DataConfig(name.split(",")[0], DATA[name]).source("train", "calibration").documents(range(N))
    ratios = np.array([zlib_ratio(documents.response(i)) for i in range(N)])
    long = ratios[ratios > 0.0]  # others are shorter than the tail
    median, high, most = np.percentile(long, [50, 99.9, 100])
    percentiles = f"median {median:.2f}, 99.9% {high:.2f}, most {most:.2f}"
    print(f"{name}: {len(long)} of {N} have over {ZLIB_TAIL} tokens; {percentiles}")
    assert len(long) > 200 and high < ZLIB_RATIO
