"""The collapse laboratory: onset, signature and early warnings on made courses, and the recipe's arms."""

import json

import numpy as np
import pytest
import yaml

from train import plotting, report
from train.config.compose import load
from train.opd.run import OpdConfig
from train.recipe import RecipeConfig, stages_of
from train.report.studies.collapse import collapsed_share, early_warnings, is_published, signature, stable_share
from train.runs.collapse import departure, onset
from train.runs.results import Experiment, Run

STEPS = 60


def made(folder, name, **metrics):
    """A distillation's run folder whose log has these metrics, one value for each step from 1 on."""
    run = folder / f"{name}-0a1b2c3d"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"teacher": "runs/x/teacher-00000000", "student": "a/b"}))
    rows = [{"step": k + 1} | {key: float(values[k]) for key, values in metrics.items()} for k in range(STEPS)]
    rows[-1] |= {"eval_full": 0.25, "eval_n": 64}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "summary.json").write_text("{}")
    return Run(run)


def step_up(at, low=0.0, high=1.0):
    """`low` before step `at`, `high` from it on."""
    return [low if k + 1 < at else high for k in range(STEPS)]


def collapsing(folder, name="plain", at=40, advantage=0.2, **more):
    return made(
        folder,
        name,
        truncation=step_up(at),
        repetition=step_up(at),
        length_mean=step_up(at, 20, 128),
        accuracy_answer=step_up(at, 0.5, 0.0),
        advantage=step_up(at, -0.5, -0.5 + advantage),
        **more,
    )


def healthy(folder, name, **more):
    base = {"truncation": 0.0, "repetition": 0.0, "length_mean": 20.0, "accuracy_answer": 0.5, "advantage": -0.5}
    return made(folder, name, **{k: [v] * STEPS for k, v in base.items()} | more)


def test_the_onset_is_the_first_step_of_the_last_rise(tmp_path):
    assert onset(collapsing(tmp_path, at=40)) == 38  # 3 of the five steps 38 to 42 are cut off entirely
    assert onset(made(tmp_path, "early", truncation=step_up(1))) == 1
    there_and_back = [1.0 if 20 <= k < 40 else 0.0 for k in range(STEPS)]
    assert onset(made(tmp_path, "back", truncation=there_and_back)) is None
    twice = [1.0 if 10 <= k < 20 or k >= 50 else 0.0 for k in range(STEPS)]
    assert onset(made(tmp_path, "twice", truncation=twice)) == 49
    assert onset(made(tmp_path, "gold", loss=[1.0] * STEPS)) is None


def test_a_metric_departs_where_it_stays_beyond_its_start():
    steps, spike = list(range(1, STEPS + 1)), [0.5 if k == 20 else 0.0 for k in range(STEPS)]
    assert departure(steps, step_up(40), "truncation") == 40 and departure(steps, spike, "truncation") is None
    assert departure(steps, step_up(40, 20.0, 26.0), "length_mean") == 40
    assert departure(steps, step_up(40, 20.0, 24.0), "length_mean") is None, "less than a quarter longer"
    assert departure(steps[:4], [1.0] * 4, "truncation") is None


def test_a_loss_that_gets_worse_is_not_the_published_collapse(tmp_path):
    good, bad = collapsing(tmp_path, "good"), collapsing(tmp_path, "bad", advantage=-3.0)
    changes = signature(good, 38)
    assert is_published(changes)
    assert changes["advantage"].before == pytest.approx(-0.5) and changes["advantage"].after == pytest.approx(-0.3)
    assert not is_published(signature(bad, 38))
    experiments = [Experiment({"good": good, "bad": bad})]
    assert collapsed_share(experiments, "good").pooled.value == 1.0
    assert collapsed_share(experiments, "bad").pooled.value == 0.0
    assert stable_share(experiments, "bad").pooled.value == 0.0


