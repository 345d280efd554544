"""The report of a correction-data study: arms are told by what their runs say, differences are paired at equal tokens.

The run folders are made here, in the form that `train.recipe recipe=retry` leaves behind.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.run_folders import write_run
from train.config.compose import load
from train.recipe import RecipeConfig, stages_of
from train.report import build
from train.report.estimates import NotApplicable, solution_accuracy
from train.report.studies import correction_data
from train.report.verdicts import judge
from train.runs.expectation import Expectation
from train.runs.results import load as load_runs

N = 400
MASKED = {"retry_rate": 0.5, "mask_mistakes": "step"}
ARMS = {  # name: overrides, start, tokens, share solved in and out of distribution
    "pretrain-none": ({}, None, 1e6, 0.6, 0.2),
    "pretrain-retry-0.2": ({"retry_rate": 0.2}, None, 1.01e6, 0.7, 0.3),
    "pretrain-retry-0.5-masked": (MASKED, None, 1e6, 0.8, 0.5),
    "pretrain-weak-0.5": ({"retry_rate": 0.5, "retry_kind": "weak"}, None, 1e6, 0.3, 0.1),
    "pretrain-twice": ({}, None, 2e6, 0.7, 0.3),
    "pretrain-tuned-0.5": ({"retry_rate": 0.5}, "pretrain-none", 1e6, 0.9, 0.6),
    "pretrain-lora-0.5": (MASKED, "pretrain-none", 1e6, 0.5, 0.2),
}


def evaluation(skill: float, seed: int) -> dict:
    right = (np.random.default_rng(seed).random(N) < skill).astype(int).tolist()
    rows = [{"ops": 1, "n": N, "right": sum(right), "answer_right": sum(right), "floor_right": 40}]
    extra = {"retries": 1.5, "retries_right": 0.5, "unneeded_right": 0.25}
    return {"by_ops": rows, "n": N, "verdicts": {"index": list(range(N)), "right": right}, **extra}


def write(root: Path, name: str, config: dict, summary: dict, tokens: float = 0) -> Path:
    folder = root / f"{name}-{len(list(root.glob('*'))):08x}"
    manifest, ledger = {"data": "1" if "ops" in str(config) else "0"}, {"tokens": {"update": tokens}}
    return write_run(folder, config, summary=summary, manifest=manifest, ledger=ledger)


def study(root: Path, arms: dict, seeds: int = 1) -> Path:
    for seed in range(seeds):
        made = {}
        for i, (name, (overrides, start, tokens, *skill)) in enumerate(arms.items()):
            config = {"data": {"overrides": overrides}, "init": str(made[start]) if start else None}
            config["lora"] = {"rank": 8} if "lora" in name else None
            last = {"parameters": 1000, "last": {"kl_to_oracle": 0.01 * (i + 1)}}
            made[name] = write(root, name, config, last, tokens)
            for which, (kind, world) in enumerate((("inside", {}), ("outside", {"ops": 5, "exact_ops": True}))):
                config = {"checkpoint": str(made[name]), "data": {"overrides": world, "seed": seed}}
                stage = name.replace("pretrain", kind)
                made[stage] = write(root, stage, config, evaluation(skill[which], 100 * seed + i))
        solutions = [{"name": n, "n": 50, "full": {"rate": r}} for n, r in (("greedy", 0.6), ("perfect", 0.8))]
        regret = {"stage": "mistakes", "solutions": solutions}
        made["regret"] = write(root, "regret", {"model": str(made["pretrain-none"])}, regret)
        stages = [
            {"name": name, "folder": folder.name, "label": name, "entry": "train.x"} for name, folder in made.items()
        ]
        plan = {"recipe": "retry", "scale": "cpu", "seed": seed, "claims": True, "title": "T", "stages": stages}
        (root / f"plan-seed{seed}.json").write_text(json.dumps(plan))
    return root


def test_arms_are_told_by_their_runs(tmp_path):
    found = {arm.stage: arm for arm in correction_data.arms(load_runs([study(tmp_path, ARMS)]))}
    assert list(found) == list(ARMS)
    assert found["pretrain-none"].error_free and found["pretrain-twice"].error_free
    assert found["pretrain-retry-0.5-masked"].mistakes == ("retry", 0.5, True)
    assert found["pretrain-weak-0.5"].mistakes == ("weak", 0.5, False)
    tuned, lora = found["pretrain-tuned-0.5"], found["pretrain-lora-0.5"]
    assert (tuned.origin, tuned.lora, tuned.tokens) == ("pretrain-none", None, 2e6)
    assert (lora.origin, lora.lora) == ("pretrain-none", 8)


def test_rows_compare_at_equal_tokens_and_stand_beside_the_published(tmp_path):
    experiments = load_runs([study(tmp_path, ARMS, seeds=2)])
    rows = {row.arm.stage: row for row in correction_data.rows(experiments)}
    against = {stage: row.against for stage, row in rows.items()}
    assert against["pretrain-none"] is None and against["pretrain-twice"] is None
    assert {against[s] for s in ("pretrain-retry-0.2", "pretrain-retry-0.5-masked", "pretrain-weak-0.5")} == {
        "pretrain-none"
    }
    assert {against[s] for s in ("pretrain-tuned-0.5", "pretrain-lora-0.5")} == {"pretrain-twice"}
    for stage, row in rows.items():
        for which, side in enumerate((row.inside, row.outside)):
            assert side.accuracy.pooled.n == 2 * N and abs(side.accuracy.pooled.value - ARMS[stage][3 + which]) < 0.06
        if row.against:
            both = row.inside.accuracy.pooled.value - rows[row.against].inside.accuracy.pooled.value
            assert row.inside.lead.pooled.value == pytest.approx(both)
            assert row.inside.lead.pooled.low < both < row.inside.lead.pooled.high
        assert row.inside.retries_right == 0.5 and row.outside.unneeded_right == 0.25
    assert rows["pretrain-none"].published["mean"] == 91.8
    assert rows["pretrain-tuned-0.5"].published["mean"] == 98.0
    assert rows["pretrain-lora-0.5"].published["mean"] == 94.0
    assert rows["pretrain-weak-0.5"].published["far"] == 61.1
    assert solution_accuracy(experiments, "pretrain-none") == rows["pretrain-none"].inside.accuracy


def test_the_page_has_table_figure_and_regret(tmp_path):
    page = build([study(tmp_path, ARMS)]).read_text()
    assert "Mistakes that are taken back" in page and (tmp_path / "figures" / "corrections.png").stat().st_size > 5000
    assert "arms at equal compute" not in page and "no evaluated arm" not in page  # nothing here distils
    assert "pretrain-retry-0.5-masked" in page and "97.7 / 94.8" in page and "0.50 / 0.50" in page
    assert re.search(r"greedy 60\.0% \[[^]]*\] \(published 91\.5\)", page) and "exactly 5 operations" in page


def test_a_claim_out_of_distribution_reads_the_second_evaluation(tmp_path):
    experiments = load_runs([study(tmp_path, ARMS)])
    claim = {"claim": "c", "stage": "pretrain-retry-0.5-masked", "against": "pretrain-none", "at_least": 0.25}
    inside = judge(experiments, Expectation(**claim, measure="lead"))
    outside = judge(experiments, Expectation(**claim, measure="lead_out"))
    assert abs(inside.measured.pooled.value - 0.2) < 0.07 < 0.2 < outside.measured.pooled.value
    assert outside.measured.pooled.value - inside.measured.pooled.value > 0.03


def test_other_experiments_say_nothing_about_it(tmp_path):
    root = study(tmp_path, {"pretrain-none": ARMS["pretrain-none"]})
    with pytest.raises(NotApplicable):
        correction_data.arms(load_runs([root]))
    assert "taken back" not in build([root]).read_text()


@pytest.mark.parametrize("scale", ["cpu", "gpu", "smoke"])
def test_the_recipe_has_every_arm_of_the_published_tables(scale):
    stages = {s.name: s for s in stages_of(load("recipe", RecipeConfig, ["recipe=retry", f"scale={scale}"]))}
    arms = {name: stage for name, stage in stages.items() if stage.entry == "train.pretrain"}
    assert len(arms) == 14 and {
        name.replace("pretrain", kind) for kind in ("inside", "outside") for name in arms
    } < set(stages)
    for name, stage in arms.items():
        kind, rate = re.fullmatch(r"pretrain-(\D+?)-?([\d.]*)(?:-\w+)?", name).groups()
        settings = stage.settings
        assert settings.get("data.overrides.retry_rate", 0) == float(rate or 0)
        assert settings.get("data.overrides.retry_kind", "retry") == (kind if kind in ("weak", "miss") else "retry")
        assert (settings.get("data.overrides.mask_mistakes") == "step") == name.endswith("masked")
        assert ("init" in settings) == (kind in ("tuned", "lora")) and ("lora" in settings) == (kind == "lora")
