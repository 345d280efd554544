"""When a distillation collapses, from its metrics.jsonl: the definition that reports, analyses and notebooks share.

Onset: the first logged step from which the mean TruncRate of that step and the next four is at least one half and stays
so to the end of the run. A run that recovers has no onset, and neither has one that ends before it gets there.

Departure: the first logged step from which a metric lies beyond its start (the mean of its first five logged steps)
five times in a row. It comes before an onset, and without one where a run recovers. Both definitions are ours.

Legend: K logged steps.
"""

from collections.abc import Sequence

import numpy as np

from train.runs.results import Run

TRUNCATED = 0.5  # TruncRate of a collapse
STEADY = 5  # logged steps that a collapse is averaged over, that a start consists of, and that a departure lasts
LONGER, MORE = 1.25, 0.05  # a departure of the length is a factor, of the two rates a difference
HEALTH = ("length_mean", "truncation", "repetition")  # the metrics whose departure announces a collapse


def trailing_mean(values_K: np.ndarray, width: int) -> np.ndarray:
    """Mean of each value and the `width` - 1 before it; at the start, of those that exist."""
    total = np.concatenate([[0.0], np.cumsum(values_K)])
    stop = np.arange(1, len(values_K) + 1)
    start = np.maximum(stop - width, 0)
    return (total[stop] - total[start]) / (stop - start)


def onset(run: Run) -> int | None:
    """The step of the collapse; None where there is none or nothing was sampled."""
    step_K, value_K = (np.asarray(axis, dtype=float) for axis in run.curve("truncation"))
    if len(step_K) < STEADY:
        return None
    ahead = trailing_mean(value_K, STEADY)[STEADY - 1 :]  # entry k: mean of values k to k + 4
    below = np.flatnonzero(ahead < TRUNCATED)
    first = int(below[-1]) + 1 if len(below) else 0
    return int(step_K[first]) if first < len(ahead) else None


def departure(steps: Sequence[float], values: Sequence[float], metric: str) -> int | None:
    """The step at which a metric of HEALTH departs from its start; None where it does not."""
    if len(values) < STEADY:
        return None
    start = float(np.mean(values[:STEADY]))
    bound = LONGER * start if metric == "length_mean" else start + MORE
    beyond = np.asarray(values) > bound
    return next((int(steps[k]) for k in range(len(values) - STEADY + 1) if beyond[k : k + STEADY].all()), None)