def test_a_sign_leads_by_the_steps_between_its_first_firing_and_the_onset(tmp_path):
    ill = collapsing(tmp_path, at=40, rkl=step_up(30, 0.1, 0.9), eos=[1.0] * STEPS)
    wobble = [0.1 + 0.1 * (k % 7 == 0) for k in range(STEPS)]
    well = [healthy(tmp_path, f"well{i}", rkl=wobble, eos=[1.0] * STEPS) for i in range(3)]
    found = {sign.name: sign for sign in early_warnings([(ill, 38)], well)}
    # the mean over three steps is past the wobble (at most a third of 0.1) as soon as one step is at 0.9
    assert found["reverse KL"].leads == [38 - 30] and found["reverse KL"].lead == 8
    assert found["probability of the end where it came"].leads == []
    assert found["probability of the end where it came"].lead == 0
    assert next(iter(found)) == "reverse KL"
    assert "teacher entropy" not in found  # nobody logged it


def test_the_quiet_run_that_moved_most_sets_the_threshold(tmp_path):
    ill = collapsing(tmp_path, at=40, rkl=step_up(30, 0.1, 0.9))
    odd = healthy(tmp_path, "odd", rkl=step_up(50, 0.1, 0.5))
    well = [odd, *(healthy(tmp_path, f"well{i}", rkl=[0.1] * STEPS) for i in range(3))]
    found = {sign.name: sign for sign in early_warnings([(ill, 38)], well)}["reverse KL"]
    assert found.quiet == 4 and found.threshold == pytest.approx(0.4)
    assert found.leads == [38 - 31]  # two of three steps at 0.9 pass what the odd run reached


@pytest.mark.parametrize("key", ["kind", "params"])  # as written now, and as in older run folders
def test_a_run_that_inflated_and_turned_back_calibrates_nothing(tmp_path, key):
    ill = collapsing(tmp_path, at=40, rkl=step_up(30, 0.1, 0.9))
    quiet = [healthy(tmp_path, f"well{i}", rkl=[0.1] * STEPS) for i in range(3)]
    there_and_back = [0.6 if 20 <= k < 30 else 0.0 for k in range(STEPS)]
    turned = healthy(tmp_path, "turned", rkl=step_up(20, 0.1, 5.0), truncation=there_and_back)
    calm = healthy(tmp_path, "calm", rkl=[0.1] * STEPS, truncation=[0.2] * STEPS)
    exact = healthy(tmp_path, "exact", rkl=step_up(20, 0.1, 900.0))
    method = {"method": {"teacher": {key: "oracle"}}}
    (exact.folder / "config.yaml").write_text(yaml.safe_dump(method))
    found = {sign.name: sign for sign in early_warnings([(ill, 38)], [*quiet, turned, calm, Run(exact.folder)])}[
        "reverse KL"
    ]
    assert found.leads == [38 - 30] and found.quiet == 3
    assert (found.recovered, found.false_alarms) == (2, 1)


def test_the_report_shows_a_collapse_only_where_there_is_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "save", lambda one, path: (drawn.append(one), path.parent.mkdir(exist_ok=True),
                                                          path.write_bytes(b""))[0])  # fmt: skip
    for name in ("a", "b"):
        healthy(tmp_path / name, "well1"), healthy(tmp_path / name, "well2")
    collapsing(tmp_path / "b", "plain")
    calm = report.build([tmp_path / "a"]).read_text()
    page = report.build([tmp_path / "b"]).read_text()
    assert "A collapse and its cures" not in calm
    assert "A collapse and its cures" in page and "as published" in page
    assert "A collapse, and its cures at equal compute" in [one.title for one in drawn]
    assert "25.0% [16.0, 36.8], n = 64" in page


def test_every_cure_is_a_method_at_the_same_compute_rate_budget_and_problems():
    recipe = load("recipe", RecipeConfig, ["recipe=collapse_defect"])
    arms = [stage for stage in stages_of(recipe) if stage.entry == "train.opd.run"]
    folders = {stage.name: f"runs/x/{stage.name}-00000000" for stage in stages_of(recipe)}
    configs = {stage.name: load("opd", OpdConfig, stage.argv(folders, 0)) for stage in arms}
    assert len(configs) == len(recipe.recipe.lists["arms"])
    budgets = {(c.budget.flops, c.optim.lr, c.max_new, c.data.seed, c.seed) for c in configs.values()}
    assert len(budgets) == 1  # equal compute, rate, budget and problems
    assert len({json.dumps(np.array(str(c.method)).tolist()) + str(c.teacher) for c in configs.values()}) == len(arms)
