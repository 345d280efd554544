"""Frozen dataclasses as OmegaConf schemas, and back.

OmegaConf makes every node of a frozen dataclass read-only, so YAML could not be merged into it. `mirror` gives an
unfrozen copy of a class without its checks, to be merged into; `build` makes the real, checked objects of the result.

    >>> build(Size, {"width": 3})                    # Size(width=3): a missing name or a failed check raises ValueError
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def mirror(schema: type) -> type:
    """An unfrozen dataclass with the fields and defaults of `schema`; a field without a default becomes '???'."""
    hints = typing.get_type_hints(schema)
    fields = []
    for f in dataclasses.fields(schema):
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory
        else:
            value = "???" if f.default is dataclasses.MISSING else f.default
            default = lambda value=value: value  # noqa: E731  a name would be longer than the thing
        factory = dataclasses.field(default_factory=lambda make=default: _mirrored(make()))
        fields.append((f.name, _mirrored_hint(hints[f.name]), factory))
    return dataclasses.make_dataclass(schema.__name__, fields, namespace={"source": schema})


def build(schema: type, values: Mapping[str, Any]) -> Any:
    """The `schema` with these values, nested ones built likewise; runs every class's own checks."""
    hints = typing.get_type_hints(schema)
    return schema(**{name: _built(hints[name], value) for name, value in values.items()})


def _mirrored_hint(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return mirror(hint)
    if typing.get_origin(hint) in (dict, list):
        return typing.get_origin(hint)[tuple(_mirrored_hint(inner) for inner in typing.get_args(hint))]
    inner = _optional(hint)
    return mirror(inner) | None if dataclasses.is_dataclass(inner) else hint


def _mirrored(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    names = (f.name for f in dataclasses.fields(value))
    return mirror(type(value))(**{name: _mirrored(getattr(value, name)) for name in names})


def _built(hint: Any, value: Any) -> Any:
    inner = _optional(hint) or hint
    if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
        return build(inner, value)
    if typing.get_origin(inner) is dict and isinstance(value, Mapping):
        return {name: _built(typing.get_args(inner)[1], item) for name, item in value.items()}
    if typing.get_origin(inner) is list and value is not None:
        return [_built(typing.get_args(inner)[0], item) for item in value]
    return tuple(value) if typing.get_origin(inner) is tuple and value is not None else value


def _optional(hint: Any) -> Any:
    """X of `X | None`, None for any other hint."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return None
    kinds = [k for k in typing.get_args(hint) if k is not type(None)]
    return kinds[0] if len(kinds) == 1 else None
