"""Who depends on whom: the dependency graph of problems as arrays.

    ancestors(problems)[i, a, b]            # whether a rests on b, directly or not

Legend: N problems, X parameter slots.
"""

import numpy as np

from synth.problem.arrays import MAX_TERMS, SLOTS, Problems


def dependencies(problems: Problems) -> np.ndarray:
    """Slots that each parameter directly rests on, int64[N, X, 8], filled with -1."""
    inside_NXF = np.arange(MAX_TERMS)[:, None] < problems.n_terms[..., None, None]
    return np.where(inside_NXF, problems.terms, -1).reshape(*problems.n_terms.shape, -1)


def direct(problems: Problems) -> np.ndarray:
    """bool[N, X, X]: the first directly rests on the second."""
    slots_NXF = dependencies(problems)
    result_NXX = np.zeros((len(slots_NXF), SLOTS, SLOTS + 1), dtype=bool)  # the last column takes the -1
    n, x = np.indices(slots_NXF.shape[:2])
    for f in range(slots_NXF.shape[2]):
        result_NXX[n, x, slots_NXF[..., f]] = True
    return result_NXX[..., :SLOTS]


def ancestors(problems: Problems) -> np.ndarray:
    """bool[N, X, X]: the first rests on the second, directly or through others."""
    reached_NXX = direct(problems).astype(np.float32)
    length = 1  # of the longest path that is followed
    while length < SLOTS:
        reached_NXX = ((reached_NXX + reached_NXX @ reached_NXX) > 0).astype(np.float32)
        length *= 2
    return reached_NXX > 0


def distance(problems: Problems) -> np.ndarray:
    """Steps of dependency from the query to each parameter, along the shortest way; -1 for what it does not rest on.

    int64[N, X]; 0 for the query itself.
    """
    direct_NXX, n = direct(problems), np.arange(len(problems.value))
    result_NX = np.full((len(n), SLOTS), -1)
    front_NX = np.zeros((len(n), SLOTS), dtype=bool)
    front_NX[n, problems.query] = True
    for steps in range(SLOTS):
        result_NX[front_NX] = steps
        front_NX = (front_NX[:, :, None] & direct_NXX).any(1) & (result_NX < 0)
        if not front_NX.any():
            break
    return result_NX
