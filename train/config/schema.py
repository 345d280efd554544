"""Plain values (YAML, command line) merged into frozen dataclasses, by the dataclasses' own type hints.

A field may be a number, text, a list, a mapping, another dataclass, or a `Choice`: one of several named dataclasses,
each with settings of its own. Plain data name the option by `kind`, or are the name alone:

    >>> merge(Divergence, None, {"kind": "jsd", "beta": 0.1}, "divergence")   # {'kind': 'jsd', 'beta': 0.1, ...}
    >>> build(Divergence, "jsd")                                              # JSD(beta=0.5): the option's defaults

The invariant that matters: what is merged is complete. Every setting has a value, or is REQUIRED, so that building
never meets an unknown name; the dataclasses check their own values (`synth.ranges`, `__post_init__`).
"""

import dataclasses
import difflib
import types
import typing
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, cast

from synth.ranges import BadSetting, accepted

REQUIRED: Any = "???"  # a setting that has no default: `checkpoint: str = REQUIRED`
_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Choice(ABC):
    """Base of a setting with several options. `class Shape(Choice)` is the setting, and each
    `class Circle(Shape, kind="circle")`, a frozen dataclass, one of `Shape.options`.

    refused: names that are no option on purpose, and why; part of the message that refuses them.
    """

    options: ClassVar[dict[str, type]]
    refused: ClassVar[dict[str, str]] = {}
    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str | None = None) -> None:
        super().__init_subclass__()
        if Choice in cls.__bases__:
            cls.options = {}
        if kind is not None:
            cls.kind, cls.options[kind] = kind, cls


