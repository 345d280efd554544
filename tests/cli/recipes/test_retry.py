"""recipe=retry at smoke scale: its stages with their own settings, one after another in this process, then the page."""

import json
import re

import pytest

import probes.run
from probes.tasks import mistakes
from train import evaluate, pretrain
from train.config.compose import load
from train.recipe import RecipeConfig, stages_of
from train.recipes.plan import PlanFile
from train.report import build
from train.report.studies import correction_data
from train.runs.results import load as load_runs

pytestmark = pytest.mark.timeout(900)
ENTRIES = {
    "train.pretrain": ("pretrain", pretrain.PretrainConfig, pretrain.main),
    "train.evaluate": ("evaluate", evaluate.EvaluateConfig, evaluate.main),
    "probes.run": ("probe", mistakes.Config, probes.run.main),
}
SMALLER = {  # beyond what the scale does: fewer problems, and arms long enough to write a solution's form
    "train.pretrain": ["budget.steps=null", "budget.tokens=8000", "evaluate.every=100"],
    "train.evaluate": ["problems=24", "samples=2", "sampling.max_new_tokens=24"],
    "probes.run": ["mistakes.problems=8", "mistakes.retries=1", "mistakes.more_retries=1", "probe.vprobe.steps=2"],
}


def test_the_smallest_study_ends_in_a_page(tmp_path, capsys):
    pytest.importorskip("peft")
    words = ["recipe=retry", "scale=smoke", "only.arms=[none,retry-0.5-masked,lora-0.5]"]
    config = load("recipe", RecipeConfig, words)
    stages, folders = stages_of(config, config.only), {}
    plan = PlanFile(tmp_path / "plan-seed0.json", {"recipe": "retry", "scale": "smoke", "claims": False}, stages)
    for stage in stages:
        name, schema, main = ENTRIES[stage.entry]
        folders[stage.name] = tmp_path / f"{stage.name}-00000000"
        own = [*stage.argv(folders, 0), *SMALLER[stage.entry], f"out.folder={folders[stage.name]}"]
        main(load(name, schema, own))
        plan.enter(stage.name, folders[stage.name])
    plan.save()
    assert len(stages) == 3 + 2 * 3 + 1
    rows = {row.arm.stage: row for row in correction_data.rows(load_runs([tmp_path]))}
    assert rows["pretrain-retry-0.5-masked"].arm.mistakes == ("retry", 0.5, True)
    assert (rows["pretrain-lora-0.5"].arm.origin, rows["pretrain-lora-0.5"].arm.lora) == ("pretrain-none", 16)
    assert {side.accuracy.pooled.n for row in rows.values() for side in (row.inside, row.outside)} == {24}
    assert (
        rows["pretrain-retry-0.5-masked"].against == "pretrain-none" and rows["pretrain-retry-0.5-masked"].outside.lead
    )
    out = json.loads((folders["outside-none"] / "summary.json").read_text())
    assert [row["ops"] for row in out["by_ops"]] == [5] and "retries_right" in out
    page = build([tmp_path]).read_text()
    assert re.search(r"Retry upon regret with the weights of .none.", page) and "exactly 5 operations" in page
