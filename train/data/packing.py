"""Layouts of packed rows: whole documents side by side, or one stream cut into windows.

    documents   | a a a a a b b b . |     every document whole, first fit by falling length
                | c c c c c c d d . |
    concat      | a a a a a b b b c |     as in the papers: end to end, cut where a window ends
                | c c c c c d d . . |

A layout maps the lengths of N documents to the cell where each begins (row * window + column, int64[N]) and the number
of rows.
"""

import numpy as np

Layout = tuple[np.ndarray, int]


def first_fit(lengths: np.ndarray, window: int) -> Layout:
    """Every document whole in the first row that has room for it, longest first. Raises ValueError if one is too long.

    First fit by falling length needs at most 11/9 of the fewest possible rows (Johnson 1973).
    """
    if lengths.max() > window:
        raise ValueError(f"batch.window={window}: a document has {lengths.max()} tokens; accepted: at least as many")
    cell, used, n_rows = np.zeros(len(lengths), dtype=np.int64), np.zeros(len(lengths), dtype=np.int64), 0
    for i in np.argsort(-lengths, kind="stable"):
        row = int((used + lengths[i] <= window).argmax())
        cell[i] = row * window + used[row]
        used[row] += lengths[i]
        n_rows = max(n_rows, row + 1)
    return cell, n_rows


def end_to_end(lengths: np.ndarray, window: int) -> Layout:
    """One stream cut into rows; only the last row may not be full."""
    total = int(lengths.sum())
    return np.cumsum(lengths) - lengths, -(-total // window)


LAYOUTS = {"documents": first_fit, "concat": end_to_end}


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... for lengths[0] numbers, then the same from starts[1], and so on."""
    ahead = np.cumsum(lengths) - lengths
    return np.repeat(np.asarray(starts) - ahead, lengths) + np.arange(int(lengths.sum()))
