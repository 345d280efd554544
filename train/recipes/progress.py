"""Shows a person how far the running stages of a recipe are, from what they write into their run folders.

On a terminal each running stage has a bar; elsewhere a line now and then. The stages know nothing of it.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.runs.results import Run

EVERY_TERMINAL, EVERY_LOG = 0.5, 30.0  # seconds between looks
TAIL = 4096  # bytes from the end of a log that hold its last line


class Watch:
    """A context manager; `look` is called often and decides itself when to look."""

    def __init__(self, root: Path, terminal: bool | None = None):
        self.root = root
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bars: dict[str, tqdm] = {}
        self._last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in self._bars.values():
            bar.close()

    def skipped(self, name: str, folder: Path) -> None:
        self._say(f"{name:<14} complete  {folder}")

    def started(self, name: str) -> None:
        if self.terminal:
            form = "{desc:<14} {percentage:3.0f}%|{bar:20}| {elapsed} {postfix}"
            self._bars[name] = tqdm(total=1.0, desc=name, bar_format=form, leave=False, dynamic_ncols=True)
        else:
            self._say(f"{name:<14} started")

    def finished(self, name: str, folder: Path, seconds: float) -> None:
        if name in self._bars:
            self._bars.pop(name).close()
        self._say(f"{name:<14} done in {seconds:.0f} s  {folder}")

    def failed(self, name: str, log: Path) -> None:
        if name in self._bars:
            self._bars.pop(name).close()
        self._say(f"{name:<14} failed    {log}")

    def look(self, running: list[tuple[str, float]]) -> None:
        """Shows each running stage (name, time of its start), if it is time to."""
        now = time.monotonic()
        if now - self._last < (EVERY_TERMINAL if self.terminal else EVERY_LOG):
            return
        self._last = now
        for name, started in running:
            share, text = state(self.root, name, started)
            if self.terminal:
                bar = self._bars[name]
                bar.n = share
                bar.set_postfix_str(text, refresh=True)
            else:
                spent = f"{share:4.0%}  " if text else ""
                self._say(f"{name:<14} {spent}{time.time() - started:.0f} s  {text}".rstrip())

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def state(root: Path, name: str, since: float) -> tuple[float, str]:
    """Share of its budget that a stage has spent, and its newest numbers; (0, "") before it has written any."""
    logs = [p for p in root.glob(f"{name}-????????/metrics.jsonl") if p.stat().st_mtime >= since]
    if not logs:
        return 0.0, ""
    log = max(logs, key=lambda path: path.stat().st_mtime)
    line = last_line(log)
    budget = Run(log.parent).config.get("budget") or {}
    unit = next((unit for unit, amount in budget.items() if amount), None)
    spent = line.get(unit.removesuffix("s") if unit == "steps" else unit) if unit else None
    share = min(1.0, spent / budget[unit]) if spent else float(line.get("progress", 0.0))  # a stage without a budget
    numbers = [f"step {line['step']}"] if "step" in line else []
    numbers += [f"loss {line['smooth_loss']:.3f}"] if isinstance(line.get("smooth_loss"), float) else []
    return share, ", ".join(numbers)


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a JSON-lines file; {} if there is none within its last few kilobytes."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL))
        text = file.read().decode("utf-8", errors="replace")
    for line in reversed(text[: text.rfind("\n")].splitlines() if "\n" in text else []):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
