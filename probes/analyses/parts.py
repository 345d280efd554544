"""What an analysis has done so far: metrics.jsonl, from which a killed one goes on after its last finished part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synth.store.files import append_json_line, finite, read_json_lines


class Parts:
    """Named results that are made once; values are JSON.

    parts.of("a b=2", make)        # make() the first time, ever after what it gave
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done = {line["part"]: line["value"] for line in read_json_lines(path)}

    def of(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of this name; numbers that are not finite come back as None, tuples as lists."""
        if name not in self._done:
            line = {"part": name, "value": finite(make())}
            append_json_line(self.path, line)
            self._done[name] = line["value"]
        return self._done[name]
