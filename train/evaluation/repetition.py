"""Two detectors of repetition: the exact one by its period, and the published one by compression.

Exact: a period P explains a position when its token equals the token P places before it. A response is repetitive when
some P <= 32 explains at least 90 % of its last max(3P, 32) tokens. It depends neither on the length of the tail nor on
how templated the text is to begin with. The repetitive tokens are those of the longest tail that P explains so.

Published (StableOPD, 2604.08527): a response longer than its last Lr characters whose bytes there are more than
tau = 10 times those of their zlib form, Lr = 10,000. Here one byte stands for a token, Lr = 128, and tau = 1.5. zlib
has a fixed cost, so that 128 tokens of a single kind reach only 10.7 and a loop of 32 tokens 3.0; and right solutions
compress too, the 99.9th percentile of those above 128 tokens by 1.44 (data=med, n = 860), 1.41 (hard, n = 741) and 1.45
(med with exactly 15 operations, n = 2000).

Try: periods(np.array([[7, 8] * 30]), np.array([60]))  ->  [2]
"""

import zlib
from collections.abc import Sequence

import numpy as np

LONGEST_PERIOD = 32
SHORTEST_TAIL = 32
SHARE_EXPLAINED = 0.9
ZLIB_TAIL = 128  # tokens
ZLIB_RATIO = 1.5


def periods(tokens_NT: np.ndarray, length_N: np.ndarray) -> np.ndarray:
    """The smallest period of the loop that each response ends in.

    Args:
        tokens_NT: int[N, T], responses, padded on the right with anything.
        length_N: int[N], tokens that count in each row.
    Returns:
        int64[N]: the period in tokens, 0 where the response does not end in a loop or is shorter than the tail
        that a period must explain.
    """
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
    """The tokens that belong to the loop that a response ends in: bool[N, T].

    With P of `periods`, those from the earliest start from which P still explains 90 % of all that follows, and which
    P itself explains; the first round of the loop is not among them, for it repeats nothing yet.
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


def zlib_ratio(tokens_T: Sequence[int], tail: int = ZLIB_TAIL) -> float:
    """Bytes over compressed bytes of the last `tail` tokens, each token one byte; 0 for a response not longer."""
    tokens_T = np.asarray(tokens_T)
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
