"""One switch between compiled and plain Python: `@jit` is numba's `njit`, or nothing at all.

The kernels of synth are written on small integer arrays so that both give identical output. `GLASSHOUSE_JIT=0`
in the environment selects plain Python: slower by a few hundred times, but it starts at once, which is what a person
who wants to look at one problem needs.

Numba's cache does not notice when a *called* kernel changed, so the kernels of a file are cached in a folder named by a
hash of that file and of all it imports from synth: editing one can never run stale machine code, and recompiles
only what depends on it.
"""

import ast
import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable)

ENABLED = os.environ.get("GLASSHOUSE_JIT", "1") != "0"
PACKAGE = Path(__file__).resolve().parents[1]  # synth

if ENABLED:
    import numba


def sources(module: str) -> set[str]:
    """The modules that `module` imports from synth, directly or not, and itself: dotted names without `synth.`."""
    found, stack = set(), [module]
    while stack:
        name = stack.pop()
        if name not in found and _file(name).is_file():
            found.add(name)
            stack += _imported(_file(name))
    return found


def _file(module: str) -> Path:
    return (PACKAGE / module.replace(".", "/")).with_suffix(".py")


@cache  # a module that many others import is read once, which is most of what starting a command takes here
def _imported(file: Path) -> list[str]:
    """The modules of synth that a file itself imports, inside functions too, among names that may be none."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name.removeprefix("synth.") for alias in node.names if alias.name.startswith("synth.")]
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "synth":
            base = node.module.removeprefix("synth").removeprefix(".")
            found += [base, *(f"{base}.{alias.name}".removeprefix(".") for alias in node.names)]
    return [name for name in found if name]


@cache
def _cache_folder(module: str) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(sources(module)):
        digest.update(_file(name).read_bytes())
    return str(cache_home(PACKAGE) / f"numba-{module}-{digest.hexdigest()}")


@cache
def cache_home(package: Path) -> Path:
    """Where machine code is kept, which numba unpickles: beside the package, else in a folder of this user alone. A
    name that others could foresee in a shared temporary folder is never used."""
    if os.access(package, os.W_OK):
        return package / "__pycache__"
    try:
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "glasshouse")
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        if own.stat().st_uid == os.getuid() and not own.stat().st_mode & 0o022 and os.access(own, os.W_OK):
            return own
    except (OSError, RuntimeError, AttributeError):  # no home, or no user ids on this system
        pass
    folder = tempfile.mkdtemp(prefix="glasshouse-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # compiled anew in every process
    return Path(folder)


def jit(function: F) -> F:
    """Compile `function` with numba (cached on disk), or return it unchanged when the switch is off."""
    if not ENABLED:
        return function
    package, _, module = function.__module__.partition(".")
    if package == "synth":
        numba.config.CACHE_DIR = _cache_folder(module)  # type: ignore[attr-defined]
    return cast(F, numba.njit(cache=True)(function))
