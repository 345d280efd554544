"""The map of regimes: which arms stand in a cell, what is chosen on validation problems, and the verdict of a cell.

Run folders are written by hand, so every number is known.
"""

import json

import numpy as np
import pytest

from tests.helpers.run_folders import write_run
from train import report
from train.recipe import entry
from train.report.estimates import NotApplicable, lead
from train.report.studies import regime_map
from train.report.studies.regime_map import cells, section
from train.runs.choices import load_best

N = 400
# arm -> (items, share right, share of validation problems right); `old` is better on validation at `low`
ARMS = {
    "gold-kid-few-old-low": ({"students": "kid", "gold": "few", "methods": "old", "rates": "low"}, 0.50, 0.9),
    "gold-kid-few-old-high": ({"students": "kid", "gold": "few", "methods": "old", "rates": "high"}, 0.95, 0.1),
    "gold-kid-many-old-low": ({"students": "kid", "gold": "many", "methods": "old", "rates": "low"}, 0.90, 0.2),
    "gold-kid-many-new-low": ({"students": "kid", "gold": "many", "methods": "new", "rates": "low"}, 0.70, 0.2),
    "free-kid-high": ({"students": "kid", "rates": "high"}, 0.80, 0.5),
    "free-kid-low": ({"students": "kid", "rates": "low"}, 0.20, 0.4),
    "prompts-kid": ({"students": "kid"}, 0.30, 0.4),
}
PLAN = {"rows": "students", "columns": "gold", "family": ["free", "new"]}


def verdicts(share: float, seed: int) -> list[int]:
    """The same problems are hard for every arm: an arm solves those up to its share."""
    return (np.random.default_rng(seed).permutation(N) < share * N).astype(int).tolist()


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        rows = []
        for name, (items, share, validation) in ARMS.items():
            data = {
                "preset": "tiny",
                "overrides": {},
                "seed": 7,
                "documents": 100 if items.get("gold") == "few" else None,
            }
            config = {"student": "zoo/kid", "teacher": None, "prompts": 8, "data": data}
            metrics = [{"step": step, "eval_full": v} for step, v in ((0, 0.0), (25, validation), (50, validation / 2))]
            run = write_run(
                tmp_path / f"{name}-{seed:08d}",
                config,
                summary={"steps": 50},
                metrics=metrics,
                ledger={"documents": {"gold": 400}},
            ).name
            judged = {"checkpoint": f"{tmp_path}/{run}", "data": {"preset": "tiny", "overrides": {}, "seed": 1}}
            right = verdicts(share, seed)
            summary = {"n": N, "verdicts": {"index": list(range(N)), "right": right}}
            summary |= {"by_ops": [{"ops": 1, "n": N, "right": sum(right), "answer_right": 0, "floor_right": 0}]}
            evaluation = write_run(tmp_path / f"eval-{name}-{seed:08d}", judged, summary=summary).name
            rows += [{"name": name, "folder": run, "label": name, "items": items}]
            rows += [{"name": f"eval-{name}", "folder": evaluation, "label": name, "items": items}]
        plan = {"recipe": "demo", "scale": "cpu", "seed": seed, "title": "Demo", "choose": ["rates"], "map": PLAN}
        plan["stages"] = rows
        (tmp_path / f"plan-seed{seed}.json").write_text(json.dumps(plan))
    return tmp_path


def test_a_cell_holds_the_arms_of_its_column_and_those_that_need_none(folder):
    found = cells(load_best([folder]))
    assert list(found) == [("kid", "few"), ("kid", "many"), ("kid", "none")]
    names = {place[1]: sorted(arm.name for arm in cell.arms) for place, cell in found.items()}
    assert names == {
        "few": ["free", "old", "prompts"],
        "many": ["free", "new", "old", "prompts"],
        "none": ["free", "prompts"],
    }
    epochs = {arm.name: arm.epochs for arm in found["kid", "few"].arms}
    assert epochs == {"free": None, "old": 400 / 100, "prompts": None}


def test_the_rate_is_chosen_on_validation_problems_not_by_the_evaluation(folder):
    old = next(arm for arm in cells(load_best([folder]))["kid", "few"].arms if arm.name == "old")
    assert (old.stage, old.chosen) == ("gold-kid-few-old", "low") and np.isclose(old.accuracy.value, 0.5)


def test_verdicts_are_those_of_the_best_arms_on_the_other_half_of_the_problems(folder):
    found = cells(load_best([folder]))
    few, many = found["kid", "few"], found["kid", "many"]
    assert (few.ours.name, few.others.name, few.verdict) == ("free", "old", "W")
    assert (many.ours.name, many.others.name, many.verdict) == ("free", "old", "L")
    halves = [(np.array(verdicts(0.8, seed)) - np.array(verdicts(0.5, seed)))[1::2] for seed in (0, 1)]
    assert np.isclose(few.lead.value, np.mean(halves)) and few.lead.n == N and few.lead.low > 0


def test_the_report_shows_the_map_the_curves_and_every_arm(folder):
    page = report.build([folder]).read_text(encoding="utf-8")
    assert {"regime-map.png", "regime-curves.png"} <= {path.name for path in (folder / "figures").iterdir()}
    rows = section(load_best([folder]))[0].rows
    assert len(rows) == 3 + 4 + 2 and [row[-1][:1] for row in rows if row[-1]] == ["W", "L", "W"]
    assert "Where the family of methods wins" in page and "the family loses" in page


def test_a_recipe_without_a_map_has_none(folder):
    for path in folder.glob("plan-*.json"):
        plan = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in plan.items() if k != "map"}))
    with pytest.raises(NotApplicable):
        regime_map.cells(load_best([folder]))


def test_a_ranked_arm_goes_by_its_name_without_what_it_chose(folder):
    """Claims and controls name the arm; which rate it took stands in the plan. What is not judged stays."""
    for path in folder.glob("plan-*.json"):
        plan = json.loads(path.read_text())
        plan["stages"].append({"name": "first-kid-low", "items": {"students": "kid", "rates": "low"}})
        path.write_text(json.dumps(plan))
    one = load_best([folder])[0]
    assert {"free-kid", "gold-kid-many-old", "prompts-kid"} <= one.runs.keys() and "free-kid-low" not in one.runs
    assert one.runs["eval-free-kid"] is one.evaluation_of("free-kid")
    chosen = {stage["name"]: stage.get("chosen") for stage in one.plan["stages"]}
    assert (chosen["free-kid"], chosen["eval-free-kid"], chosen["prompts-kid"]) == ("high", "high", "")
    assert lead(load_best([folder]), "free-kid", "prompts-kid").pooled.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe.choose=[speed]"], "recipe.choose: speed is no list; accepted: students, gold, taught, rates"),
        (["recipe.map.rows=size"], "recipe.map: size is no list; accepted: students, gold, taught, rates"),
    ],
)
def test_what_is_no_list_is_refused(words, said, tmp_path, capsys):
    assert entry(["recipe=regime", *words, f"out={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
