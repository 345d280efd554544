"""An exact detector of repetition: does a response end in a loop, and with what period?

A period P explains a position when its token equals the token P places before it. A response is repetitive when some
P <= 32 explains at least 90 % of the last max(3P, 32) tokens. Exact, unlike a compression ratio, which depends on
the length of the tail and on how templated the text is to begin with.

Try: periods(np.array([[7, 8] * 30]), np.array([60]))  ->  [2]
"""

import numpy as np

LONGEST_PERIOD = 32
SHORTEST_TAIL = 32
SHARE_EXPLAINED = 0.9


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
