"""Shows how far the running stages of a recipe are, from the metrics in their run folders.

On a terminal each running stage has a progress bar; elsewhere a line at a steady pace (`synth.kernel.progress`).
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tqdm import tqdm

from synth.kernel.progress import is_terminal, pace
from synth.store.files import last_json_line
from train.runs.results import Run

EVERY_TERMINAL = 0.5  # seconds between two updates
BAR = "{desc:<14} {percentage:3.0f}%|{bar:20}| {elapsed} {postfix}"


class ProgressDisplay:
    """A context manager; `update` may be called often and limits its own rate."""

    def __init__(self) -> None:
        self.terminal = is_terminal(sys.stderr)
        self._bars: dict[str, tqdm] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def started(self, name: str) -> None:
        """A stage has been started."""
        if self.terminal:
            self._bars[name] = tqdm(total=1.0, desc=name, bar_format=BAR, leave=False, dynamic_ncols=True)
        else:
            self._print(f"{name:<14} started")

    def ended(self, name: str, how: str, path: Path) -> None:
        """A stage has come to its end, or was complete before; `path` is its run folder, or its log if it failed."""
        if name in self._bars:
            self._bars.pop(name).close()
        self._print(f"{name:<14} {how:<9} {path}")

    def update(self, running: Mapping[str, tuple[float, Path | None]]) -> None:
        """Shows the running stages: name -> (time of its start, run folder if it has one yet)."""
        now = time.monotonic()
        if now - self._last < (EVERY_TERMINAL if self.terminal else pace()):
            return
        self._last = now
        for name, (started, folder) in running.items():
            share, text = (0.0, "") if folder is None else progress_of(folder)
            if self.terminal:
                self._bars[name].n = share
                self._bars[name].set_postfix_str(text, refresh=True)
            else:
                spent = f"{share:4.0%}  " if text else ""
                self._print(f"{name:<14} {spent}{time.time() - started:.0f} s  {text}".rstrip())

    def _print(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def progress_of(folder: Path) -> tuple[float, str]:
    """Share of its budget that a run has spent, and its newest numbers; (0, "") before it has logged any."""
    log = folder / "metrics.jsonl"
    line = last_json_line(log) if log.is_file() else {}
    budget = Run(folder).config.get("budget") or {}
    unit = next((unit for unit, amount in budget.items() if amount), "")
    spent = line.get("step" if unit == "steps" else unit)
    share = min(1.0, spent / budget[unit]) if spent else float(line.get("progress", 0.0))  # a stage without a budget
    numbers = [f"step {line['step']}"] if "step" in line else []
    numbers += [f"loss {line['smooth_loss']:.3f}"] if isinstance(line.get("smooth_loss"), float) else []
    return share, ", ".join(numbers)
