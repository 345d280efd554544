"""The ranking of arms: gains and leads paired by problem, in and out of distribution, Holm's correction, gain per FLOP.

Run folders are written by hand, so every number is known.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.run_folders import write_run
from train import report
from train.report.studies.arm_ranking import ranked_arms, table
from train.runs.results import load

N = 200
HARDER = {"ops": 4}


def run(folder: Path, config: dict, summary: dict, **files: dict) -> str:
    manifest = {"data": str(config["data"]["overrides"])}
    return write_run(folder, config, summary=summary, manifest=manifest, **files).name


def evaluation(root: Path, name: str, checkpoint: str, right: int, overrides: dict) -> str:
    verdicts = {"index": list(range(N)), "right": [int(i < right) for i in range(N)]}
    summary = {"n": N, "length_mean": 20.0, "held_out": {"kl": 0.1}, "verdicts": verdicts}
    summary |= {"by_ops": [{"ops": 1, "n": N, "right": right, "answer_right": right, "floor_right": 0}]}
    summary |= {"passes": {"at": {"1": {"rate": 0.5}, "2": {"rate": 0.6}, "4": {"rate": 0.75}}}}
    data = {"preset": "tiny", "overrides": overrides, "seed": 1}
    return run(root / name, {"checkpoint": checkpoint, "data": data, "split": "test"}, summary)


@pytest.fixture
def arena(tmp_path):
    """Two seeds: a student with 50 of 200 right, an arm that gains 40, a control 20 for a quarter of its FLOPs."""
    for seed in (0, 1):
        stages = {"eval-student": evaluation(tmp_path, f"eval-student-{seed:08d}", "zoo/kid", 50, {})}
        stages["ood-student"] = evaluation(tmp_path, f"ood-student-{seed:08d}", "zoo/kid", 10, HARDER)
        for name, gain, flops in (("arm-a", 40, 2e12), ("arm-c", 20, 0.5e12)):
            config = {"student": "zoo/kid", "teacher": None, "data": {"preset": "tiny", "overrides": {}, "seed": 7}}
            ledger = {"flops": {"update": flops / 2, "generation": flops / 2}, "cpu_seconds": {"steps": 3.0}}
            skill = {"skill": {"gain": {"value": 0.25}}} if name == "arm-a" else {}
            made = stages[name] = run(tmp_path / f"{name}-{seed:08d}", config, {"steps": 1}, ledger=ledger, **skill)
            path = f"{tmp_path}/{made}"
            stages[f"eval-{name}"] = evaluation(tmp_path, f"eval-{name}-{seed:08d}", path, 50 + gain + seed, {})
            stages[f"ood-{name}"] = evaluation(tmp_path, f"ood-{name}-{seed:08d}", path, 10 + gain // 2, HARDER)
        rows = [{"name": stage, "folder": folder, "label": stage} for stage, folder in stages.items()]
        plan = {"recipe": "demo", "scale": "cpu", "seed": seed, "title": "Demo", "controls": ["arm-c"], "stages": rows}
        (tmp_path / f"plan-seed{seed}.json").write_text(json.dumps(plan))
    return tmp_path


def test_arms_are_sorted_by_what_they_gain_for_their_compute(arena):
    control, arm = ranked_arms(load([arena]))
    assert [control.stage, arm.stage] == ["arm-c", "arm-a"]
    assert np.isclose(arm.gain.value, (40 + 41) / 2 / N) and np.isclose(control.gain.value, (20 + 21) / 2 / N)
    assert np.isclose(arm.gain_per_unit, arm.gain.value / 2) and np.isclose(
        control.gain_per_unit, control.gain.value / 0.5
    )
    assert arm.gain.low < arm.gain.value < arm.gain.high and arm.gain.n == 2 * N and arm.seeds == 2


def test_out_of_distribution_passes_kl_and_skill_are_read_from_their_own_files(arena):
    arm = ranked_arms(load([arena]))[1]
    assert np.isclose(arm.ood_accuracy.value, 30 / N) and np.isclose(arm.ood_gain.value, 20 / N)
    assert (
        arm.pass_at_k == {"1": 0.5, "4": 0.75}
        and np.isclose(arm.kl_to_oracle, 0.1)
        and arm.cpu_seconds == 3.0
        and arm.context_gain == 0.25
    )


def test_a_lead_is_the_mean_over_the_seeds_that_have_both(arena):
    for seed, right in ((0, 90), (1, 130)):
        folder = arena / f"eval-arm-a-{seed:08d}"
        summary = json.loads((folder / "summary.json").read_text())
        summary["verdicts"]["right"] = [int(i < right) for i in range(N)]
        (folder / "summary.json").write_text(json.dumps(summary))
    lead = ranked_arms(load([arena]))[-1].leads["arm-c"]
    assert np.isclose(lead.difference.value, ((90 - 70) + (130 - 71)) / 2 / N) and lead.difference.n == 2 * N
    (arena / "arm-a-00000001" / "config.yaml").unlink()  # the recipe has not come to this arm of seed 1 yet
    rows = {row.stage: row for row in ranked_arms(load([arena]))}
    assert np.isclose(rows["arm-a"].leads["arm-c"].difference.value, 20 / N) and rows["arm-a"].seeds == 1
    assert rows["arm-c"].seeds == 2


def test_an_arm_is_compared_with_a_control_problem_by_problem(arena):
    control, arm = ranked_arms(load([arena]))
    assert control.leads == {}
    lead = arm.leads["arm-c"]
    assert np.isclose(lead.difference.value, 20 / N) and lead.difference.low > 0 and lead.p < 0.01
    # Of 200 differences 20 are one and the others zero, in both seeds: a binomial share over 400 problems.
    assert np.isclose(lead.difference.high - lead.difference.low, 2 * 1.96 * np.sqrt(0.1 * 0.9 / (2 * N)), rtol=0.1)


def test_the_report_shows_the_table_and_the_figure(arena):
    text = report.build([arena]).read_text(encoding="utf-8")
    assert "ranked by what they gained" in text and "Not shown" not in text.split("Ten rollouts")[0]
    assert (arena / "figures" / "ranking.png").is_file()
    lines = (arena / "ranking.md").read_text().splitlines()
    assert lines == table(load([arena])).markdown().splitlines() and len(lines) == 4
    assert lines[2].startswith("| arm-c | +20.5 |") and "p < 0.01" in lines[3]


def test_other_problems_are_no_pair(arena):
    for path in arena.glob("eval-student-*/config.yaml"):
        path.write_text(path.read_text().replace("seed: 1", "seed: 2"))
    text = report.build([arena]).read_text(encoding="utf-8")
    assert "Not shown: no arm that was evaluated on the same problems" in text