def plain(value: Any) -> Any:
    """A config dataclass as nested plain dictionaries, for YAML, JSON and hashing; a choice has its `kind` first."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"kind": value.kind} if isinstance(value, Choice) else {}
        return named | {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value


def defaults(schema: Any) -> dict[str, Any]:
    """The defaults of a dataclass as plain data, REQUIRED where there is none; of an option with its `kind`."""
    fields = dataclasses.fields(schema)
    found = {"kind": schema.kind} if issubclass(schema, Choice) and hasattr(schema, "kind") else {}
    for f in fields:
        made = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        found[f.name] = REQUIRED if made is dataclasses.MISSING else plain(made)
    return found


def build(hint: Any, value: Any) -> Any:
    """The real, checked objects of plain data. Raises ValueError on an unknown option or setting, or a failed check."""
    inner, _ = split(hint)
    if is_choice(inner) and value is not None:
        value = {"kind": value} if isinstance(value, str) else dict(value)
        inner = option(inner, value.pop("kind", None), "kind")
    if value is None:
        return None
    if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
        hints = hints_of(inner)
        for name in (name for name in value if name not in hints):
            raise ValueError(_unknown(f"{name}={value[name]}", name, hints, ""))
        return cast(Any, inner)(**{name: _build_inside(name, hints[name], item) for name, item in value.items()})
    origin, args = typing.get_origin(inner), typing.get_args(inner)
    if origin is dict and isinstance(value, Mapping):
        return {name: _build_inside(name, args[1], item) for name, item in value.items()}
    if origin is list:
        return [_build_inside(str(i), args[0], item) for i, item in enumerate(value)]
    return tuple(value) if origin is tuple else value


def _build_inside(name: str, hint: Any, value: Any) -> Any:
    """`build` of the setting `name`; a value that a dataclass refuses is called by its full name."""
    try:
        return build(hint, value)
    except BadSetting as error:
        raise error.inside(name) from None


def merge(hint: Any, base: Any, given: Any, where: str) -> Any:
    """`base` (complete plain data, or None) with `given` merged in; complete again, every value of its type.

    A mapping that names a `kind`, or a name alone, replaces a choice with that option's defaults. Raises ValueError, in
    one line that begins with `where=given`, on an unknown name or a wrong type.
    """
    inner, optional = split(hint)
    if (given is None and (optional or inner is Any)) or waits(given):
        return given
    if is_choice(inner) and given is not None:
        return _merge_choice(inner, base, given, where)
    if dataclasses.is_dataclass(inner):
        if not isinstance(given, Mapping):
            accepted = _below(where, hints_of(inner))
            raise ValueError(f"{where}={_shown(given)}: a group of settings; accepted: {accepted}")
        return _merge_group(inner, base, given, where)
    origin = typing.get_origin(inner)
    if origin is dict and isinstance(given, Mapping):
        item, named, old = typing.get_args(inner)[1], _item_types(hint), dict(base) if isinstance(base, Mapping) else {}
        new = {n: merge(named.get(n, item), old.get(n), v, _path(where, n)) for n, v in given.items()}
        return old | {n: given[n] if named and v == given[n] else v for n, v in new.items()}  # 1 stays 1 for 1.0
    if origin in (list, tuple) and isinstance(given, list | tuple):
        item = (typing.get_args(inner) or (Any,))[0]
        return origin(merge(item, None, v, f"{where}.{i}") for i, v in enumerate(given))
    return _scalar(hint, given, where)


def assign(hint: Any, base: Any, path: Sequence[str], text: str, key: str, given: Iterable[str] = ()) -> Any:
    """`base` with the setting at `path` read from `text`, as `key=text` on a command line; complete again.

    `kind` of a choice switches the option and keeps what both options have. An optional group that is null begins with
    its defaults. In a list of choices an element is named by its place or its kind. `given`: all keys of the command
    line, for groups of which exactly one setting may be given (`one_of`): the others are cleared. A dataclass may name
    one of its settings as its `form`: whose value is the name of a mapping that is then merged into the whole.
    """
    inner, _ = split(hint)
    if not path:
        return merge(hint, base, parse(hint, text, key), key)
    base = None if waits(base) else base
    name, rest = path[0], path[1:]
    place = key.removesuffix("." + ".".join(path)) if key != ".".join(path) else ""
    if is_choice(inner) and name == "kind" and not rest:
        chosen = option(inner, text, key)
        kept = {n: v for n, v in (base or {}).items() if n in hints_of(chosen)}
        return defaults(chosen) | kept
    if is_choice(inner):
        if base is None:
            raise ValueError(f"{key}={text}: {place} is null; accepted: {place}=NAME with {', '.join(inner.options)}")
        inner = inner.options[base["kind"]]
    if dataclasses.is_dataclass(inner):
        hints, old = hints_of(inner), defaults(inner) if base is None else base
        if name not in hints:
            raise ValueError(_unknown(f"{key}={text}", name, hints, place))
        new = old | {name: assign(hints[name], old[name], rest, text, key, given)}
        if name == getattr(inner, "form", None) and new[name] != old[name]:
            new = _merge_group(inner, new, new.get(new[name]) or {}, place)
        if getattr(inner, "one_of", False) and new[name] is not None:
            new |= {other: None for other in hints if other != name and _path(place, other) not in given}
        return new
    if typing.get_origin(inner) is dict:
        return _assign_in_mapping(hint, base or {}, path, text, key, given)
    if typing.get_origin(inner) is list and base:
        places = [i for i, item in enumerate(base) if name in (str(i), isinstance(item, Mapping) and item.get("kind"))]
        if places:
            new = list(base)
            new[places[0]] = assign(typing.get_args(inner)[0], base[places[0]], rest, text, key, given)
            return new
        accepted = ", ".join(_path(place, str(i)) for i in range(len(base)))
        raise ValueError(f"{key}={text}: unknown setting; accepted: {accepted}")
    raise ValueError(f"{key}={text}: {place} has no settings inside it")


def parse(hint: Any, text: str, key: str) -> Any:
    """Text of a command line as a value, by Hydra's grammar; as it is where text is meant."""
    from train.config import grammar  # imports Hydra, which the dataclasses of settings do without

    inner, _ = split(hint)
    if text == "null":
        return None
    if inner is int and text.removeprefix("-").replace("_", "").isdigit():
        return int(text)
    try:
        value = grammar.value(text)
    except ValueError:
        raise ValueError(f"{key}={text}: expected {_expected(hint)}") from None
    if inner is str:
        return str(value) if isinstance(value, str) else text
    if isinstance(value, grammar.Several):
        wanted = f"{key}=[{text}]" if inner is Any or typing.get_origin(inner) in (list, tuple) else _expected(hint)
        raise ValueError(f"{key}={text}: several values; accepted: {wanted}, or -m for a run with each")
    if isinstance(value, str) and not value and not isinstance(value, grammar.Quoted):
        raise ValueError(f"{key}=: expected {_expected(hint)}")
    return str(value) if isinstance(value, str) else value


