"""One, two and four processes under torchrun are the same run to rounding, killed and gone on in another number too."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.helpers.commands import kill_worker, start

pytestmark = pytest.mark.timeout(1200)  # every run starts its processes anew
WORDS = [
    "data=smoke", "model=smoke", "batch.documents=8", "batch.bucket=2", "budget.steps=20", "evaluate.every=10",
    "evaluate.problems=4", "evaluate.documents=8", "evaluate.samples=2", "out.save_every=4", "out.log_every=1",
    "out.keep=0",
]  # fmt: skip
DDP = ["optim=muon", "optim.muon.lr=0.01"]
# three rows of a convolution's mix do not divide by two, so one process holds more of them than the other
FSDP = [*DDP, "model.conv=3", "parallel=fsdp", "optim.ema=0.9", "batch.packing=documents", "batch.micro=2"]


def pretrain(folder: Path, processes: int, words: list[str]) -> subprocess.Popen:
    return start("train.pretrain", *WORDS, *words, f"out.folder={folder}", processes=processes)


def finish(process: subprocess.Popen) -> None:
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    assert len(stdout.splitlines()) == 2, "one process speaks for all: what came out, and where it is"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process, two, and four of which one is killed before a single process goes on; DDP and FSDP."""
    folder = tmp_path_factory.mktemp("runs")
    plan = {"one": (1, 0, DDP), "two": (2, 0, DDP), "resumed": (4, 1, DDP)}
    plan |= {"fsdp-one": (1, 0, FSDP), "fsdp-resumed": (2, 1, FSDP), "fsdp-more": (1, 2, FSDP)}
    for name, (processes, then, words) in plan.items():
        process = pretrain(folder / name, processes, words)
        if not then:
            finish(process)
            continue
        kill_worker(process, folder / name / "checkpoints.jsonl")
        assert not (folder / name / "summary.json").exists()
        finish(pretrain(folder / name, then, words))
    return folder


PAIRS = [("two", "one"), ("resumed", "one"), ("fsdp-resumed", "fsdp-one"), ("fsdp-more", "fsdp-one")]


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_every_number_of_the_log_is_that_of_one_process(runs, name, reference):
    found, expected = ([json.loads(s) for s in (runs / n / "metrics.jsonl").open()] for n in (name, reference))
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(21))
    for row, right in zip(found, expected, strict=True):
        for key in ("loss", "smooth_loss", "grad_norm", "floor", "excess", "held_out_loss", "kl_to_oracle"):
            assert row.get(key) == (None if key not in right else pytest.approx(right[key], rel=2e-3, abs=1e-6))
        assert (row["tokens"], row["flops"]) == (right["tokens"], right["flops"])
    ledgers = [json.loads((runs / n / "ledger.json").read_text()) for n in (name, reference)]
    assert ledgers[0]["tokens"] == ledgers[1]["tokens"] and ledgers[0]["flops"] == ledgers[1]["flops"]


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_the_weights_are_those_of_one_process(runs, name, reference):
    found, right = (load_file(runs / n / "checkpoints" / "step-20" / "model.safetensors") for n in (name, reference))
    assert found.keys() == right.keys()
    for key, tensor in right.items():
        np.testing.assert_allclose(found[key], tensor, rtol=0, atol=2e-4)


def test_more_processes_than_rows_is_one_line(tmp_path):
    process = pretrain(tmp_path / "x", 2, ["batch.documents=1"])
    _, stderr = process.communicate(timeout=200)
    said = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert said == ["error: batch.documents=1: fewer than the 2 processes; accepted: 2 or more"]
    assert process.returncode != 0 and not (tmp_path / "x").exists()


def test_commands_of_one_process_say_so(command):
    done = command("train.evaluate", "checkpoint=zoo/tiny-student-0", RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2
    assert done.stderr == (
        "error: WORLD_SIZE=2: this command runs in one process; accepted: start it without torchrun\n"
    )
