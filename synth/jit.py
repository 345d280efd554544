"""One switch between compiled and plain Python: `@jit` is numba's `njit`, or nothing at all.

The kernels of this room are written on small integer arrays so that both give identical output. `GLASSHOUSE_JIT=0`
in the environment selects plain Python: slower by a few hundred times, but it starts at once, which is what a person
who wants to look at one problem needs.

Numba's cache does not notice when a *called* kernel changed, so the cache lives in a folder named by a hash of the
sources that hold kernels, or constants compiled into them: editing one can never run stale machine code.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

F = TypeVar("F", bound=Callable)

ENABLED = os.environ.get("GLASSHOUSE_JIT", "1") != "0"

if ENABLED:
    import numba

    def _cache_folder() -> str:
        here = Path(__file__).parent
        digest = hashlib.blake2b(digest_size=6)
        for source in sorted(here.glob("*.py")):
            text = source.read_bytes()
            if b"@jit" in text or source.name == "world.py":
                digest.update(text)
        base = here / "__pycache__" if os.access(here, os.W_OK) else Path(tempfile.gettempdir())
        return str(base / f"numba-{digest.hexdigest()}")

    numba.config.CACHE_DIR = _cache_folder()  # type: ignore[attr-defined]


def jit(function: F) -> F:
    """Compile `function` with numba (cached on disk), or return it unchanged when the switch is off."""
    return numba.njit(cache=True)(function) if ENABLED else function