def waits(value: Any) -> bool:
    """Whether a value is not there yet: required, or an interpolation (`${...}`)."""
    return isinstance(value, str) and (value == REQUIRED or "${" in value)


def reset(hint: Any, base: Any, path: Sequence[str], key: str) -> Any:
    """`base` (complete) where the setting at `path` has its dataclass's default again; an entry of an open mapping or
    of a list is taken out."""
    inner, place = split(hint)[0], key.removesuffix("." + ".".join(path)) if key != ".".join(path) else ""
    if is_choice(inner) and isinstance(base, Mapping):
        inner = inner.options[base["kind"]]
    if dataclasses.is_dataclass(inner) and isinstance(base, Mapping):
        hints, name = hints_of(inner), path[0]
        if name not in hints:
            raise ValueError(_unknown(f"~{key}", name, hints, place))
        inside = reset(hints[name], base[name], path[1:], key) if path[1:] else defaults(inner)[name]
        return {**base, name: inside}
    if isinstance(base, Mapping):
        for i in range(len(path), 0, -1):
            name = ".".join(path[:i])
            if name in base and i == len(path):
                return {other: item for other, item in base.items() if other != name}
            if name in base:
                return {**base, name: reset((typing.get_args(inner) or (Any, Any))[1], base[name], path[i:], key)}
    if isinstance(base, list) and path[0].isdigit() and int(path[0]) < len(base):
        i, inside = int(path[0]), []
        if path[1:]:
            inside = [reset((typing.get_args(inner) or (Any,))[0], base[i], path[1:], key)]
        return base[:i] + inside + base[i + 1 :]
    accepted = ", ".join(_path(place, str(name)) for name in base) if isinstance(base, Mapping) else "nothing"
    raise ValueError(f"~{key}: there is none; accepted: {accepted or 'nothing'}")


def option(choice: type[Choice], kind: Any, where: str) -> type:
    """The class of an option. Raises ValueError, with a guess and all names, for one that is unknown."""
    if kind in choice.options:
        return choice.options[kind]
    why = f"is not known{guess(str(kind), choice.options)}"
    said = f"{kind}: {choice.refused[kind]}" if kind in choice.refused else f"{_shown(kind)} {why}"
    raise ValueError(f"{where}={said}; accepted: {', '.join(choice.options)}")


