"""`probes.run` as a user meets it: help, results, going on after a kill, and what goes wrong."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

from models.hooks import capture
from probes import run
from probes.tasks import layers
from synth.store.files import read_json, read_json_lines
from tests.helpers.run_folders import modified
from tests.helpers.untrained_models import save_untrained
from train.config.compose import CONFIGS, NO_CHOICES, load
from train.core import checkpoint
from train.recipe import RecipeConfig, stages_of

SMALL = [
    "data=smoke", "probe=smoke", "probe.queries.fit=80", "probe.queries.validation=60", "probe.queries.test=60",
    "probe.vprobe.steps=2",
]  # fmt: skip
SITES = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("runs") / "teacher-00000000", seed=0, context=128)


def probe(*words):
    return run.entry([*SMALL, *words])


def test_a_run_reports_every_probe_beside_its_controls_and_is_done_once(command, model, tmp_path):
    first = command("probes.run", *SMALL, f"model={model}", f"out.root={tmp_path}", timeout=300)
    assert first.returncode == 0 and first.stderr == "", first.stderr
    folder = next(tmp_path.glob("probe-*"))
    assert first.stdout.splitlines()[-1] == str(folder)
    summary = read_json(folder / "summary.json")
    expected = [(task, "linear", site) for task in ("nece", "value") for site in SITES]
    expected += [(task, "vprobe", "ln_final.hook_normalized") for task in ("nece", "value")]
    assert [(r["task"], r["probe"], r["site"]) for r in summary["results"]] == expected
    for row in summary["results"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert 0 <= row["random_low"] <= row["random"] <= row["random_high"] <= 1
        assert 0 <= row["majority"] <= 1 and row["n"] == summary["queries"][row["task"]]["test"]
        assert sum(part["n"] for part in row["by_label"].values()) == row["n"]
    assert [r["task"] for r in summary["results"] if r.get("selected")] in (["nece", "value"], ["value", "nece"])
    assert read_json_lines(folder / "metrics.jsonl")[-1]["progress"] == 1.0
    before = modified(folder)
    assert probe(f"model={model}", f"out.root={tmp_path}") == 0
    assert modified(folder) == before


def test_a_killed_run_goes_on_and_comes_to_the_same_results(model, tmp_path, monkeypatch):
    words = (f"model={model}", f"out.root={tmp_path}")
    assert probe(*words) == 0
    folder = next(tmp_path.glob("probe-*"))
    whole, metrics = read_json(folder / "summary.json"), (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "summary.json").unlink()
    third = [i for i, line in enumerate(metrics) if "value" in json.loads(line)][10]
    (folder / "metrics.jsonl").write_text("\n".join(metrics[: third + 2]) + '\n{"part": "va')
    measured = []
    monkeypatch.setattr(
        layers, "measure", lambda c, part, *rest, real=layers.measure: measured.append(part) or real(c, part, *rest)
    )
    assert probe(*words) == 0
    assert len(measured) == 5 and all(part.probe == "vprobe" for part in measured)
    again = read_json(folder / "summary.json")
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}


def test_mistakes_are_one_table(model, tmp_path, capsys):
    small = ("mistakes.problems=20", "mistakes.more_retries=11", "mistakes.beams=2", "mistakes.max_new_tokens=24")
    words = ("task=mistakes", f"checkpoint={model}", f"out.root={tmp_path}", *small)
    assert probe(*words) == 0
    shown = capsys.readouterr().out
    summary = read_json(next(tmp_path.glob("probe-*")) / "summary.json")
    assert [row["name"] for row in summary["solutions"]] == [
        "greedy", "beam", "probe", "chance", "perfect", "probe, more", "perfect, more",
    ]  # fmt: skip
    assert all(row["n"] == 20 for row in summary["solutions"]) and "greedy solutions are wrong" in shown
    wrong = summary["taxonomy"]["wrong"]
    assert wrong == sum(row["n"] for row in summary["taxonomy"]["by_ops"])
    assert wrong == sum(row["n"] for row in summary["taxonomy"]["by_step"]) > 0
    assert probe(*words) == 0 and capsys.readouterr().out == shown


def test_exported_activations_give_scikit_learn_the_same_probe(model, tmp_path):
    sizes = ("probe.queries.fit=300", "probe.queries.test=300", "probe.linear.tasks=[value]", "probe.vprobe.tasks=[]")
    common = (f"model={model}", f"out.root={tmp_path}", "data.overrides.edges=4", *sizes)
    assert probe(*common) == 0
    rows = read_json(next(tmp_path.glob("probe-*")) / "summary.json")["results"]
    folder = tmp_path / "files"
    words = ("task=export", "export.tasks=[value,dep]", "export.texts=128", f"out.folder={folder}")
    assert probe(*common, *words) == 0
    for row in rows:
        x, y = exported(folder, "fit", row["site"])
        x_new, y_new = exported(folder, "test", row["site"])
        mean, scale = x.mean(0), x.std(0, ddof=1).clip(1e-6)
        classifier = LogisticRegression(C=1 / (row["l2"] * len(x)), max_iter=5000, tol=1e-8).fit((x - mean) / scale, y)
        assert classifier.score((x_new - mean) / scale, y_new) == pytest.approx(row["accuracy"], abs=0.005)
        assert len(y_new) == row["n"]
    meaning = "dep: 0 independent, 1 depends; value: 0 to 6 the value, 7 unknown"
    assert meaning in (folder / "README.md").read_text()
    pairs = pq.read_table(folder / "labels" / "dep-test.parquet").to_pydict()
    assert all(pairs["other"]) and set(pairs["label"]) == {0, 1}


def exported(folder, part, site):
    labels = pq.read_table(folder / "labels" / f"value-{part}.parquet").to_pydict()
    shards = [
        load_file(folder / "activations" / f"value-{part}-{n:05}.safetensors") for n in sorted(set(labels["shard"]))
    ]
    sizes = np.bincount(labels["shard"])
    assert len(shards) > 1 and all(len(shard[site]) == n for shard, n in zip(shards, sizes, strict=True))
    assert labels["row"] == [row for n in sizes for row in range(n)]
    return np.concatenate([shard[site] for shard in shards]).astype(np.float32), np.array(labels["label"])


def test_exported_tokens_lead_to_the_exported_activations(model, tmp_path):
    folder = tmp_path / "files"
    sites = '["hook_embed","hook_mlp_out","ln_final.hook_normalized"]'
    words = ("task=export", "export.tasks=[nece]", f"export.sites={sites}", f"out.folder={folder}")
    assert probe(f"model={model}", *words) == 0
    labels = pq.read_table(folder / "labels" / "nece-test.parquet").to_pydict()
    states, loaded = load_file(folder / "activations" / "nece-test-00000.safetensors"), checkpoint.load_model(model)
    assert list(states) == sorted(states) and len(states) == 4
    for q in (0, len(labels["row"]) - 1):
        with torch.no_grad(), capture(loaded, states) as store:
            loaded(torch.tensor([labels["tokens"][q]]))
        for site, states_QC in states.items():
            assert np.allclose(states_QC[labels["row"][q]], store[site][0, -1].numpy(), rtol=2e-3, atol=2e-3)


def test_help_and_show(command):
    done = command("probes.run", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for words in ("python -m probes.run model=", "probe=nece | paper | quickstart", "balance", "tasks", "steps"):
        assert words in done.stdout
    shown = command("probes.run", "--show", "probe=value", "model=zoo/tiny-student-0")
    assert shown.returncode == 0 and "- value" in shown.stdout and "- nece" not in shown.stdout


def test_a_missing_checkpoint_is_one_line(command, tmp_path):
    done = command("probes.run", "model=/no/such/run", f"out.root={tmp_path}/runs")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "model=/no/such/run: does not exist" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["probe=neces"], "nece"),
        (["probe.linear.tasks=[neces]"], "probe.linear.tasks=['neces']: accepted: a list with some of nece, dep"),
        (["task=layer"], "task=layer: accepted: layers, mistakes, export"),
        (["probe.linear.sites=[hook_z]"], "probe.linear.sites=hook_z: accepted"),
        (["task=export", "export.sites=[hook_z]"], "export.sites=hook_z"),
        (["task=mistakes", "mistakes.retries=0"], "mistakes.retries=0"),
        (["probe.linear.tasks=[]", "probe.vprobe.tasks=[]"], "both empty"),
        (["probe.vprobe.ranks=8"], "did you mean rank"),
        (["probe.vprobe.steps=0"], "probe.vprobe.steps=0"),
        (["probe.queries.test=0"], "probe.queries.test=0"),
        (["data=med"], "data.preset=med"),
        (["data.overrides.ops=x"], "ops"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_written(model, tmp_path, capsys, words, message):
    assert probe(f"model={model}", f"out.root={tmp_path}/runs", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "runs").exists()


def test_a_model_that_is_too_short_is_refused(tmp_path, capsys):
    short = save_untrained(tmp_path / "short-00000000", seed=0, context=24)
    assert probe(f"model={short}", f"out.root={tmp_path}/runs") == 2
    assert "reads 24 tokens" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_model_the_setting_is_named(capsys):
    assert probe() == 2
    assert "model: needs a value" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["cpu", "smoke", "gpu"])
def test_stages_of_recipes_have_only_settings_of_their_task(scale):
    """A scale, too, may set no section of one task for all stages of probes.run."""
    seen = set()
    for path in (CONFIGS / "recipe").glob("*.yaml"):
        if path.stem in NO_CHOICES:
            continue
        recipe = load("recipe", RecipeConfig, [f"recipe={path.stem}", f"scale={scale}"])
        stages = stages_of(recipe, recipe.only)
        folders = {stage.name: Path("runs/x") for stage in stages}
        for stage in (stage for stage in stages if stage.entry == "probes.run"):
            words = stage.argv(folders, 0)
            task = next((word.removeprefix("task=") for word in words if word.startswith("task=")), "layers")
            load("probe", run.TASKS[task].config, words)
            seen.add(task)
    assert seen == set(run.TASKS)
