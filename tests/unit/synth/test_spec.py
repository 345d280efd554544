"""`Spec` accepts what it says it accepts, and names the setting, its value and what is accepted otherwise."""

import dataclasses
import re

import pytest

from synth.spec import CHOICES, Spec, preset, presets

WRONG = [
    *(("ops", value) for value in (0, 65, "x", None, True)),
    *(("modulus", value) for value in (1, 998, 7.0)),
    *(("names", value) for value in (1, 3, 21)),
    *(("edges", value) for value in (1, 49)),
    *((setting, value) for setting in ("max_depth", "max_width") for value in (1, 5)),
    *(("letters", value) for value in (0, 3, 105)),
    *(("retry_rate", value) for value in (1.0, 1.5, -0.1, float("nan"))),
    *(("categorisations", value) for value in (0, 5)),
    *(("subcategories", value) for value in (0, 6)),
    ("world", "atlantis"),
    *((setting, value) for setting in ("uncorrected", "missing_premise") for value in (1.5, -0.1, float("nan"))),
    ("uncorrected", 0.5),
    ("shortest", 1),
    *((setting, "other") for setting in CHOICES),
    *(("perm_level", value) for value in (-1, 7, 2.0, True)),
    *(("max_length", value) for value in (0, 40000, "768")),
    ("reask", 1),
]


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
        assert (spec.order, spec.perm_level, spec.retry_rate) == ("pq", 5, 0)
        assert (spec.letter_order, spec.letters) == ("random", 52)


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


def test_settings_that_need_each_other():
    assert preset("med", retry_kind="slip", retry_rate=0.1, uncorrected=1.0).uncorrected == 1
    with pytest.raises(ValueError, match=r"uncorrected=0.5 .*retry_kind='miss'; accepted: 0, or retry_kind='slip'"):
        preset("med", retry_kind="miss", uncorrected=0.5)
    with pytest.raises(ValueError, match=r"shortest=False .*solution_order='published'; accepted: .*'uniform'"):
        preset("med", shortest=False, solution_order="published")


def test_a_spec_is_plain_frozen_data():
    spec = preset("hard")
    assert Spec(**dataclasses.asdict(spec)) == spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.ops = 3  # type: ignore[misc]