def guess(name: str, names: Iterable[str]) -> str:
    """` (did you mean X?)` where a name is close to one of `names`, else nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def missing(values: Any, where: str = "") -> list[str]:
    """The dotted names of settings that still need a value."""
    if isinstance(values, Mapping):
        return [found for name, item in values.items() for found in missing(item, _path(where, str(name)))]
    if isinstance(values, list):
        return [found for i, item in enumerate(values) for found in missing(item, f"{where}.{i}")]
    return [where] if isinstance(values, str) and values == REQUIRED else []


def is_single(schema: type, name: str) -> bool:
    """Whether the dataclass has a field of that name which is no group of settings: a number, text, a list."""
    inner = split(hints_of(schema).get(name))[0]
    return name in hints_of(schema) and not dataclasses.is_dataclass(inner) and not is_choice(inner)


def _merge_choice(choice: type[Choice], base: Any, given: Any, where: str) -> dict[str, Any]:
    accepted = ", ".join(choice.options)
    if isinstance(given, str):
        return defaults(option(choice, given, where))
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}={_shown(given)} is not known; accepted: {accepted}")
    if "kind" in given:
        chosen = option(choice, given["kind"], f"{where}.kind")
        return _merge_group(chosen, None, {n: v for n, v in given.items() if n != "kind"}, where)
    if base is None or waits(base):
        raise ValueError(f"{where}={_shown(given)}: needs a kind; accepted: {accepted}")
    return _merge_group(choice.options[base["kind"]], base, given, where)


def _merge_group(schema: Any, base: Any, given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    hints, old = hints_of(schema), defaults(schema) if base is None or waits(base) else base
    for name in (name for name in given if name not in hints):
        raise ValueError(_unknown(f"{_path(where, name)}={_shown(given[name])}", name, hints, where))
    if getattr(schema, "one_of", False) and any(value is not None for value in given.values()):
        old = dict.fromkeys(old)
    return old | {name: merge(hints[name], old[name], value, _path(where, name)) for name, value in given.items()}


def _assign_in_mapping(hint: Any, base: dict, path: Sequence[str], text: str, key: str, given: Iterable[str]) -> dict:
    """In a mapping to anything, the settings of a recipe's stage for instance, a name may have dots itself."""
    item, named = typing.get_args(split(hint)[0])[1], _item_types(hint)
    for i in range(1, len(path)):
        name = ".".join(path[:i])
        if name in base and (item is not Any or isinstance(base[name], Mapping)):
            inside = dict[str, Any] if item is Any else item
            return base | {name: assign(inside, base[name], path[i:], text, key, given)}
    if item is not Any and len(path) > 1:
        raise ValueError(_unknown(f"{key}={text}", path[0], base, key.removesuffix("." + ".".join(path))))
    name = ".".join(path)
    return base | {name: assign(named.get(name, item), base.get(name), [], text, key, given)}


def _scalar(hint: Any, given: Any, where: str) -> Any:
    kind, optional = split(hint)
    takes = f"; accepted: {values}" if (values := accepted(hint)) else ""
    wrong = ValueError(f"{where}={_shown(given)}: expected {_expected(hint)}{takes}")
    if kind not in _EXPECTED:
        if typing.get_origin(kind) in (list, tuple, dict) or (given is None and not optional):
            raise wrong
        return given
    if kind is bool:
        given = _BOOLS.get(given.lower(), given) if isinstance(given, str) else given
        if not isinstance(given, bool):
            raise wrong
        return given
    if given is None or isinstance(given, Mapping | list | tuple) or (isinstance(given, bool) and kind is not str):
        raise wrong
    try:
        value = kind(given)
    except (ValueError, OverflowError):
        raise wrong from None
    if kind is int and value != (float(given) if isinstance(given, str) else given):
        raise wrong
    return value


@cache
def hints_of(schema: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with their annotations."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(schema)}


def split(hint: Any) -> tuple[Any, bool]:
    """X and whether null is accepted, of `X | None`; annotations are taken off, and a Literal is text."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return str, False
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    kinds = [k for k in typing.get_args(hint) if k is not type(None)]
    return (split(kinds[0])[0] if len(kinds) == 1 else Any), type(None) in typing.get_args(hint)


def types_of(hint: Any) -> Any:
    """The dataclass whose fields are the names of an open mapping, of `Annotated[dict[str, Any], CLASS]`; else None."""
    notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((note for note in notes if dataclasses.is_dataclass(note)), None)


def _item_types(hint: Any) -> dict[str, Any]:
    named = types_of(hint)
    return {} if named is None else hints_of(named)


def is_choice(hint: Any) -> bool:
    """Whether it is a setting with several options, not one of them."""
    return isinstance(hint, type) and issubclass(hint, Choice) and "kind" not in vars(hint)


def _expected(hint: Any) -> str:
    inner, optional = split(hint)
    if typing.get_origin(inner) in (list, tuple):
        return "a list such as [1, 2]"
    if isinstance(inner, type) and issubclass(inner, Choice):
        return f"one of {', '.join(inner.options)}"
    name = _EXPECTED.get(inner, "another kind of value")
    return f"{name} or null" if optional else name


def _unknown(said: str, name: str, names: Iterable[str], where: str) -> str:
    return f"{said}: unknown setting{guess(name, names)}; accepted: {_below(where, names)}"


def _below(where: str, names: Iterable[str]) -> str:
    return ", ".join(_path(where, name) for name in names) or "nothing"


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else str(name)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
