"""Two things timed in turn, A B A B ..., so that a machine whose speed drifts slows both alike. Nothing is asserted.

A bench that prints `line(...)` is in the table: `line` also notes its numbers for `conftest.py`, which prints all of
them at the end and, asked with `--table FILE`, writes them into that file.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

Work = Callable[[], int | tuple[float, float]]
ROWS = "BENCH_ROWS"  # environment: the file that takes the rows of a session


def ratios(ours: Work, theirs: Work, rounds: int = 7) -> tuple[float, float, list[float]]:
    """(median units per second of ours, of theirs, ours / theirs round by round) of functions that return units done.

    Time of the process, all its threads, so other work on the machine counts little; a function that works in another
    process, or on another device, returns (units, seconds) itself. One round is not counted.
    """
    rates: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        pair = []
        for function in (ours, theirs):
            start = time.process_time()
            done = function()
            units, seconds = done if isinstance(done, tuple) else (done, time.process_time() - start)
            pair.append(units / seconds)
        rates.append((pair[0], pair[1]))
    counted = rates[1:]
    each = sorted(a / b for a, b in counted)
    return statistics.median(a for a, _ in counted), statistics.median(b for _, b in counted), each


def quartiles(each: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    low, median, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return low, median, high


def line(
    what: str, unit: str, ours: float, theirs: float, each: list[float], goal: float | None = None, per: str = "/s"
) -> str:
    """One line of a report, and a row of the table: rates, the median ratio and its quartiles, what is wanted of it."""
    low, median, high = quartiles(each)
    row = {"what": what, "unit": unit + per, "ours": ours, "theirs": theirs, "low": low, "median": median}
    row |= {"high": high, "pairs": len(each), "goal": goal}
    if ROWS in os.environ:
        with Path(os.environ[ROWS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    wanted = "" if goal is None else f", wanted {goal:g}"
    return (
        f"{what}: {ours:,.0f} {unit}{per}, peer {theirs:,.0f}, ratio {median:.2f} "
        f"[{low:.2f}, {high:.2f}], {len(each)} pairs{wanted}"
    )
