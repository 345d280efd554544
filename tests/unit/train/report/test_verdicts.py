"""Claims about a number of an analysis: which cell is meant, how seeds are pooled, and when it is supported."""

import json
import math

import pytest

from train.config.compose import load
from train.recipe import RecipeConfig
from train.report.verdicts import judge
from train.runs.expectation import Cell, Expectation
from train.runs.results import Experiment, Run

PLACE = {"table": "accuracy", "row": {"ops": "all", "measure": "pass@4"}, "column": "gain"}


def experiment(folder, value, width=0.02, n=100, **more):
    folder.mkdir()
    cells = {"gain": {"value": value, "low": value - width, "high": value + width, "n": n}, "steps": 3}
    rows = [{"ops": ops, "measure": f"pass@{k}"} | cells for ops in ("all", "2") for k in (1, 4)]
    rows[0] = rows[0] | {"gain": {"value": None, "low": None, "high": None, "n": 0}}
    (folder / "summary.json").write_text(json.dumps({"tables": {"accuracy": rows}} | more))
    return Experiment({"gained": Run(folder)})


def claim(at_least, **place):
    return Expectation("x", "cell", "gained", at_least, cell=Cell(**PLACE | place))


@pytest.mark.parametrize(("bar", "word"), [(0.05, "supported"), (0.1, "not decided"), (0.15, "contradicted")])
def test_the_interval_decides(tmp_path, bar, word):
    verdict = judge([experiment(tmp_path / "a", 0.1)], claim(bar))
    assert verdict.word == word and verdict.number == "10.0% [8.0, 12.0], n = 100"


def test_too_few_problems_decide_nothing(tmp_path):
    verdict = judge([experiment(tmp_path / "a", 0.9, n=29)], claim(0.1))
    assert verdict.word == "not decided" and verdict.number.endswith("n = 29; a verdict takes at least 30 problems")
    assert judge([experiment(tmp_path / "b", 0.9, n=30)], claim(0.1)).word == "supported"


def test_seeds_are_pooled_as_independent(tmp_path):
    found = [experiment(tmp_path / str(value), value, width) for value, width in ((0.1, 0.03), (0.2, 0.04))]
    pooled = judge(found, claim(0.0)).measured.pooled
    assert (pooled.value, pooled.n) == (pytest.approx(0.15), 200)
    assert pooled.low == pytest.approx(0.15 - math.hypot(0.03, 0.04) / 2)
    assert pooled.high == pytest.approx(0.15 + math.hypot(0.03, 0.04) / 2)


@pytest.mark.parametrize(
    "place",
    [
        {"table": "other"},
        {"column": "loss"},
        {"column": "steps"},
        {"row": {"ops": "all"}},  # two rows
        {"row": {"ops": "3"}},
        {"row": {"ops": "all", "measure": "pass@1"}},  # nothing was measured
    ],
)
def test_what_is_not_one_number_is_not_measured(tmp_path, place):
    verdict = judge([experiment(tmp_path / "a", 0.1)], claim(0.0, **place))
    assert verdict.word == "not measured" and "no one number" in verdict.note


@pytest.mark.parametrize(
    "place",
    [
        {"table": "solutions", "row": {"name": "probe"}, "column": "full"},
        {"table": "first_wrong", "row": {}, "column": "can_next"},
        {"table": "solutions", "row": {"name": "probe"}, "column": "by_distance.2"},
    ],
)
def test_tasks_of_probes_leave_numbers_too(tmp_path, place):
    """In lists and single rows beside no `tables`, one group inside another, the value called accuracy."""
    cell = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 50}
    rows = [{"name": name, "full": cell, "by_distance": {"2": cell}} for name in ("probe", "other")]
    (tmp_path / "summary.json").write_text(json.dumps({"solutions": rows, "first_wrong": {"can_next": cell}}))
    verdict = judge([Experiment({"gained": Run(tmp_path)})], claim(0.3, **place))
    assert verdict.word == "supported" and verdict.number == "50.0% [40.0, 60.0], n = 50"


@pytest.mark.parametrize(("measure", "cell"), [("cell", None), ("full", Cell("accuracy", "gain"))])
def test_a_cell_goes_with_its_measure(measure, cell):
    with pytest.raises(ValueError, match=r"^recipe.expect measure=\w+: accepted: measure=cell with a cell"):
        Expectation("x", measure, "gained", 0.0, cell=cell)


@pytest.mark.parametrize("recipe", ["analyses", "capability", "premise"])
def test_recipes_of_analyses_make_claims_about_stages_that_analyse(recipe):
    config = load("recipe", RecipeConfig, [f"recipe={recipe}"])
    assert len(config.recipe.expect) >= 2
    for expectation in config.recipe.expect:
        stage = max((s for s in config.recipe.stages if expectation.stage.startswith(s)), key=len)
        assert expectation.measure == "cell" and config.recipe.stages[stage].entry == "probes.run"
