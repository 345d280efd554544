"""The recipe `probes` at the scale `smoke`: six tasks, mistakes and files of a teacher of the zoo."""

import json

import pytest

pytestmark = pytest.mark.timeout(600)
TASKS = {"nece", "dep", "known", "value", "can_next", "nece_next"}


def test_the_recipe_reads_six_tasks_tells_mistakes_and_writes_files(command, tmp_path):
    fewer = "recipe.stages.layers.set.probe.linear.tasks=[nece,dep]"
    done = command("train.recipe", "recipe=probes", "scale=smoke", "seeds=1", fewer, f"out={tmp_path}", timeout=500)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "probes-smoke"
    layers, mistakes, second = (
        json.loads(next(folder.glob(f"{stage}-????????/summary.json")).read_text())
        for stage in ("layers", "mistakes", "mistakes-v2")
    )
    assert set(layers["margins"]) == TASKS == {row["task"] for row in layers["results"]}
    assert {row["probe"] for row in layers["results"]} == {"linear", "vprobe"}
    assert {"greedy", "beam", "probe", "perfect"} <= {row["name"] for row in mistakes["solutions"]}
    assert (mistakes["attention_rank"], second["attention_rank"]) == (0, 2)
    assert list(folder.glob("export-????????/**/*.safetensors")) and (folder / "report.html").is_file()
