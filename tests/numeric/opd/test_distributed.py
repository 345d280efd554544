"""Distillation in two processes is that of one: every method's losses, log and weights; a killed run goes on in one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synth.store import encodings
from tests.helpers.commands import kill_worker, start
from tests.helpers.distil_steps import steps
from tests.helpers.opd_methods import NAMES, judged
from train import pretrain
from train.config.compose import run_entry
from train.core.loop import SINGLE_PROCESS
from train.opd import run as opd_run

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("ranks") / "found.pt"
    process = start("tests.helpers.distil_steps", out, processes=2)
    _, stderr = process.communicate(timeout=1000)
    assert process.returncode == 0, stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_losses_log_and_weights_of_one(name, two, monkeypatch):
    monkeypatch.setattr(encodings, "check", judged)
    one, found = steps(name, SINGLE_PROCESS), two[name]
    assert found["seen"] == one["seen"], "other rollouts"
    assert found["losses"] == pytest.approx(one["losses"], rel=1e-4, abs=1e-6)
    for row, right in zip(found["metrics"], one["metrics"], strict=True):
        counts = {name: value for name, value in right.items() if isinstance(value, list)}
        assert {name: row.pop(name) for name in counts} == {name: right.pop(name) for name in counts}
        for name in [name for name in right if name.startswith("auroc")]:  # rounding moves single pairs past each other
            assert row.pop(name) == pytest.approx(right.pop(name), abs=0.01)
        assert row == pytest.approx(right, rel=2e-3, abs=1e-5)
    torch.testing.assert_close(found["weights"], one["weights"], atol=2e-5, rtol=1e-3)


SMALL = [
    "data=smoke", "prompts=5", "max_new=12", "method=distillm", "method.source=replay", "budget.steps=6",
    "evaluate.every=3", "evaluate.problems=4", "evaluate.documents=4", "evaluate.samples=2", "out.save_every=2",
    "out.log_every=1", "out.keep=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    words = []
    for seed, name in enumerate(("student", "teacher")):
        folder = tmp_path_factory.mktemp("models") / name
        made = ["data=smoke", "model=smoke", f"seed={seed}", "budget.steps=2", "batch.documents=2", "evaluate.every=0"]
        assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*made, f"out.folder={folder}"]) == 0
        words.append(f"{name}={folder}")
    return words


def alone(*words: str) -> int:
    return run_entry("opd", opd_run.OpdConfig, opd_run.main, "", words)


def test_a_command_killed_in_two_processes_goes_on_in_one_with_what_it_had_kept(models, tmp_path):
    """The replay buffer of both comes back; the log and the weights are those of a run that was never killed."""
    words = [*SMALL, *models, f"out.folder={tmp_path / 'killed'}"]
    kill_worker(start("train.opd.run", *words, processes=2), tmp_path / "killed" / "checkpoints.jsonl")
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert alone(*words) == 0
    assert alone(*SMALL, *models, f"out.folder={tmp_path / 'whole'}") == 0
    found, right = ([json.loads(s) for s in (tmp_path / n / "metrics.jsonl").open()] for n in ("killed", "whole"))
    assert [row["step"] for row in found] == [row["step"] for row in right] == list(range(7))
    for row, other in zip(found, right, strict=True):
        for key in ("loss", "grad_norm", "rkl", "length_mean", "held_out_loss", "tokens", "flops"):
            assert row.get(key) == (None if key not in other else pytest.approx(other[key], rel=2e-3, abs=1e-6))
    samples = [(tmp_path / n / "samples.jsonl").read_text().splitlines() for n in ("killed", "whole")]
    assert len(samples[0]) == len(samples[1]) > 0
    weights = [load_file(tmp_path / n / "checkpoints" / "step-6" / "model.safetensors") for n in ("killed", "whole")]
    for key, tensor in weights[1].items():
        np.testing.assert_allclose(weights[0][key], tensor, rtol=0, atol=2e-4)


def test_more_processes_than_prompts_is_one_line(models, tmp_path):
    words = [*SMALL, "prompts=1", *models, f"out.folder={tmp_path / 'x'}"]
    _, stderr = start("train.opd.run", *words, processes=2).communicate(timeout=500)
    said = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert said == ["error: prompts=1: fewer than the 2 processes; accepted: 2 or more"]
    assert not (tmp_path / "x").exists()
