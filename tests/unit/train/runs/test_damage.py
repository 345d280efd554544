"""Damaged folders: the file is named in one line, or what was read is as it was; nothing is used silently."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.effort import effort
from tests.helpers.torture.damage import MAKE, SMALL, Said, Subjects, said_of, say, trial
from tests.helpers.untrained_models import save_untrained
from train import compare, cost, evaluate, merge, pretrain
from train.config.compose import run_entry
from train.core import checkpoint
from train.report.__main__ import main as report
from train.runs import sha256sums

pytestmark = pytest.mark.timeout(effort(600, 7200))
NAMES = tuple(MAKE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Subjects(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_named_or_without_effect(made, name, tmp_path):
    rng = np.random.default_rng(NAMES.index(name))
    before = said_of(made[name], tmp_path)[1]
    assert before.code == 0, before.err
    came = [trial(made[name], before, rng, tmp_path) for _ in range(effort(4, 85))]
    assert [line for what, line in came if what == "SILENT"] == []
    if name in ("a checkpoint alone", "the zoo"):
        assert {what for what, _ in came} == {"named"}


SPOILT = {  # damages of a run folder that no hash would have to find: file, content
    "an empty manifest": ("manifest.json", b"{}"),
    "a manifest of another kind": ("manifest.json", b'{"config": [3], "resumed": 7}'),
    "a summary without results": ("summary.json", b"{}"),
    "a garbage line": ("metrics.jsonl", b'{"step": 1}\ngarbage\n'),
    "lines that are no objects": ("metrics.jsonl", b"[1]\n7\n"),
    "bytes that are no text": ("config.yaml", b"\xff\xfe\x00"),
    "settings that are none": ("config.yaml", b"- 1\n"),
    "an index line without path": ("checkpoints.jsonl", b'{"step": 6}\n'),
    "a ledger of words": ("ledger.json", b'{"tokens": "many", "seconds": {"update": "x"}}'),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("hashed", [True, False])
def test_every_command_names_a_damaged_file(made, tmp_path, name, hashed):
    """With the hashes of this version, and in a folder of an earlier one."""
    folder = shutil.copytree(made["a finished run"].folder, tmp_path / "run")
    if not hashed:
        (folder / sha256sums.SUMS).unlink()
    file, content = SPOILT[name]
    (folder / file).write_bytes(content)
    words = [*SMALL, f"out.folder={folder}"]
    calls = {
        "compare": lambda: compare.main([str(folder)]),
        "cost": lambda: cost.main([str(folder), "--tokens", "1e6"]),
        "pretrain": lambda: run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words),
        "checkpoint": lambda: print(checkpoint.load_model(folder)),
    }
    if effort(name == "a summary without results", True):
        calls["report"] = lambda: report([str(folder)])
    found = {command: say(call) for command, call in calls.items()}
    for command, said in found.items():
        assert said.code in (0, 2), (command, said)
        lines = [line for line in said.err.splitlines() if "is complete already" not in line]
        assert said.code == 0 or (lines[0].startswith(("error: ", "warning: ")) and "run" in lines[0]), (command, said)
    if hashed:
        assert any(file in said.err for said in found.values()), found


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    long = tmp_path / ("x" * 300)
    for call in (
        lambda: compare.main([str(long)]),
        lambda: report([str(long)]),
        lambda: run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*SMALL, f"out.folder={long}"]),
        lambda: run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", [f"checkpoint={long}"]),
    ):
        said = say(call)
        assert said.code == 2 and said.err.count("\n") == 1 and "xxx" in said.err, said


def test_the_hashes_are_those_of_sha256sum(made):
    folder = made["a finished run"].folder
    listed = set(sha256sums.read(folder))
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "checkpoints.jsonl", "summary.json"} <= listed
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--quiet", "-c", sha256sums.SUMS], cwd=folder, check=True)


def test_a_file_that_is_being_replaced_has_both_hashes(made, tmp_path, monkeypatch):
    """A process that is killed between two of the writes leaves a folder that is read."""
    folder = shutil.copytree(made["a run that was stopped"].folder, tmp_path / "run")
    whole, count = sha256sums.atomic_write, 0

    def dying(path, content):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        whole(path, content)

    monkeypatch.setattr(sha256sums, "atomic_write", dying)
    for at in (1, 2, 3):
        count, content = 0, json.dumps({"config": "x", "at": at}).encode()
        with pytest.raises(KeyboardInterrupt):
            sha256sums.replace(folder, "manifest.json", content)
        sha256sums.check(folder)
    assert (folder / "manifest.json").read_bytes() == content


def not_finite(folder):
    """The model of a folder with one number that is none, entered as if it had been saved so."""
    step = checkpoint.find(save_untrained(folder))
    weights = load_file(step / checkpoint.WEIGHTS)
    next(iter(weights.values())).view(-1)[3] = float("nan")
    save_file(weights, step / checkpoint.WEIGHTS)
    state = json.loads((step / checkpoint.STATE).read_text())
    (step / checkpoint.STATE).write_text(json.dumps({k: v for k, v in state.items() if k not in ("sha256", "seal")}))
    enter(folder, step)
    return step


def enter(folder, step):
    """An index with the hashes of the files as they are."""
    hashes = {name: sha256sums.digest((step / name).read_bytes()) for name in checkpoint.FILES}
    line = {"step": 1, "path": f"checkpoints/{step.name}", "sha256": hashes}
    (folder / checkpoint.INDEX).write_text(json.dumps(line) + "\n")


def test_a_model_that_is_not_finite_is_neither_used_nor_written(tmp_path):
    step = not_finite(tmp_path / "bad")
    good = save_untrained(tmp_path / "good")
    for setting, call in {
        "checkpoint": (
            "evaluate", evaluate.EvaluateConfig, evaluate.main, "",
            [f"checkpoint={step}", "sampling.beams=3", f"out.folder={tmp_path / 'o'}"],
        ),
        "first": (
            "merge", merge.MergeConfig, merge.main, "",
            [f"first={step}", f"second={good}", f"out.folder={tmp_path / 'o'}"],
        ),
    }.items():  # fmt: skip
        said = say(lambda call=call: run_entry(*call))
        assert said == Said(2, "", said.err) and said.err.count("\n") == 1
        assert f"{setting}={step}: its model.safetensors cannot be read (" in said.err and "is not finite" in said.err
    assert not (tmp_path / "o").exists()
    model = checkpoint.load_model(good)
    with torch.no_grad():
        model.embed.weight[0, 0] = float("inf")
    before = sorted(good.rglob("*"))
    with pytest.raises(FloatingPointError, match="is not finite; nothing is written"):
        checkpoint.save(good, model, torch.optim.SGD(model.parameters()), checkpoint.TrainState(step=2))
    assert sorted(good.rglob("*")) == before


class Bad:
    """What a pickle would do when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_planted_pickle_is_refused_and_does_nothing(tmp_path):
    step = checkpoint.find(save_untrained(tmp_path / "run"))
    torch.save({"optimizer": Bad(tmp_path / "done"), "objective": {}}, step / checkpoint.OPTIMIZER)
    state = json.loads((step / checkpoint.STATE).read_text())
    (step / checkpoint.STATE).write_text(json.dumps({k: v for k, v in state.items() if k not in ("sha256", "seal")}))
    enter(tmp_path / "run", step)
    model = checkpoint.load_model(step)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ValueError, match=r"optimizer\.pt: cannot be read \(it holds more than tensors"):
        checkpoint.restore(step, model, optimizer, checkpoint.TrainState())
    assert not (tmp_path / "done").exists()


def test_a_log_that_is_not_as_it_was_stops_a_run_that_goes_on(made, tmp_path):
    folder = shutil.copytree(made["a run that was stopped"].folder, tmp_path / "run")
    words = ("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*SMALL, f"out.folder={folder}"])
    log = folder / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole.replace('"tokens": ', '"tokens": 1', 1))
    said = say(lambda: run_entry(*words))
    assert said.code == 2 and f"{log}: is damaged: it is not as it was at step 4" in said.err
    log.unlink()  # the way out that the line names
    said = say(lambda: run_entry(*words))
    assert said.code == 0 and f"warning: {log}: is not there; it begins anew at step 4" in said.err
    assert [row["step"] for row in map(json.loads, log.read_text().splitlines())] == [5, 6]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(made, tmp_path):
    folder = shutil.copytree(made["a run that was stopped"].folder, tmp_path / "run")
    for weights in folder.rglob(checkpoint.WEIGHTS):
        weights.write_bytes(b"")
    said = say(
        lambda: run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*SMALL, f"out.folder={folder}"])
    )
    assert said.code == 2 and "model.safetensors is damaged; accepted: the files as they were" in said.err
