"""The loop: order of things, budgets, periods, the ledger, and stopping when numbers stop being numbers."""

import io
import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from synth.store.files import read_json, read_json_lines
from train.core import checkpoint, loop
from train.core.budget_and_ledger import Budget, Diverged, TrainState
from train.core.loop import StepOutput, is_due, train
from train.core.optimizer import OptimConfig, Optimizer, Schedule
from train.runs.run_folder import TrainingOutConfig, open_run

COUNTER = itertools.count()
OPTIM = OptimConfig(lr=0.05, schedule=Schedule("linear", warmup_steps=0))


def objective(model, step):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    return StepOutput(loss, {"mine": float(step)}, 8, {"update": 100.0, "teacher": 50.0}, {"update": 6, "teacher": 2})


def start(tmp_path, **out):
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.bias.zero_()
    run = open_run(
        {"n": next(COUNTER), "out": {"root": str(tmp_path), "name": "x", "folder": None}},
        entry="tests",
        kind="training",
    )
    return run, model, TrainingOutConfig(**{"log_every": 5, "save_every": 10, "keep": 0, **out})


@pytest.mark.parametrize(
    ("budget", "steps"),
    [(Budget(steps=7), 7), (Budget(tokens=41), 6), (Budget(flops=451.0), 4), (Budget(tokens=40), 5)],
)
def test_a_budget_is_spent_and_no_more_than_one_step_beyond(tmp_path, budget, steps):
    run, model, out = start(tmp_path)
    assert train(run, model, objective, OPTIM, budget, out).step == steps


def test_what_is_written_when(tmp_path):
    run, model, out = start(tmp_path)
    seen = []

    def evaluate(model, state):
        seen.append(state.step)
        return {"score": 1.0}

    state = train(run, model, objective, OPTIM, Budget(steps=23), out, evaluate=evaluate, evaluate_every=7)
    rows = read_json_lines(run.path / "metrics.jsonl")
    assert seen == [0, 7, 14, 21, 23]
    assert [r["step"] for r in rows] == [0, 5, 7, 10, 14, 15, 20, 21, 23]
    assert [r["step"] for r in rows if "score" in r] == seen
    assert [line["step"] for line in read_json_lines(run.path / checkpoint.INDEX)] == [10, 20, 23]
    assert rows[-1]["mine"] == 22.0 and rows[-1]["tokens"] == 8 * 23
    assert {"loss", "smooth_loss", "grad_norm", "lr_scale", "flops", "seconds", "tokens_per_second"} <= set(rows[-1])
    assert rows[1]["lr_scale"] == pytest.approx(1 - 4 / 23)
    ledger = read_json(run.path / "ledger.json")
    assert ledger["tokens"] == {"update": 6 * 23, "teacher": 2 * 23}
    assert ledger["flops"] == {"update": 2300.0, "teacher": 1150.0} and state.flops == 3450.0
    assert set(ledger["seconds"]) == {"update", "evaluation"}
    assert rows[-1]["loss"] < rows[1]["loss"]


