"""How much memory a piece of work needs, from the kernel's high-water mark. Linux only."""

import gc
from collections.abc import Callable
from pathlib import Path

CLEAR = Path("/proc/self/clear_refs")  # "5" forgets the high-water mark


def status(name: str) -> float:
    """MiB of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def added_by(work: Callable[[], object]) -> float:
    """MiB by which `work` raised the resident memory at its peak over what it was before."""
    gc.collect()
    CLEAR.write_text("5", encoding="ascii")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before
