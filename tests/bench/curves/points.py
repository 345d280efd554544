"""The points of a curve: numbers of each, peak memory of work in a process of its own, the machine's matrix rate.

`curve(...)` notes a curve for `tests/bench/conftest.py`, which puts its table and its picture into the page.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.bench.paired_timing import ROWS
from tests.bench.peak_memory import CLEAR, added_by
from train.core.torch_setup import return_freed_memory


def curve(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[float]], drawn: Sequence[str]) -> str:
    """Notes a curve and gives it as lines: the first column is what is changed, `drawn` are those in the picture."""
    if ROWS in os.environ:
        found = {"curve": name, "title": title, "columns": list(columns), "rows": rows, "drawn": list(drawn)}
        with Path(os.environ[ROWS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    return "\n".join(["", title, " | ".join(columns), *(" | ".join(map(shown, row)) for row in rows)])


def shown(number: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def rate(work: Callable[[], float], rounds: int = 3) -> float:
    """Units per second of process time, the median of `rounds` after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        start = time.process_time()
        units = work()
        found.append(units / (time.process_time() - start))
    return statistics.median(found[1:])


def matrix_rate(rows: int, width: int) -> float:
    """GFLOP/s of [rows, width] times [width, 4 width] in float32, what the products of a training step are at best."""
    x, w, out = torch.randn(rows, width), torch.randn(width, 4 * width), torch.empty(rows, 4 * width)
    flops = 8.0 * rows * width**2
    times = max(1, int(2e9 / flops))

    def products() -> float:
        for _ in range(times):
            torch.mm(x, w, out=out)
        return times * flops / 1e9

    return rate(products)


def memory(work: Callable[[], object]) -> float:
    """MiB that `work` adds at its peak, in a copy of this process; nan where the system has no high-water mark."""
    if not CLEAR.exists():
        return float("nan")
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, writer))
    process.start()
    writer.close()
    found = reader.recv()
    process.join()
    return found


def _measure(work: Callable[[], object], writer: Connection) -> None:
    return_freed_memory()
    writer.send(added_by(work))
