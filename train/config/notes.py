"""Notes of what the settings of a command are, for answers without torch (`early.py`).

A note holds the text of `--help`, and plain classes that stand in for the dataclasses: the same names, types, defaults
and ranges, none of the code. It lies below `__pycache__` and counts as long as no file of the lab has changed.
"""

import dataclasses
import hashlib
import io
import os
import pickle
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "__pycache__"
FLAGS = ("one_of", "form", "refused", "kind")  # class attributes that `schema.py` reads


def noted_as(name: str, section: str) -> str:
    """The name of a note."""
    return f"{name}-{section}" if section else name


def note(name: str, schema: type, help_page: Callable[[], str]) -> None:
    """Notes a command for the next time, where that is not done and the folder can be written."""
    path = FOLDER / f"settings-{name}.pickle"
    key = _key()
    with suppress(OSError):
        if _stored_key(path) == key:
            return
        content = io.BytesIO()
        says = {"complete": hasattr(schema, "complete"), "own_names": hasattr(schema, "alias")}
        _Pickler(content).dump({"help": help_page(), "schema": schema, **says})
        FOLDER.mkdir(exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(key + content.getvalue())
        temporary.replace(path)


def read(name: str) -> dict[str, Any] | None:
    """As trusted as the compiled code beside it."""
    path = FOLDER / f"settings-{name}.pickle"
    if _stored_key(path) != _key():
        return None
    try:
        return pickle.loads(path.read_bytes()[32:])
    except Exception:  # of another Python, or damaged
        return None


def _stored_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _key() -> bytes:
    """Of the names, sizes and times of all files that settings come from, and the Python that runs."""
    found = [sys.version]
    for top in ("synth", "models", "train", "probes", "configs", "train/configs"):
        for folder, below, files in os.walk(ROOT / top):
            below[:] = [one for one in below if one not in ("__pycache__", "zoo")]
            for file in files:
                if file.endswith((".py", ".yaml")):
                    stat = os.stat(os.path.join(folder, file))  # noqa: PTH116, PTH118  some hundred files, at every start
                    found.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).digest()


class _Pickler(pickle.Pickler):
    """Writes dataclasses and choices as what `_shell` and `_fill` make stand-ins of."""

    def reducer_override(self, obj: Any) -> Any:
        from train.config.schema import Choice, defaults, hints_of

        chosen: bool = isinstance(obj, type) and issubclass(obj, Choice)
        if not (chosen or (isinstance(obj, type) and dataclasses.is_dataclass(obj))) or obj is Choice:
            return NotImplemented
        state: dict[str, Any] = {"flags": {flag: getattr(obj, flag) for flag in FLAGS if hasattr(obj, flag)}}
        if dataclasses.is_dataclass(obj):
            values = defaults(obj)
            state["fields"] = [(name, hint, values[name]) for name, hint in hints_of(obj).items()]
            state["ranges"] = getattr(getattr(obj, "__post_init__", None), "__qualname__", "").startswith("settings.")
        if chosen and Choice in obj.__bases__:
            return _shell, (obj.__name__, Choice), state | {"options": dict(vars(obj)["options"])}, None, None, _fill
        base = next(one for one in obj.__mro__ if Choice in one.__bases__) if chosen else object
        return _shell, (obj.__name__, base), state, None, None, _fill


def _shell(name: str, base: type) -> type:
    return types.new_class(name, (base,))


def _fill(cls: Any, state: dict[str, Any]) -> None:
    from synth.ranges import settings

    for flag, value in state["flags"].items():
        setattr(cls, flag, value)
    if "options" in state:
        cls.options = state["options"]
    if "fields" in state:
        cls.__annotations__ = {name: hint for name, hint, _ in state["fields"]}
        for name, _, value in state["fields"]:
            setattr(cls, name, dataclasses.field(default_factory=lambda value=value: value))
        (settings if state["ranges"] else dataclasses.dataclass(frozen=True))(cls)
