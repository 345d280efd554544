"""Rows of different lengths as one array."""

from collections.abc import Sequence

import numpy as np

from synth.world.vocabulary import PAD


def pad_rows(rows: Sequence[Sequence[int]], fill: int = PAD, width: int = 1) -> np.ndarray:
    """Token rows right-padded with `fill`, int64[N, R]; R is the longest row, or `width` if that is more."""
    tokens_NR = np.full((len(rows), max([width, *map(len, rows)])), fill, dtype=np.int64)
    for row_R, row in zip(tokens_NR, rows, strict=True):
        row_R[: len(row)] = row
    return tokens_NR
