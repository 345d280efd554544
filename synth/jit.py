"""One switch between compiled and plain Python: `@jit` is numba's `njit`, or nothing at all.

The kernels of this room are written on small integer arrays so that both give identical output. `GLASSHOUSE_JIT=0`
in the environment selects plain Python: slower by a few hundred times, but it starts at once, which is what a person
who wants to look at one problem needs.

Numba's cache does not notice when a *called* kernel changed, so the kernels of a file are cached in a folder named by a
hash of that file and of all it imports from this room: editing one can never run stale machine code, and recompiles
only what depends on it.
"""

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

F = TypeVar("F", bound=Callable)

ENABLED = os.environ.get("GLASSHOUSE_JIT", "1") != "0"
HERE = Path(__file__).parent

if ENABLED:
    import numba


def sources(module: str) -> set[str]:
    """The modules of this room that `module` (a name without `synth.`) imports, directly or not, and itself."""
    found, stack = set(), [module]
    while stack:
        name = stack.pop()
        if name not in found and (file := HERE / f"{name}.py").is_file():
            found.add(name)
            stack += _imported(file)
    return found


@cache  # a module that many others import is read once, which is most of what starting a command takes here
def _imported(file: Path) -> list[str]:
    """The modules of this room, and names in it, that a file itself imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "synth":
            found += node.module.split(".")[1:] or [alias.name for alias in node.names]
    return found


@cache
def _cache_folder(module: str) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(sources(module)):
        digest.update((HERE / f"{name}.py").read_bytes())
    base = HERE / "__pycache__" if os.access(HERE, os.W_OK) else Path(tempfile.gettempdir())
    return str(base / f"numba-{module}-{digest.hexdigest()}")


def jit(function: F) -> F:
    """Compile `function` with numba (cached on disk), or return it unchanged when the switch is off."""
    if not ENABLED:
        return function
    room, _, module = function.__module__.rpartition(".")
    if room == "synth":
        numba.config.CACHE_DIR = _cache_folder(module)  # type: ignore[attr-defined]
    return numba.njit(cache=True)(function)
