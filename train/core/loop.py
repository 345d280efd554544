"""The one training loop: batch, forward, backward, clip, step, log, evaluate, save, stop, whatever the method.

An objective makes the batch and the loss for a step index; the loop knows nothing else about it. Because every random
thing is a function of that index, a run that is killed at any moment and started again ends with the same weights, bit
for bit on a CPU.

    result = train(run, model, objective, optim, budget, out, evaluate=..., evaluate_every=500)
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from synth.store.files import read_json_lines
from train.core import checkpoint
from train.core.distributed import Group, whole
from train.core.metrics_log import MetricsLog
from train.core.optimizer import OptimConfig, Optimizer
from train.core.state import Budget, Diverged, TrainState
from train.runs.run_folder import RunFolder, TrainingOutConfig


@dataclass(frozen=True)
class StepOutput:
    """What an objective hands back for one step.

    loss: a scalar with a graph. metrics: numbers for the log. tokens: counted against the budget. flops: by kind of
    work (generation, teacher, update). tokens_by_kind and seconds split the ledger's other columns where a method does
    more than updates; left out, all tokens and all time are the update's.
    """

    loss: Tensor
    metrics: Mapping[str, float]
    tokens: int
    flops: Mapping[str, float]
    tokens_by_kind: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A pure function of (weights, step). One with memory (an EMA teacher) has state_dict and load_state_dict."""

    def __call__(self, model: nn.Module, step: int) -> StepOutput:
        """The loss of step `step` for the current weights."""


SINGLE_PROCESS = Group()
Evaluate = Callable[[nn.Module, TrainState], Mapping[str, Any]]


def is_due(step: int, every: int, last: bool) -> bool:
    """Whether a periodic action happens after `step` steps: at multiples of its period and at the end; 0: never."""
    return every > 0 and (last or step % every == 0)


def train(
    run: RunFolder,
    model: nn.Module,
    objective: Objective,
    optim: OptimConfig,
    budget: Budget,
    out: TrainingOutConfig,
    *,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    notes: Mapping[str, Any] | None = None,
    group: Group = SINGLE_PROCESS,
) -> TrainState:
    """Trains `model` in place until the budget is spent, continuing from the run's last checkpoint if it has one.

    `evaluate(model, state)` returns numbers for the log; it is called before the first step, every `evaluate_every`
    steps and at the end, with the averaged weights where `optim.ema` asks for them. `notes` goes into every checkpoint.
    Of the processes of a `group`, all go through the same steps and the first writes; the loss of a step is the mean of
    theirs. Raises Diverged when loss or gradient stop being numbers, or the loss has risen by more than `optim.spike`;
    the checkpoints before that stay.
    """
    optimizer, state = Optimizer(model, optim), TrainState()
    if group.is_main:
        checkpoint.clean(run.path)
    found = checkpoint.latest(run.path)
    if found is not None:
        memory = checkpoint.restore(found, model, optimizer, state)
        if hasattr(objective, "load_state_dict"):
            objective.load_state_dict(memory)
    evaluating = evaluate is not None and evaluate_every > 0
    with MetricsLog(run, state, budget, quiet=not group.is_main) as recorder:
        if evaluating and state.step == 0:
            recorder.record(0, _position(state) | _evaluate(evaluate, model, optimizer, state))
        while (before := state.progress(budget)) < 1:
            started, started_cpu = time.perf_counter(), time.process_time()
            scale = optim.schedule(before, state.step)
            output = objective(model, state.step)
            output.loss.backward()
            norm = optimizer.clip()
            row = {
                "loss": group.mean(output.loss.detach()),
                "grad_norm": norm.item(),
                "lr_scale": scale,
                **output.metrics,
            }
            _check_finite(row, state.step, optim, run)
            logged = is_due(state.step + 1, out.log_every, False)
            weights = [p.detach().clone() for p in optimizer.parameters] if logged else []
            optimizer.step(scale)
            if logged:
                row["update_norm"] = optimizer.moved(weights)
            optimizer.zero_grad()
            seconds = time.perf_counter() - started
            _account(state, output, row["loss"], seconds)
            state.ledger.add(cpu_seconds={"steps": time.process_time() - started_cpu})
            _check_spike(state, optim, run)

            last = state.progress(budget) >= 1
            evaluated = evaluating and is_due(state.step, evaluate_every, last)
            if evaluated:
                row |= _evaluate(evaluate, model, optimizer, state)
            if evaluated or is_due(state.step, out.log_every, last):
                row |= {"smooth_loss": state.smooth_loss, "tokens_per_second": output.tokens / seconds}
                recorder.record(state.step, _position(state) | row)
            recorder.show(state, output.tokens / seconds)
            if last or is_due(state.step, out.save_every, last):
                _save(run, recorder, model, optimizer, objective, state, notes, out.keep, group)
    return state


def last_row(run: RunFolder) -> dict[str, Any]:
    """The metrics of the run's last logged step, which holds its last evaluation."""
    rows = read_json_lines(run.path / "metrics.jsonl")
    return rows[-1] if rows else {}


def _position(state: TrainState) -> dict[str, Any]:
    return {"tokens": state.tokens, "flops": state.flops, "seconds": round(sum(state.ledger.seconds.values()), 3)}


def _check_finite(row: Mapping[str, float], step: int, optim: OptimConfig, run: RunFolder) -> None:
    if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
        what = f"at step {step}: loss {row['loss']}, gradient norm {row['grad_norm']}"
        raise Diverged(f"training diverged {what}; {_advice(optim, run)}")


def _check_spike(state: TrainState, optim: OptimConfig, run: RunFolder) -> None:
    if optim.spike and state.smooth_loss - state.lowest_loss > optim.spike:
        rise = f"the smoothed loss rose from {state.lowest_loss:.3f} to {state.smooth_loss:.3f}"
        what = f"at step {state.step}: {rise}, by more than optim.spike={optim.spike}"
        raise Diverged(f"training diverged {what}; {_advice(optim, run)}")


def _advice(optim: OptimConfig, run: RunFolder) -> str:
    rates = f"optim.lr={optim.lr}" + (f", optim.muon.lr={optim.muon.lr}" if optim.muon else "")
    good = checkpoint.latest(run.path)
    return f"lower {rates}, or optim.clip; the last good checkpoint: {good or 'none'}"


def _account(state: TrainState, output: StepOutput, loss: float, seconds: float) -> None:
    state.step += 1
    state.tokens += output.tokens
    state.observe(loss)
    own = max(0.0, seconds - sum(output.seconds.values()))
    state.ledger.add(
        tokens=output.tokens_by_kind or {"update": output.tokens},
        flops=output.flops,
        seconds={**output.seconds, "update": output.seconds.get("update", 0.0) + own},
    )


def _evaluate(evaluate: Evaluate, model: nn.Module, optimizer: Optimizer, state: TrainState) -> dict[str, Any]:
    started = time.perf_counter()
    with optimizer.averaged():
        values = dict(evaluate(whole(model), state))
    state.ledger.add(seconds={"evaluation": time.perf_counter() - started})
    return values


def _save(
    run: RunFolder,
    recorder: MetricsLog,
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    state: TrainState,
    notes: Mapping[str, Any] | None,
    keep: int,
    group: Group,
) -> None:
    recorder.settle(state)
    memory = objective.state_dict() if hasattr(objective, "state_dict") else None
    with optimizer.averaged():
        complete = whole(model)
        if group.is_main:
            checkpoint.save(run.path, complete, optimizer, state, notes, memory, keep)
        else:
            optimizer.state_dict()  # putting shards together takes every process
