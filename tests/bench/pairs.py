"""Two things timed in turn, A B A B ..., so that a machine whose speed drifts slows both alike. Nothing is asserted."""

import statistics
import time
from collections.abc import Callable


def ratios(ours: Callable[[], int], theirs: Callable[[], int], rounds: int = 7) -> tuple[float, float, list[float]]:
    """(median units per second of ours, of theirs, ours / theirs round by round) of functions that return units done.

    Time of the process, all its threads, so other work on the machine counts little. One round is not counted.
    """
    rates: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        pair = []
        for function in (ours, theirs):
            start = time.process_time()
            units = function()
            pair.append(units / (time.process_time() - start))
        rates.append((pair[0], pair[1]))
    counted = rates[1:]
    each = sorted(a / b for a, b in counted)
    return statistics.median(a for a, _ in counted), statistics.median(b for _, b in counted), each


def line(what: str, unit: str, ours: float, theirs: float, each: list[float]) -> str:
    """One line of a report: rates, the median ratio and its range."""
    return (
        f"{what}: {ours:,.0f} {unit}/s, peer {theirs:,.0f}, ratio {statistics.median(each):.2f} "
        f"[{each[0]:.2f}, {each[-1]:.2f}], {len(each)} pairs"
    )
