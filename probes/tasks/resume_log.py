"""What a probe run has done so far: metrics.jsonl, from which a killed run goes on after its last finished part.

A line with `sites` ends a part and holds all that its rows in summary.json are made of; the lines before it are the
V-probe's losses. Lines of a part that was not finished are dropped when the run starts again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probes.readout.linear import Reading
from synth.store.files import append_json_line, atomic_write, read_json_lines


class Journal:
    """`part in journal` tells whether a part is finished; a part is any tuple of words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_json_lines(path)
        whole = max((i + 1 for i, line in enumerate(lines) if "sites" in line), default=0)
        if path.exists():
            atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines[:whole]))
        self._done = {line["part"]: line for line in lines[:whole] if "sites" in line}

    def __contains__(self, part: Sequence[str]) -> bool:
        return " ".join(part) in self._done

    def log(self, part: Sequence[str], step: int, loss: float, progress: float) -> None:
        """A loss on the way, and how much of the whole run is done."""
        line = {"part": " ".join(part), "step": step, "loss": loss, "progress": progress}
        append_json_line(self.path, line, durable=False)

    def finish(self, part: Sequence[str], readings: Sequence[Reading], seconds: float, progress: float) -> None:
        """Enters a part for good."""
        sites = [reading._asdict() | {"right": _bits(reading.right)} for reading in readings]
        line: dict[str, Any] = {"part": " ".join(part), "seconds": seconds, "progress": progress, "sites": sites}
        append_json_line(self.path, line)
        self._done[line["part"]] = line

    def readings(self, part: Sequence[str]) -> list[Reading]:
        """What a finished part read."""
        sites = self._done[" ".join(part)]["sites"]
        return [Reading(**site | {"right": np.array([bit == "1" for bit in site["right"]])}) for site in sites]

    @property
    def seconds(self) -> float:
        """Of all finished parts."""
        return sum(line["seconds"] for line in self._done.values())


def _bits(right: np.ndarray) -> str:
    return "".join("1" if r else "0" for r in right)
