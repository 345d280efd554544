"""`train.zoo`: models that come with the code, and putting one there."""

import json
import os
import subprocess
import sys

import pytest

from synth.store.files import read_json_lines
from train import evaluate, pretrain, zoo
from train.config.compose import run_entry
from train.core import checkpoint, zoo_paths
from train.opd import run as opd_run

PACKED = zoo_paths.ZOO
pytestmark = pytest.mark.timeout(600)
SMALL = [
    "data=smoke",
    "model=smoke",
    "budget.steps=4",
    "evaluate.every=2",
    "evaluate.problems=4",
    "evaluate.documents=8",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run and its evaluation, made in this process."""
    root = tmp_path_factory.mktemp("runs")
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*SMALL, f"out.root={root}"]) == 0
    run = next(root.glob("pretrain-*"))
    words = [f"checkpoint={run}", "data=smoke", "problems=8", "samples=0", f"out.root={root}"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", words) == 0
    return run, next(root.glob("evaluate-*"))


@pytest.fixture
def empty(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo_paths, "ZOO", tmp_path / "zoo")
    return tmp_path / "zoo"


def run_zoo(*words):
    return run_entry("zoo", zoo.ZooConfig, zoo.main, "", words)


def test_a_run_becomes_a_model_of_the_zoo(made, empty, capsys):
    run, evaluation = made
    assert run_zoo("name=small-0", f"run={run}", f"evaluation={evaluation}", "about=A small one.") == 0
    assert "A small one." in capsys.readouterr().out
    assert checkpoint.weights_digest("zoo/small-0") == checkpoint.weights_digest(run)
    assert checkpoint.notes("zoo/small-0") == checkpoint.notes(run)
    assert checkpoint.load_model("zoo/small-0").config == checkpoint.load_model(run).config
    step = checkpoint.find("zoo/small-0")
    assert not (step / "optimizer.pt").exists()
    card = json.loads((empty / "small-0/card.json").read_text())
    assert card["n"] == 8 and [row[0] for row in card["curve"]] == sorted(row[0] for row in card["curve"])
    page = (empty / "small-0/README.md").read_text()
    assert card["sha256"]["model.safetensors"] in page and "| operations |" in page
    assert len(read_json_lines(empty / "small-0/metrics.jsonl")) == 3


def test_a_distilled_student_becomes_one_too(empty, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(zoo_paths, "ZOO", PACKED)  # the smoke scale's student and teacher
    fewer = ["prompts=3", "budget.steps=2", "evaluate.problems=4", "evaluate.documents=4", f"out.folder={tmp_path}/run"]
    assert opd_run.entry(["method=opd", "scale=smoke", *fewer]) == 0, capsys.readouterr().err
    words = [f"checkpoint={tmp_path}/run", "problems=8", "samples=0", f"out.folder={tmp_path}/judged"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", words) == 0
    monkeypatch.setattr(zoo_paths, "ZOO", empty)
    assert run_zoo("name=student", f"run={tmp_path}/run", f"evaluation={tmp_path}/judged") == 0
    assert checkpoint.weights_digest("zoo/student") == checkpoint.weights_digest(tmp_path / "run")
    assert json.loads((empty / "student/card.json").read_text())["steps"] == 2


def test_what_does_not_belong_there_is_refused(made, empty, capsys, monkeypatch):
    run, evaluation = made
    for words, expected in [
        (["name=a"], "go together"),
        (["name=a/b", f"run={run}", f"evaluation={evaluation}"], "letters, digits"),
        (["name=a", f"run={run}", f"evaluation={run}"], "a finished train.evaluate of"),
        (["name=a", f"run={evaluation}", f"evaluation={evaluation}"], "no complete checkpoint"),
    ]:
        assert run_zoo(*words) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1
    monkeypatch.setattr(zoo, "MOST", 1000)
    assert run_zoo("name=a", f"run={run}", f"evaluation={evaluation}") == 2
    assert "at most 1,000" in capsys.readouterr().err
    assert not empty.exists()


def test_altered_weights_and_unknown_names_are_noticed(made, empty, capsys):
    run, evaluation = made
    assert run_zoo("name=small-0", f"run={run}", f"evaluation={evaluation}") == 0
    with pytest.raises(ValueError, match="accepted: zoo/small-0"):
        checkpoint.find("zoo/small-1")
    weights = next(empty.glob("small-0/checkpoints/*/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run_zoo() == 2
    assert "zoo/small-0" in capsys.readouterr().err


def test_the_models_that_come_with_the_code_are_whole_and_small():
    names = zoo_paths.names()
    assert names
    for name in names:
        assert zoo.row(name)
        config = checkpoint.load_model(f"zoo/{name}").config
        assert config.vocab_size > 0
    sizes = [path.stat().st_size for path in zoo_paths.ZOO.glob("*/checkpoints/*/*")]
    assert sum(sizes) <= zoo.MOST


def test_a_model_of_the_zoo_solves_what_its_card_says(command, tmp_path):
    name = next(name for name in zoo_paths.names() if "teacher" in name)
    card = json.loads((zoo_paths.ZOO / name / "card.json").read_text())
    done = command("train.evaluate", *card["evaluation"][3:], "problems=64", f"out.root={tmp_path}", timeout=500)
    assert done.returncode == 0, done.stderr
    summary = json.loads((next(tmp_path.glob("evaluate-*")) / "summary.json").read_text())
    right = sum(row["right"] for row in summary["by_ops"])
    expected = card["right"] / card["n"]
    assert abs(right / 64 - expected) < 4 * (expected * (1 - expected) / 64) ** 0.5 + 0.02


def test_a_reader_that_has_seen_enough_is_no_error(root):
    """As with `python -m train.zoo | head -1`: the pipe is closed before the table is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "train.zoo"], stdout=write, stderr=subprocess.PIPE, text=True, cwd=root, check=False
    )
    os.close(write)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Broken pipe" not in done.stderr
