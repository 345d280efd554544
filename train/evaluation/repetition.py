"""Two detectors of repetition: an exact one by period (ours), and the published one by compression.

Exact: a period P explains a position when its token equals the token P places before it. A response is repetitive when
some P <= 32 explains at least 90 % of its last max(3P, 32) tokens, however long it is and however templated its text.
The repetitive tokens are those of the longest tail that P explains in this way.

Published (StableOPD, 2604.08527): a response is longer than Lr = 10,000 characters, and zlib compresses its last Lr by
more than tau = 10. Here a token is one byte, Lr = 128, and tau = 1.5: zlib has a fixed cost, so that 128 equal tokens
reach only 10.7 and a loop of 32 tokens 3.0. Right solutions compress too: the 99.9th percentile of those above 128
tokens by 1.44 (data=med, n = 860), 1.41 (hard, n = 741) and 1.45 (med with exactly 15 operations, n = 2000).
"""

import zlib
from typing import Any

import numpy as np

LONGEST_PERIOD = SHORTEST_TAIL = 32
SHARE_EXPLAINED = 0.9
ZLIB_TAIL, ZLIB_RATIO = 128, 1.5  # tokens; bytes over compressed bytes


def periods(tokens_NT: np.ndarray, length_N: np.ndarray) -> np.ndarray:
    """The smallest period of the loop that each response ends in, int64[N]; 0 where it does not end in one. tokens_NT:
    int[N, T], responses, right-padded with anything. length_N: int[N], tokens of each."""
    tokens_NT, length_N = np.asarray(tokens_NT), np.asarray(length_N, dtype=np.int64)
    found_N = np.zeros(len(tokens_NT), dtype=np.int64)
    if tokens_NT.size == 0:
        return found_N
    reach = min(max(3 * LONGEST_PERIOD, SHORTEST_TAIL), tokens_NT.shape[1])
    column_NT = length_N[:, None] - reach + np.arange(reach)  # the last `reach` tokens of each row, right-aligned
    tail_NT = np.take_along_axis(tokens_NT, np.maximum(column_NT, 0), axis=1)
    for period in range(1, LONGEST_PERIOD + 1):
        window = max(3 * period, SHORTEST_TAIL)
        if window > reach:
            break
        same_NT = tail_NT[:, -window + period :] == tail_NT[:, -window:-period]
        loops_N = (same_NT.mean(axis=1) >= SHARE_EXPLAINED) & (length_N >= window)
        found_N = np.where((found_N == 0) & loops_N, period, found_N)
    return found_N


def repetitive(tokens_NT: np.ndarray, length_N: np.ndarray) -> np.ndarray:
    """The tokens of the loop that each response ends in, bool[N, T], without the first round, which repeats nothing.

    The loop starts at the earliest token that its period explains and from which it explains 90 % of all that follows.
    """
    tokens_NT, length_N = np.asarray(tokens_NT), np.asarray(length_N, dtype=np.int64)
    covered_NT = np.zeros(tokens_NT.shape, dtype=bool)
    period_N = periods(tokens_NT, length_N)
    for row in np.flatnonzero(period_N):
        period, row_T = period_N[row], tokens_NT[row, : length_N[row]]
        same_T = row_T[period:] == row_T[:-period]
        share_T = np.cumsum(same_T[::-1])[::-1] / np.arange(len(same_T), 0, -1)
        start = np.flatnonzero(same_T & (share_T >= SHARE_EXPLAINED))[0] + period
        covered_NT[row, start : length_N[row]] = True
    return covered_NT


def zlib_ratio(tokens: Any, tail: int = ZLIB_TAIL) -> float:
    """Bytes over compressed bytes of the last `tail` tokens, each one byte; 0 for a response that is not longer."""
    tokens_T = np.asarray(tokens)
    if len(tokens_T) <= tail:
        return 0.0
    _, code_T = np.unique(tokens_T[-tail:], return_inverse=True)  # up to 256 different tokens keep a byte each
    raw = (code_T % 256).astype(np.uint8).tobytes()
    return len(raw) / len(zlib.compress(raw))


def compressible(
    tokens_NT: np.ndarray, length_N: np.ndarray, tail: int = ZLIB_TAIL, ratio: float = ZLIB_RATIO
) -> np.ndarray:
    """The published detector: bool[N], whether the last `tail` tokens compress by more than `ratio`."""
    rows = zip(np.asarray(tokens_NT), np.asarray(length_N).tolist(), strict=True)
    return np.array([zlib_ratio(row[:n], tail) > ratio for row, n in rows], dtype=bool)
