"""`probes.run` as a user meets it: help, results, going on after a kill, and what goes wrong."""

import json

import pytest
import torch

from models.gpt import GPT, GPTConfig
from probes import run
from train import checkpoint
from train.config import run_entry
from train.data import DataConfig, world_notes
from train.rundir import read_json, read_lines
from train.state import TrainState

SMALL = [
    "data=smoke", "probe=smoke", "probe.queries.fit=80", "probe.queries.validation=60", "probe.queries.test=60",
    "probe.vprobe.steps=2",
]  # fmt: skip
SITES = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


def save_model(folder, context=128):
    """A run folder with the checkpoint of an untrained model."""
    folder.mkdir(parents=True)
    data = DataConfig("tiny", {"ops": 2, "edges": 4})
    model = GPT(GPTConfig(data.spec().load_world().size, 2, 2, 16, context), 0)
    checkpoint.save(folder, model, torch.optim.SGD(model.parameters()), TrainState(step=1), world_notes(data))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("runs") / "teacher-00000000")


def probe(*words):
    return run_entry("probe", run.ProbeConfig, run.main, "", [*SMALL, *words])


def everything(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


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
    assert read_lines(folder / "metrics.jsonl")[-1]["progress"] == 1.0
    before = everything(folder)
    assert probe(f"model={model}", f"out.root={tmp_path}") == 0
    assert everything(folder) == before


def test_a_killed_run_goes_on_and_comes_to_the_same_results(model, tmp_path, monkeypatch):
    words = (f"model={model}", f"out.root={tmp_path}")
    assert probe(*words) == 0
    folder = next(tmp_path.glob("probe-*"))
    whole, metrics = read_json(folder / "summary.json"), (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "summary.json").unlink()
    third = [i for i, line in enumerate(metrics) if "sites" in json.loads(line)][4]
    (folder / "metrics.jsonl").write_text("\n".join(metrics[: third + 2]) + '\n{"part": "va')
    measured = []
    monkeypatch.setattr(
        run, "measure", lambda c, part, *rest, real=run.measure: measured.append(part) or real(c, part, *rest)
    )
    assert probe(*words) == 0
    assert len(measured) == 3 and all(part.probe == "vprobe" for part in measured)
    again = read_json(folder / "summary.json")
    assert again["results"] == whole["results"] and again["queries"] == whole["queries"]


def test_help_and_show(command):
    done = command("probes.run", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for words in ("python -m probes.run model=", "probe=nece | quickstart", "balance", "tasks", "steps"):
        assert words in done.stdout
    shown = command("probes.run", "--show", "probe=value", "model=x")
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
        (["probe.linear.tasks=[neces]"], "probe.linear.tasks=neces: accepted: nece, value"),
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
    short = save_model(tmp_path / "short-00000000", context=24)
    assert probe(f"model={short}", f"out.root={tmp_path}/runs") == 2
    assert "reads 24 tokens" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_model_the_setting_is_named(capsys):
    assert probe() == 2
    assert "model: needs a value" in capsys.readouterr().err
