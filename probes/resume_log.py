"""What a run has done so far: metrics.jsonl, from which a killed run goes on after its last finished part.

A line with `value` ends a part. Lines before it, the V-probe's losses, belong to the part after them; those of a part
that was not finished are dropped when the run starts again.

    log.once("nece linear", fit)        # calls fit() the first time; from then on what it gave
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synth.store.files import append_json_line, finite, read_json_lines, write_json_lines


class ResumeLog:
    """Named parts of a run, each done once. Their values are JSON: None for a number that is not finite, no tuples."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_json_lines(path)
        whole = max((i + 1 for i, line in enumerate(lines) if "value" in line), default=0)
        if whole < len(lines):
            write_json_lines(path, lines[:whole])
        self._done = {line["part"]: line for line in lines[:whole] if "value" in line}

    def __contains__(self, part: str) -> bool:
        return part in self._done

    def loss(self, part: str, step: int, loss: float, progress: float) -> None:
        """A loss inside a part; `progress` is the share of the whole run that is done."""
        append_json_line(self.path, {"part": part, "step": step, "loss": loss, "progress": progress}, durable=False)

    def once(self, part: str, make: Callable[[], Any], progress: float | None = None) -> Any:
        """The value of a part, made at the first call; `progress` is that of the run after it."""
        if part not in self._done:
            start = time.monotonic()
            line = {"part": part, "value": finite(make()), "seconds": time.monotonic() - start}
            line |= {} if progress is None else {"progress": progress}
            append_json_line(self.path, line)
            self._done[part] = line
        return self._done[part]["value"]

    @property
    def seconds(self) -> float:
        """Of all finished parts."""
        return sum(line["seconds"] for line in self._done.values())
