"""Rows of different lengths as one array."""

import numpy as np

from synth.documents import pad_rows


def test_rows_are_padded_on_the_right_to_the_longest_or_the_width():
    assert pad_rows([[1, 2, 3], [], np.array([4])], fill=9).tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert pad_rows([[1]], fill=0, width=3).tolist() == [[1, 0, 0]] and pad_rows([[1, 2]], width=1).shape == (1, 2)
    assert pad_rows([]).shape == (0, 1) and pad_rows([[], []]).shape == (2, 1) and pad_rows([]).dtype == np.int64
