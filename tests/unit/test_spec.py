"""`Spec` accepts what it says it accepts, and names the setting, its value and what is accepted otherwise."""

import dataclasses
import re

import pytest

from synth.spec import CHOICES, Spec, preset, presets

WRONG = [
    ("modulus", 1), ("modulus", 998), ("modulus", 7.0), ("names", 1), ("names", 21), ("ops", 0), ("ops", 65), ("ops", "x"),
    ("ops", None), ("ops", True), ("edges", 1), ("edges", 49), ("max_depth", 1), ("max_depth", 5), ("max_width", 1),
    ("max_width", 5), ("letters", 0), ("letters", 105), ("letters", 3), ("retry_rate", 1.0), ("retry_rate", 1.5),
    ("retry_rate", -0.1), ("retry_rate", float("nan")), ("world", "atlantis"), ("categorisations", 0),
    ("categorisations", 5), ("subcategories", 0), ("subcategories", 6), ("names", 3), *((name, "other") for name in CHOICES),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "value"), WRONG)
def test_wrong_value_names_setting_value_and_what_is_accepted(setting, value):
    with pytest.raises(ValueError, match=rf"^{setting}={re.escape(repr(value))}.*accepted: ") as caught:
        preset("med", **{setting: value})
    assert "\n" not in str(caught.value)


def test_presets_of_the_issue_exist():
    assert {"tiny", "med", "hard"} <= set(presets())
    med, hard = preset("med"), preset("hard")
    assert (med.ops, med.edges, med.modulus, med.split_by) == (15, 20, 23, "template")
    assert (hard.ops, hard.edges, hard.modulus, hard.split_by) == (21, 28, 23, "template")
    assert preset("tiny").split_by == "problem"
    for spec in (med, hard):  # what the papers do
        assert (spec.order, spec.shuffle, spec.letter_order, spec.letters, spec.retry_rate) == ("pq", True, "random", 52, 0)


def test_overrides_and_unknown_names():
    assert preset("med", ops=5).ops == 5
    assert preset("med", ops=5) == dataclasses.replace(preset("med"), ops=5)
    with pytest.raises(ValueError, match=r"'opz' is no setting.*accepted:.* ops,"):
        preset("med", opz=3)
    with pytest.raises(ValueError, match=r"preset='Med' does not exist; accepted: .*med"):
        preset("Med")


def test_unreachable_operations_are_refused():
    with pytest.raises(ValueError, match=r"ops=15 .*edges=4; accepted: edges >= 5"):
        preset("med", edges=4)


def test_a_spec_is_plain_frozen_data():
    spec = preset("hard")
    assert Spec(**dataclasses.asdict(spec)) == spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.ops = 3  # type: ignore[misc]
    assert spec.oracle_is_exact
    assert not preset("hard", solution_order="published").oracle_is_exact
