"""Run folders and exports of an older version still work: they are read, evaluated, reported, continued.

`runs/` holds a small folder of each kind as commit 0a95da5 wrote it (`quickstart-smoke` without weights, to be small).
They are never made anew: a change that makes one unreadable is a bug. Every test works on a copy.

Try: `python -m pytest tests/golden/test_old_runs.py`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import probes.run
from synth.store.files import read_json, read_json_lines
from train import compare, evaluate, export, merge, pretrain, report
from train.config.compose import run_entry
from train.core import checkpoint
from train.opd import run as opd
from train.runs.results import Run, load

pytestmark = pytest.mark.timeout(900)
KINDS = {
    "student": "training",
    "teacher": "training",
    "opd": "distillation",
    "evaluate": "evaluation",
    "probe": "probe",
    "signal": "analysis",
    "mistakes": "analysis",
    "activations": "analysis",
}
WITH_WEIGHTS = ("student", "teacher", "opd", "merge")


@pytest.fixture
def old(tmp_path, monkeypatch) -> dict[str, str]:
    """A copy of the folders in the working directory: name without the hash -> path, as their configs name them."""
    shutil.copytree(Path(__file__).with_name("runs"), tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return {path.name.rpartition("-")[0]: str(path) for path in sorted(Path("runs").glob("*-????????"))}


def probe(*argv: str) -> int:
    return probes.run.entry(argv)


def distil(*argv: str) -> int:
    return run_entry("opd", opd.OpdConfig, opd.main, "", list(argv))


def test_there_is_one_of_each_kind(old):
    assert set(old) == {*KINDS, "merge"}


@pytest.mark.parametrize("name", KINDS)
def test_its_kind_is_told_without_a_word_in_the_manifest(old, name):
    run = Run(Path(old[name]))
    assert "kind" not in run.manifest and run.complete and run.kind == KINDS[name]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_its_weights_load_and_are_evaluated(old, name, capsys):
    argv = [f"checkpoint={old[name]}", "data=smoke", "problems=4", "samples=1", "sampling.max_new_tokens=8"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", argv) == 0, capsys.readouterr().err
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert read_json(folder / "summary.json")["n"] == 4 and read_json(folder / "manifest.json")["kind"] == "evaluation"


def test_an_evaluation_of_the_same_settings_finds_its_folder(old, capsys):
    """The hash of its config has not changed, so it is shown and not done again."""
    before = read_json(Path(old["evaluate"], "summary.json"))
    argv = read_json(Path(old["evaluate"], "manifest.json"))["command"][3:]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == old["evaluate"]
    assert read_json(Path(old["evaluate"], "summary.json")) == before


def test_all_are_rows_of_one_table(old, capsys):
    assert compare.main(["runs/*-????????"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == sorted(old.values()) and {"kind", "kl", "full"} <= set(head.split())
    shown = {Path(row.split()[0]).name.rpartition("-")[0]: row.split()[1] for row in rows}
    assert {name: shown[name] for name in KINDS} == KINDS


def test_a_report_is_made_of_each_and_of_all(old, tmp_path):
    for name, path in old.items():
        assert report.build([Path(path)], tmp_path / f"report-{name}").stat().st_size > 2000
    page = report.build([Path(path) for path in old.values()], tmp_path / "report").read_text(encoding="utf-8")
    assert "student" in page and (tmp_path / "report" / "figures").is_dir()


def test_a_killed_pretraining_continues_to_the_same_weights(old, capsys):
    folder = Path(old["student"])
    expected = load_file(folder / "checkpoints" / "step-6" / "model.safetensors")
    first, _ = (folder / "checkpoints.jsonl").read_text().splitlines(keepends=True)
    (folder / "checkpoints.jsonl").write_text(first)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-6")
    argv = read_json(folder / "manifest.json")["command"][3:]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", argv) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    assert len(read_json(folder / "manifest.json")["resumed"]) == 1
    assert [row["step"] for row in read_json_lines(folder / "metrics.jsonl")] == list(range(7))
    found = load_file(checkpoint.latest(folder) / "model.safetensors")
    for name, tensor in expected.items():  # other processors sum in another order
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_distillation_starts_from_old_models(old, capsys):
    argv = ["data=smoke", f"student={old['opd']}", f"teacher={old['teacher']}", "method=gkd", "prompts=2", "max_new=8"]
    argv += ["budget.steps=1", "evaluate.every=0"]
    assert distil(*argv) == 0, capsys.readouterr().err
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert read_json(folder / "summary.json")["steps"] == 1
    assert read_json(folder / "manifest.json")["inputs"]["student"] == checkpoint.weights_digest(old["opd"])


def test_old_models_are_merged(old, capsys):
    argv = [f"first={old['merge']}", f"second={old['teacher']}", "share=0.25", "out.folder=merged"]
    assert run_entry("merge", merge.MergeConfig, merge.main, "", argv) == 0, capsys.readouterr().err
    assert checkpoint.load_model("merged").config == checkpoint.load_model(old["merge"]).config


def test_probes_and_analyses_read_old_models(old, capsys):
    small = ["data=smoke", "probe=smoke", "probe.queries.fit=60", "probe.queries.validation=40"]
    small += ["probe.queries.test=40", "probe.vprobe.steps=1", "probe.linear.tasks=[nece]", "probe.vprobe.tasks=[nece]"]
    assert probe(*small, f"model={old['student']}", "out.folder=probed") == 0, capsys.readouterr().err
    assert {row["probe"] for row in read_json(Path("probed/summary.json"))["results"]} == {"linear", "vprobe"}
    argv = ["task=signal", f"model={old['student']}", "data=smoke", "probe=smoke", "signal.problems=4"]
    argv += ["signal.samples=2", f"signal.student={old['teacher']}", "out.folder=signalled"]
    assert probe(*argv) == 0, capsys.readouterr().err
    assert read_json(Path("signalled/manifest.json"))["kind"] == "analysis"


@pytest.mark.parametrize("name", ["custom", "neox"])
def test_an_exported_model_loads_in_transformers(old, name):
    folder = Path("runs/exported", name)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=name == "custom")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problem = read_json_lines(Path(old["evaluate"], "samples.jsonl"))[0]["prompt"]
    inputs = tokenizer([problem], return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_an_old_checkpoint_is_exported_as_it_was(old):
    config = export.ExportConfig(checkpoint=old["student"], out="again", custom_code=True)
    export.main(config)
    new, before = (load_file(Path(folder, "model.safetensors")) for folder in ("again", "runs/exported/custom"))
    assert new.keys() == before.keys() and all(torch.equal(new[name], before[name]) for name in new)


def test_an_old_recipe_is_reported(old, tmp_path):
    folder = Path("runs/quickstart-smoke")
    (experiment,) = load([folder])
    assert {name: run.kind for name, run in experiment.runs.items() if not name.startswith("eval")} == {
        "teacher": "training",
        "student": "training",
        "opd": "distillation",
        "kd": "distillation",
        "more": "distillation",
        "probe": "probe",
    }
    assert len(report.judged(folder)) == len(json.loads((folder / "plan-seed0.json").read_text())["expect"]) == 3
    page = report.build([folder], tmp_path / "page").read_text(encoding="utf-8")
    assert "Not shown" not in page and (tmp_path / "page" / "figures" / "accuracy.png").is_file()
    assert yaml.safe_load((experiment.runs["opd"].folder / "config.yaml").read_text())["method"]["name"] == "opd"
