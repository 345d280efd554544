"""What the fields of settings accept, written as their annotations and checked whenever the settings are made.

    @settings
    class Sampling:
        temperature: NotNegative = 0.0
        top_p: Annotated[float, Range(above=0, most=1)] = 1.0
        split: Literal["train", "test"] = "test"
        cuts: Annotated[list[Share], Filled] = field(default_factory=lambda: [0.5])

A value outside raises `BadSetting` in one line, `top_p=2: accepted: above 0, up to 1`; what builds a group of settings
puts its name before it (`train.config.schema.build`). null passes where the type has it.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, dataclass_transform

Class = TypeVar("Class", bound=type)


class BadSetting(ValueError):
    """A value that is not accepted; the message begins with the name of the setting."""

    def inside(self, group: str) -> "BadSetting":
        """The same, for a setting of the group of this name."""
        return BadSetting(f"{group}.{self}")


class Range(NamedTuple):
    """Finite numbers from `least` to `most`, both included, or `above` and `below`, which are not."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def accepts(self, value: Any) -> bool:
        """Whether it is a number of the range; what is no number, such as a schedule of numbers, is not looked at."""
        return not isinstance(value, int | float) or (
            self.least <= value <= self.most and self.above < value < self.below
        )

    def __str__(self) -> str:
        low = f"above {self.above:g}" * (self.above > -math.inf)
        high = f"up to {self.most:g}" if self.most < math.inf else f"below {self.below:g}" * (self.below < math.inf)
        if self.least == -math.inf:
            return ", ".join(filter(None, [low, high]))
        return f"{self.least:g} {high.replace('up to', 'to').replace('below', 'to below') or 'or more'}"


class OneOf:
    """These values; as `typing.Literal`, for names that are computed."""

    def __init__(self, *values: Any):
        self.values = values

    def accepts(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


class Named(OneOf):
    """These values, for a class that refuses others itself, with a reason for some."""

    def accepts(self, value: Any) -> bool:
        return True


class Filled:
    """Of a list: that it has an entry."""


Positive = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
AboveZero = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: Class) -> Class:
    """A frozen dataclass whose fields are checked before its own `__post_init__` runs."""
    after = getattr(cls, "__post_init__", lambda self: None)

    def __post_init__(self: Any) -> None:
        check(self)
        after(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)  # type: ignore[return-value]


def check(group: Any) -> None:
    """Raises BadSetting for the first field of a dataclass whose value its annotation does not accept."""
    for name, accepted, accepts in _rules(type(group)):
        value = getattr(group, name)
        if value is not None and not accepts(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise BadSetting(f"{name}={shown}: accepted: {accepted}")


def accepted(hint: Any) -> str:
    """What an annotation accepts, in words; nothing where it says nothing."""
    return (_rule(hint) or ("",))[0]


@functools.cache
def _rules(cls: type) -> list[tuple[str, str, Callable[[Any], bool]]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = [(f.name, _rule(hints[f.name])) for f in dataclasses.fields(cls)]
    return [(name, *rule) for name, rule in found if rule is not None]


def _rule(hint: Any) -> tuple[str, Callable[[Any], bool]] | None:
    """What an annotation accepts, in words and as a test; None where it says nothing."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        own = next((one for one in args[1:] if isinstance(one, Range | OneOf)), None)
        text, accepts = (str(own), own.accepts) if own else _rule(args[0]) or ("a list with one or more", bool)
        if Filled in args[1:]:
            return text, lambda values: len(values) > 0 and accepts(values)
        return (text, accepts) if own or _rule(args[0]) else None
    if origin in (types.UnionType, typing.Union):
        return next(filter(None, map(_rule, args)), None)
    if origin is Literal:
        return str(OneOf(*args)), OneOf(*args).accepts
    if origin in (list, tuple) and args and (item := _rule(args[0])):
        names = typing.get_origin(args[0]) is Literal or any(isinstance(one, OneOf) for one in typing.get_args(args[0]))
        text = f"a list {'with some of' if names else 'of numbers'} {item[0]}"
        return text, lambda values: all(map(item[1], values))
    return None