@pytest.mark.parametrize(("scores", "best"), [([1, 3, 5, 5, 2], 10), ([9, 3, 5, 5, 2], 0), ([1, 1, 2, 3, 4], 20)])
@pytest.mark.parametrize("killed_at", [None, 7, 12])
def test_early_stopping_ends_with_the_weights_of_the_first_best_evaluation(tmp_path, scores, best, killed_at):
    run, model, out = start(tmp_path, save_every=4, keep=1)
    seen, weights = [], {}

    def evaluate(model, state):
        seen.append(state.step)
        if state.step == killed_at and seen.count(killed_at) == 1:
            raise KeyboardInterrupt
        weights[state.step] = model.weight.detach().clone()
        return {"eval_full": scores[state.step // 5]}

    def stopping(model, step):
        if step == killed_at and killed_at not in seen:
            seen.append(killed_at)
            raise KeyboardInterrupt
        return objective(model, step)

    def go():
        arguments = {"evaluate": evaluate, "evaluate_every": 5, "keep_best": True}
        train(run, model, stopping, OPTIM, Budget(steps=20), out, **arguments)

    if killed_at is not None:
        with pytest.raises(KeyboardInterrupt):
            go()
    go()
    found = checkpoint.find(run.path)
    assert found.name == f"step-{best}"
    assert torch.equal(load_file(found / checkpoint.WEIGHTS)["weight"], weights[best])
    assert sorted(path.name for path in found.parent.iterdir()) == sorted({f"step-{best}", "step-20"})


def test_zero_means_never_but_the_last_step_is_saved(tmp_path):
    run, model, out = start(tmp_path, log_every=0, save_every=0)
    train(run, model, objective, OPTIM, Budget(steps=3), out)
    assert read_json_lines(run.path / "metrics.jsonl") == []
    assert [line["step"] for line in read_json_lines(run.path / checkpoint.INDEX)] == [3]


def test_due():
    assert [s for s in range(1, 8) if is_due(s, 3, last=s == 7)] == [3, 6, 7]
    assert not any(is_due(s, 0, last=True) for s in range(5))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_it_stops_with_a_clear_word_and_keeps_the_last_good_weights(tmp_path, bad):
    run, model, out = start(tmp_path, save_every=2)

    def poisoned(model, step):
        output = objective(model, step)
        return StepOutput(output.loss * (bad if step == 5 else 1), {}, 8, {"update": 1.0})

    with pytest.raises(Diverged, match=r"diverged at step 5: loss (nan|inf).*lower optim\.lr=0\.05"):
        train(run, model, poisoned, OPTIM, Budget(steps=9), out)
    assert checkpoint.latest(run.path).name == "step-4"
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_loss_that_climbs_is_stopped_before_it_is_saved_over_the_good_weights(tmp_path):
    run, model, out = start(tmp_path, save_every=2, keep=1)

    def climbing(model, step):
        output = objective(model, step)
        return StepOutput(output.loss + max(0, step - 20) * 2.0, {}, 8, {"update": 1.0})

    optim = replace(OPTIM, spike=1.0)
    with pytest.raises(
        Diverged, match=r"rose from \d.*by more than optim\.spike=1\.0.*last good checkpoint: .*/step-2\d"
    ):
        train(run, model, climbing, optim, Budget(steps=90), out)
    assert 22 <= int(checkpoint.latest(run.path).name.removeprefix("step-")) < 30


def test_a_short_spike_is_let_pass(tmp_path):
    run, model, out = start(tmp_path)

    def spiking(model, step):
        output = objective(model, step)
        return StepOutput(output.loss + (20.0 if step == 7 else 0.0), {}, 8, {"update": 1.0})

    assert train(run, model, spiking, replace(OPTIM, spike=1.0), Budget(steps=12), out).step == 12


def test_the_average_is_judged_and_saved_and_the_trained_weights_go_on_as_if_never_stopped(tmp_path):
    optim = replace(OPTIM, ema=0.9)
    seen = []

    def evaluate(model, state):
        seen.append((state.step, model.weight.detach().clone()))
        return {}

    run, straight, out = start(tmp_path, save_every=4)
    train(run, straight, objective, optim, Budget(steps=10), out, evaluate=evaluate, evaluate_every=5)
    average, trained = nn.Linear(4, 1), nn.Linear(4, 1)
    with torch.no_grad():
        for model in (average, trained):
            model.weight.fill_(0.1)
            model.bias.zero_()
    optimizer = Optimizer(trained, OPTIM)
    for step in range(10):
        objective(trained, step).loss.backward()
        optimizer.clip()
        optimizer.step(OPTIM.schedule(step / 10, step))
        optimizer.zero_grad()
        decay = min(0.9, (2 + step) / (11 + step))
        with torch.no_grad():
            for a, p in zip(average.parameters(), trained.parameters(), strict=True):
                a.mul_(decay).add_(p, alpha=1 - decay)
    assert torch.equal(straight.weight, trained.weight)  # training itself is not changed
    torch.testing.assert_close(seen[-1][1], average.weight.detach())
    saved = load_file(checkpoint.latest(run.path) / "model.safetensors")
    assert torch.equal(saved["weight"], seen[-1][1]) and not torch.equal(saved["weight"], straight.weight)

    run, model, out = start(tmp_path, save_every=4)
    with pytest.raises(Diverged):
        train(run, model, dying_at(6), optim, Budget(steps=10), out)
    fresh = nn.Linear(4, 1)
    train(run, fresh, objective, optim, Budget(steps=10), out)
    again = load_file(checkpoint.latest(run.path) / "model.safetensors")
    assert torch.equal(fresh.weight, straight.weight) and torch.equal(again["weight"], saved["weight"])


def dying_at(last):
    def dying(model, step):
        output = objective(model, step)
        return StepOutput(output.loss * (math.nan if step == last else 1), {}, 8, {"update": 1.0})

    return dying


class Remembering:
    """An objective with memory: it must come back on resume."""

    def __init__(self):
        self.seen = torch.zeros(1)

    def __call__(self, model, step):
        self.seen += step
        return objective(model, step)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_a_second_call_continues_and_a_finished_run_is_left_alone(tmp_path):
    run, model, out = start(tmp_path)
    memory = Remembering()
    train(run, model, memory, OPTIM, Budget(steps=10), out)
    fresh, again = nn.Linear(4, 1), Remembering()
    state = train(run, fresh, again, OPTIM, Budget(steps=10), out)
    assert state.step == 10 and torch.equal(fresh.weight, model.weight) and torch.equal(again.seen, memory.seen)
    assert train(run, fresh, again, OPTIM, Budget(steps=12), out).step == 12
    assert again.seen.item() == sum(range(12))
    assert [r["step"] for r in read_json_lines(run.path / "metrics.jsonl")] == [5, 10, 12]


def test_what_a_kill_inside_the_last_save_left_is_removed_by_the_next_call(tmp_path):
    """It makes no save of its own, since all steps are done."""
    run, model, out = start(tmp_path)
    train(run, model, objective, OPTIM, Budget(steps=10), out)
    left = run.path / "checkpoints" / ".step-5.tmp"  # where pruning puts a checkpoint before it is removed
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    train(run, model, objective, OPTIM, Budget(steps=10), out)
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-10"]


def test_smoothing_starts_at_the_first_loss():
    state = TrainState()
    state.observe(2.0)
    state.observe(1.0)
    assert state.smooth_loss == pytest.approx(2.0 * 0.98 + 0.02)


def test_the_bar_says_step_loss_speed_and_time_left(tmp_path, monkeypatch):
    run, _, _ = start(tmp_path)
    screen = io.StringIO()
    monkeypatch.setattr(loop, "Progress", lambda **how: tqdm(**{**how, "file": screen, "mininterval": 0}))
    with loop.MetricsLog(run, TrainState(), Budget(steps=8)) as bar:
        bar.show(TrainState(step=2, tokens=10, smooth_loss=1.25), 12_345.6)
    said = screen.getvalue().split("\r")[-1]
    assert run.path.name in said and "step 2 loss 1.250 12,346 tokens/s" in said and " 25%" in said
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d,", said), "time taken and time left"


def test_steps_that_teach_nothing_are_told(tmp_path, capsys):
    run, model, out = start(tmp_path)

    def sometimes(model, step):
        output = objective(model, step)
        return StepOutput(output.loss * (0.0 if step in (2, 4, 5) else 1.0), {}, 8, {"update": 1.0})

    train(run, model, sometimes, OPTIM, Budget(steps=8), out)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: step 2: the gradient is 0: nothing that was drawn teaches anything",
        "warning: 3 of 8 steps taught nothing (grad_norm 0; see `signal`)",
    ]
