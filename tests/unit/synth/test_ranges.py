"""Ranges written as annotations: what each refuses, in which words, and by which name."""

from dataclasses import field, replace
from typing import Annotated, Literal

import pytest

from synth.ranges import AboveZero, BadSetting, Count, Filled, NotNegative, OneOf, Positive, Range, Share, settings
from train.config.schema import build


@settings
class Inner:
    most: Positive = 1
    rate: Annotated[float, Range(0, below=1)] = 0.0
    top_p: Annotated[float, Range(above=0, most=1)] | None = 1.0
    low: Annotated[float, Range(below=3)] = 0.0
    kind: Literal["a", "b"] = "a"
    named: Annotated[str, OneOf("x", "y")] = "x"
    shares: Annotated[list[Share], Filled] = field(default_factory=lambda: [0.5])
    kinds: list[Literal["a", "b"]] = field(default_factory=list)
    sizes: Annotated[tuple[int, ...], Filled] = (1,)
    none: Count | None = None
    lr: AboveZero = 0.1
    decay: NotNegative = 0.0

    def __post_init__(self):
        if self.most == 13:
            raise ValueError("most=13: accepted: another")


@settings
class Outer:
    inner: Inner = field(default_factory=Inner)
    several: list[Inner] = field(default_factory=list)
    named: dict[str, Inner] = field(default_factory=dict)


@settings
class Derived(Inner):
    more: Count = 0


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("most", 0, "1 or more"),
        ("rate", 1.0, "0 to below 1"),
        ("rate", float("nan"), "0 to below 1"),
        ("top_p", 0.0, "above 0, up to 1"),
        ("low", 3.0, "below 3"),
        ("kind", "c", "a, b"),
        ("named", "z", "x, y"),
        ("shares", [], "a list of numbers 0 to 1"),
        ("shares", [0.5, 2], "a list of numbers 0 to 1"),
        ("kinds", ["c"], "a list with some of a, b"),
        ("sizes", (), "a list with one or more"),
        ("none", -1, "0 or more"),
        ("lr", 0.0, "above 0"),
        ("lr", float("inf"), "above 0"),
        ("decay", -0.1, "0 or more"),
    ],
)
def test_a_value_outside_is_refused_in_one_line_however_the_settings_are_made(name, value, accepted):
    shown = list(value) if isinstance(value, tuple) else value
    message = f"{name}={shown}: accepted: {accepted}"
    for make in (
        lambda: Inner(**{name: value}),
        lambda: replace(Inner(), **{name: value}),
        lambda: Derived(**{name: value}),
    ):
        with pytest.raises(BadSetting) as error:
            make()
        assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        build(Outer, {"inner": {name: value}})
    assert str(error.value) == f"inner.{message}"


def test_settings_inside_lists_and_mappings_are_called_by_their_full_name():
    for data, start in (
        ({"several": [{}, {"most": 0}]}, "several.1.most=0"),
        ({"named": {"x": {"rate": 2.0}}}, "named.x.rate=2.0"),
    ):
        with pytest.raises(ValueError, match=start):
            build(Outer, data)


def test_values_inside_pass_and_a_check_of_its_own_comes_after():
    assert Inner(top_p=None, kinds=["a"], shares=(0, 1)).kind == "a" and Derived(more=2).more == 2
    with pytest.raises(ValueError, match="most=13: accepted: another"):
        Derived(most=13)
    with pytest.raises(BadSetting, match="more=-1"):
        Derived(most=13, more=-1)
