"""The recipe `collapse_defect` at the scale `smoke`, cut down to some of its arms: the path, not the phenomenon."""

import json

import pytest
import yaml

pytestmark = pytest.mark.timeout(900)


def test_the_collapse_recipe_runs_in_parts_and_says_so(command, tmp_path):
    words = [
        "recipe=collapse_defect",
        "scale=smoke",
        "arms=[plain,both]",
        "probed=[plain]",
        "seeds=1",
        "slots=1",
        f"out={tmp_path}",
    ]
    done = command("train.recipe", *words, timeout=800)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "collapse_defect-smoke"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "recipe collapse_defect, scale smoke" in page
    arms = {path.parent.name.rpartition("-")[0]: path.parent for path in folder.glob("arm-*/summary.json")}
    assert set(arms) == {"arm-plain", "arm-both"}
    rows = [json.loads(line) for line in (arms["arm-both"] / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_ref_kl", "loss_gold_nll", "truncation", "advantage_normal"} <= rows[-1].keys()
    settings = {name: yaml.safe_load((path / "config.yaml").read_text()) for name, path in arms.items()}
    differ = {key for key, value in settings["arm-both"].items() if value != settings["arm-plain"][key]}
    assert differ <= {"method", "out"} and settings["arm-both"]["method"]["regularizer"]["gold_nll"] == 1.0
    assert settings["arm-plain"]["method"]["regularizer"]["gold_nll"] == 0.0
    inside = json.loads(next(folder.glob("probed-plain-*/summary.json")).read_text())
    assert {"probes", "behaviour", "order", "push"} <= inside["tables"].keys()
    teacher = next(folder.glob("teacher-????????/config.yaml")).read_text()
    assert "kind: repeat" in teacher


def test_an_arm_that_is_none_is_refused(command):
    done = command("train.recipe", "recipe=collapse_defect", "arms=[cure]")
    assert done.returncode == 2 and "cure" in done.stderr and len(done.stderr.strip().splitlines()) == 1
