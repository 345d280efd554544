"""A run that is killed and started again ends with the same weights, bit for bit, and the same log."""

import json
import signal
import subprocess
import sys

import pytest

from tests.helpers.commands import environment
from tests.helpers.effort import effort
from tests.helpers.paths import ROOT
from tests.helpers.torture.random_kills import EVERY

pytestmark = pytest.mark.timeout(1200)  # some twenty short runs, in `make torture` a hundred
WORDS = [
    "data=smoke", "model=smoke", "optim=muon", "budget.tokens=5_000", "batch.documents=4", "batch.bucket=4",
    "evaluate.every=8", "evaluate.problems=4", "evaluate.documents=8", "evaluate.samples=2",
    "out.save_every=5", "out.log_every=2", "out.keep=3",
]  # fmt: skip
DEATHS = ["step", "first step", "index", "weights", "damage", "saving", "random"]
CODES = {"random": {-signal.SIGPROF, 0}, "saving": {-signal.SIGKILL}}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.torture.random_kills", str(tmp_path_factory.mktemp("runs")), *WORDS],
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=effort(1140, 10_000),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_straight_run_is_a_real_one(results):
    straight = results[0]["straight"]
    assert straight["deaths"] == [0] and straight["complete"] and straight["step"] > 15
    rows = straight["rows"]
    assert rows[-1]["loss"] < rows[1]["loss"] and rows[-1]["step"] == straight["step"]
    assert [r["step"] for r in rows if "held_out_loss" in r] == [0, *range(8, straight["step"], 8), straight["step"]]


@pytest.mark.parametrize("name", DEATHS)
def test_it_really_died_and_was_finished(results, name):
    run = results[0][name]
    assert run["deaths"][:-1] and run["deaths"][-1] == 0 and run["complete"] and not run["leftovers"]
    assert set(run["deaths"][:-1]) <= CODES.get(name, {9})
    assert run["deaths"][0] != 0
    assert name != "random" or run["deaths"].count(-signal.SIGPROF) >= 2
    assert name != "saving" or EVERY * len(run["deaths"]) > 12, "a save has more file operations than that"


@pytest.mark.parametrize("name", DEATHS)
def test_the_weights_are_the_same_to_the_bit(results, name):
    runs = results[0]
    assert runs[name]["final"] == runs["straight"]["final"] and runs[name]["step"] == runs["straight"]["step"]


@pytest.mark.parametrize("name", DEATHS)
def test_every_step_is_logged_once_with_the_same_numbers_and_the_ledger_counts_once(results, name):
    runs = results[0]
    steps = [row["step"] for row in runs[name]["rows"]]
    assert steps == sorted(set(steps))
    assert runs[name]["rows"] == runs["straight"]["rows"]
    assert runs[name]["tokens"] == runs["straight"]["tokens"]


def test_a_damaged_checkpoint_was_passed_over_with_a_warning(results):
    assert "model.safetensors is damaged; trying the checkpoint before it" in results[1]
