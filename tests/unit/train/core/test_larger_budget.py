"""A run that is given another budget ends with the bits of a run that had it from the start, or says why it cannot."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from models.decode import cpu_kernels
from synth.store.files import read_json, read_json_lines
from train.config.compose import run_entry
from train.core import checkpoint
from train.core.optimizer import Schedule
from train.pretrain import PretrainConfig, main
from train.runs.run_folder import ROUNDING

SMALL = [
    "data=smoke", "model=smoke", "batch.documents=4", "evaluate.every=0", "out.log_every=1", "out.save_every=3",
    "optim.schedule.warmup_steps=2",
]  # fmt: skip


def pretrain(folder, *words: str) -> int:
    return run_entry("pretrain", PretrainConfig, main, "", [*SMALL, f"out.folder={folder}", *words])


def weights(folder) -> bytes:
    return (checkpoint.latest(folder) / "model.safetensors").read_bytes()


def numbers(folder) -> list[dict]:
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_json_lines(folder / "metrics.jsonl")]


def assert_same(one, other, exactly: bool) -> None:
    """Weights and losses, to the bit or to rounding: two threads take the modules where one takes the compiled pass."""
    if exactly:
        assert weights(one) == weights(other)
        assert [r["loss"] for r in numbers(one)] == [r["loss"] for r in numbers(other)]
        return
    found, right = (load_file(checkpoint.latest(folder) / "model.safetensors") for folder in (one, other))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)
    assert [r["loss"] for r in numbers(one)] == pytest.approx([r["loss"] for r in numbers(other)], rel=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(runs):
    """A complete run of four steps at a constant rate."""
    assert pretrain(runs / "done", "budget.steps=4", "optim.schedule.shape=constant") == 0
    return runs / "done"


def test_a_complete_run_goes_on_with_a_larger_budget_as_if_asked_for_it_at_once(runs, done, capsys):
    first = weights(done)
    for more in ("budget.steps=6", "budget.tokens=2000"):  # the second in another unit, with other threads
        words = [more, "optim.schedule.shape=constant", *(["threads=2"] if "tokens" in more else [])]
        assert pretrain(done, *words) == 0
        assert pretrain(runs / more, more, "optim.schedule.shape=constant") == 0
        assert_same(done, runs / more, exactly="tokens" not in more or not cpu_kernels.COMPILED)
        assert weights(done) != first
        name, amount = more.removeprefix("budget.").split("=")
        assert yaml.safe_load((done / "config.yaml").read_text())["budget"][name] == int(amount)
    said = capsys.readouterr()
    assert "from those of an unbroken run: threads is 1 there and 2 here" in said.err
    assert "goes on from step 4" in said.err and "goes on from step 6" in said.err
    budgets = [again.get("budget") for again in read_json(done / "manifest.json")["resumed"]]
    assert [budget["steps"] for budget in budgets] == [6, None]
    assert pretrain(done, "budget.tokens=2000", "optim.schedule.shape=constant") == 0
    assert "is complete already, nothing is run again" in capsys.readouterr().err
    assert pretrain(done, "budget.steps=4", "optim.schedule.shape=constant") == 2
    error = capsys.readouterr().err
    assert f"budget.steps=4: {done} has spent" in error and len(error.splitlines()) == 1


def test_where_the_schedule_has_followed_the_budget_the_reason_is_given_and_nothing_changes(runs, capsys):
    folder = runs / "wsd"
    assert pretrain(folder, "budget.steps=4") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert pretrain(folder, "budget.steps=8") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "its learning rates up to step 4 depend on its budget of 4 steps; accepted: runs with" in error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert pretrain(folder, "budget.steps=8", "optim.lr=0.1") == 2, "another setting is another run"
    assert "is a run of another config (optim.lr is" in capsys.readouterr().err


def test_settings_that_change_rounding_alone_are_accepted(done, capsys):
    config = yaml.safe_load((done / "config.yaml").read_text())
    assert {"threads", "batch.micro"} < set(ROUNDING)
    words = [f"budget.{name}={json.dumps(amount)}" for name, amount in config["budget"].items() if amount]
    assert pretrain(done, *words, "optim.schedule.shape=constant", "batch.micro=2", "threads=2") == 0
    assert "is complete already" in capsys.readouterr().err
    assert yaml.safe_load((done / "config.yaml").read_text()) == config


@pytest.mark.parametrize(
    ("settings", "until", "flat"),
    [
        ({"shape": "constant"}, 1.0, True),
        ({"shape": "wsd", "decay": 0.5}, 0.5, True),
        ({"shape": "wsd", "decay": 0.5}, 0.6, False),
        ({"shape": "linear"}, 0.1, False),
        ({"shape": "cosine"}, 0.1, False),
        ({"shape": "constant", "warmup": 0.1}, 1.0, False),
    ],
)
def test_flat_means_that_the_budget_does_not_matter(settings, until, flat):
    schedule = Schedule(**settings, warmup_steps=3)
    assert schedule.is_flat_until(until) == flat
    small = [schedule(until * k / 40, k) for k in range(40)]
    large = [schedule(until * k / 400, k) for k in range(40)]
    assert (small == large) == flat
