"""The text of `--help`: what a command does, its options, and every setting with its default and half a line of words.

The words stand in one place, the dataclass: the comment behind a field (`threads: int = 1  # of the CPU`), or else the
sentence that begins with the field's name in the docstring of the class (`init: a checkpoint to start from.`).
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml
from hydra.types import RunMode

from synth.ranges import accepted
from train.config.loader import Command, Loader
from train.config.schema import defaults, hints_of, is_choice, split, types_of

OPTIONS = """\
Options (Hydra's own):
  -m             a sweep: a run for every combination, `-m optim.lr=1e-3,2e-3 seed=0,1,2`; also range(1,5), glob(g*)
                 hydra/launcher=joblib, submitit_local or submitit_slurm runs them side by side (extra `cluster`)
  --show         the resolved settings; Hydra's own: --cfg job|hydra|all, --resolve, --package KEY, --info
  --config-dir D one more folder like configs/ (or several in GLASSHOUSE_CONFIGS); GROUP=/path/file.yaml: one file
  --config-name  another main file; --shell-completion install=bash|zsh: completion by the tab key
  --traceback    where an error came from
Words: KEY=VALUE, +KEY=VALUE in an open mapping, ~KEY back to the default, KEY='${other.key}', lists [a,b], {a: 1}"""
WIDTH = 40  # of a setting and its default
LONG = 100  # most letters of words about a setting


def page(command: Command) -> str:
    """The whole page."""
    loader = Loader(command)
    values = loader.composed(command.name, [], RunMode.RUN)[1]
    text = (command.folder / f"{command.name}.yaml").read_text(encoding="utf-8")
    groups = [name for name in loader.get_group_options("", None) if f"{name}:" in text]
    parts = [f"  {group}={' | '.join(loader.options(group))}" for group in groups]
    lines = [command.doc.strip(), "", OPTIONS]
    lines += ["", "Ready-made parts (configs/GROUP/NAME.yaml, or GROUP=/path/of/your.yaml):", *parts] if parts else []
    lines += ["", "Settings and their defaults (KEY=VALUE; A.B=VALUE inside a group):"]
    return "\n".join([*lines, *(f"  {line}" for line in described(command.schema, values))])


def described(hint: Any, values: Any, indent: int = 0) -> Iterator[str]:
    """A line for every setting of a group: its name, its value, its words."""
    inner = _chosen(hint, values)
    words, hints = words_of(inner), hints_of(inner)
    for name, value in values.items():
        own = name == "kind" and name not in hints
        said = _options(hint) if own else _words(words.get(name, ""), hints[name], value)
        inside, below = _inside(hints.get(name), value), " " * indent
        shown = f"{below}{name}:" if isinstance(value, Mapping) and value else f"{below}{name}: {_short(value)}"
        yield f"{shown:<{WIDTH}}  {said}".rstrip()
        if inside is not None:
            yield from described(*inside, indent + 2)


def words_of(schema: type) -> dict[str, str]:
    """Setting -> half a line about it, for all fields of a dataclass that have one."""
    found: dict[str, str] = {}
    names = [f.name for f in dataclasses.fields(schema)]
    for cls in reversed(schema.__mro__):
        if dataclasses.is_dataclass(cls):
            found |= _from_docstring(cls.__doc__ or "", names) | _from_comments(cls)
    return {name: found[name] for name in names if name in found}


def all_words(hint: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every setting below a dataclass or choice, with all options, by its dotted name, and its words."""
    inner, _ = split(hint)
    if is_choice(inner):
        for kind, chosen in inner.options.items():
            yield from all_words(chosen, f"{where}[{kind}]")
    elif dataclasses.is_dataclass(inner):
        words = words_of(typing.cast(type, inner))
        for name, below in hints_of(typing.cast(type, inner)).items():
            yield f"{where}.{name}", words.get(name) or _of_class(split(below)[0])
            yield from all_words(below, f"{where}.{name}")
    elif typing.get_origin(inner) in (list, dict):
        for note in (*typing.get_args(hint), *typing.get_args(inner)):
            yield from all_words(note, f"{where}[]")


def _of_class(group: Any) -> str:
    """What a group of settings is: the first sentence about its class, where it has one of its own."""
    doc = " ".join((vars(group).get("__doc__") or "").split()) if isinstance(group, type) else ""
    return "" if doc.startswith((getattr(group, "__name__", "") + "(", "dict(")) else re.split(r"[.;:] |\.$", doc)[0]


@cache
def _from_comments(cls: type) -> dict[str, str]:
    try:
        lines = inspect.getsource(getattr(cls, "documented", cls)).splitlines()
    except (OSError, TypeError):
        return {}
    found = (re.match(r"    (\w+): (?:[^#\"]|\"[^\"]*\")*  # (.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match and not match[2].startswith(("pyright", "fmt", "noqa"))}


def _from_docstring(doc: str, names: list[str]) -> dict[str, str]:
    text, found = " ".join(doc.split()), {}
    for name in names:
        begins = rf"(?:^|[.;] )(?:`?\w+`?, )*`?{name}`?(?:, `?\w+`?)*: "
        if match := re.search(rf"{begins}(.+?)(?=[.;] |\.?$)", text):
            found[name] = match[1]
    return found


def _words(words: str, hint: Any, value: Any) -> str:
    """The words of a setting, before them what it accepts."""
    inner: Any
    inner, optional = split(hint)
    if not words and (dataclasses.is_dataclass(inner) or is_choice(inner)):
        words = _of_class(inner)
    words = words if len(words) <= LONG else f"{words[:LONG].rsplit(' ', 1)[0]} ..."
    takes = accepted(hint)
    if value is None and not takes and not is_choice(inner) and not dataclasses.is_dataclass(inner):
        takes = {int: "an integer", float: "a number", str: "text", bool: "true or false"}.get(inner, "")
    if is_choice(inner) and value is None:
        takes = ", ".join(typing.cast(Any, inner).options)
    if optional and value is None and (dataclasses.is_dataclass(inner) or is_choice(inner)):
        words = f"{words}; null: none" if words else "null: none"
    return "; ".join(filter(None, [words, f"[{takes}]" if takes else ""]))


def _options(hint: Any) -> str:
    inner = split(hint)[0]
    return f"[{', '.join(inner.options)}]" if is_choice(inner) else ""


def _inside(hint: Any, value: Any) -> tuple[Any, Any] | None:
    """What is below a setting: a group's settings, those that a group which is null would have, an open mapping's."""
    inner, _ = split(hint)
    if isinstance(value, Mapping) and (dataclasses.is_dataclass(inner) or is_choice(inner)):
        return hint, value
    if value is None and dataclasses.is_dataclass(inner):
        return inner, defaults(inner)
    note = types_of(hint)
    return (note, defaults(note)) if note is not None else None


def _chosen(hint: Any, values: Mapping[str, Any]) -> type:
    inner = split(hint)[0]
    return inner.options[values["kind"]] if is_choice(inner) else inner


def _short(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).strip()
    text = text.removesuffix("...").strip()
    return text if len(text) < 100 else f"{text[:96]} ..."
