"""Progress of long work: a bar on a terminal, elsewhere a plain line at a steady pace, so that logs can be followed.

    for part in Progress(parts, desc="probes", unit=" parts"): ...

    probes: 25%, 3 of 12 parts, 01:30 gone, 04:30 left, 30.0s/ parts

A line comes every `pace()` seconds: 30, or what the environment says in TQDM_MININTERVAL. Work that ends before the
first of them prints none. TERM=dumb counts as no terminal. Of several processes only rank 0 shows anything.
"""

import os
import sys
import threading
from typing import IO, Any

from tqdm import tqdm

# tqdm's own lock is for bars of several processes on one terminal. It holds a semaphore of the system, of which Python
# warns, after the last line of a command, when a stage is ended early.
tqdm.set_lock(threading.RLock())
PACE = 30.0  # seconds
LINE = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}{unit}, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"
LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit}, {elapsed} gone, {rate_fmt}{postfix}"


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person watches who can be shown a bar."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colour(stream: IO[str]) -> bool:
    """Whether text may be coloured: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def pace() -> float:
    """Seconds from one plain line to the next."""
    return float(os.environ.get("TQDM_MININTERVAL") or PACE)


class Progress(tqdm):
    """tqdm's bar, with its arguments, on standard error unless `file` says otherwise."""

    def __init__(self, iterable: Any = None, *, desc: str = "", **how: Any) -> None:
        stream = how.get("file") or sys.stderr
        self.plain = not is_terminal(stream)
        if os.environ.get("RANK", "0") != "0":
            how["disable"] = True
        if self.plain:
            size = how.get("total") or len(iterable) if hasattr(iterable, "__len__") else how.get("total")
            form = LINE if size else LINE_WITHOUT_TOTAL
            how |= {"delay": pace(), "mininterval": pace(), "miniters": 1, "bar_format": form, "dynamic_ncols": False}
        super().__init__(iterable, desc=desc, **how)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Shows the bar, or prints the line; tqdm calls it when it is time."""
        if not self.plain:
            return bool(super().display(msg, pos))
        if msg is None:
            print(str(self).strip(), file=self.fp, flush=True)
        return False

    @classmethod
    def write(cls, s: str, file: IO[str] | None = None, end: str = "\n", nolock: bool = False) -> None:
        """Prints a text above the bars."""
        stream = file or sys.stderr
        if is_terminal(stream):
            super().write(s, stream, end, nolock)
        else:
            print(s, file=stream, end=end, flush=True)

    def close(self) -> None:
        """Ends the display; the command itself says what came out."""
        if self.plain:
            self.leave = False
        super().close()
