"""The one training loop: batch, forward, backward, clip, step, log, evaluate, save, stop, whatever the method.

An objective makes the batch and the loss of a step; the loop knows nothing else about it. Everything random is a
function of the step index, so a run that is killed at any moment and started again ends with the same weights, bit for
bit on a CPU; `metrics.jsonl` holds each step once, also over kills: on resume the lines after the checkpoint's step are
dropped, and a checkpoint is only written after the lines before it are on disk.

    state = train(run, model, objective, optim, budget, out, evaluate=..., evaluate_every=500)
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from models.flops import n_params
from models.gpt import GPT
from synth.kernel.progress import Progress
from synth.store.files import finite, naming, read_json_lines, write_json_lines
from train.core import checkpoint
from train.core.budget_and_ledger import Budget, Diverged, TrainState
from train.core.distributed import Group, full_model
from train.core.event_logs import EventLogs
from train.core.larger_budget import check_budget
from train.core.optimizer import OptimConfig, Optimizer
from train.core.torch_setup import return_freed_memory
from train.runs.run_folder import RunFolder, TrainingOutConfig, open_run


@dataclass(frozen=True)
class StepOutput:
    """What an objective returns for one step.

    loss: a scalar with its graph. metrics: for the log. tokens: counted against the budget. flops: by kind of work
    (generation, teacher, update). tokens_by_kind, seconds: the ledger's other columns; without, all are the update's.
    documents: solutions of the generator that were read.
    """

    loss: Tensor
    metrics: Mapping[str, float]
    tokens: int
    flops: Mapping[str, float]
    tokens_by_kind: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    documents: int = 0


class Objective(Protocol):
    """A pure function of (weights, step), unless it is `Stateful` too."""

    def __call__(self, model: Any, step: int, /) -> StepOutput:
        """The loss of step `step` for the current weights of the model, of the class that the objective trains."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An objective that remembers something between steps, such as a teacher that averages the student's weights."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""


SINGLE_PROCESS = Group()
BEST = "eval_full"  # what `keep_best` goes by: the share of an evaluation's problems that are fully solved
Evaluate = Callable[[Any, TrainState], Mapping[str, Any]]


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
    keep_best: bool = False,
    notes: Mapping[str, Any] | None = None,
    group: Group = SINGLE_PROCESS,
    logs: EventLogs | None = None,
) -> TrainState:
    """Trains `model` in place until the budget is spent, continuing from the run's last checkpoint if it has one.

    `evaluate(model, state)` returns numbers for the log; it is called before the first step, every `evaluate_every`
    steps and at the end, with the averaged weights where `optim.ema` asks for them. `notes` goes into every checkpoint.
    `logs`: where the rows of metrics.jsonl go as well.
    All processes of `group` take the same steps and rank 0 writes; the loss of a step is the mean of theirs. With
    `keep_best` the run's newest checkpoint is in the end the one that solved most problems of an evaluation, the first
    of equals, the start included. Raises Diverged when loss or gradient are not finite, or the loss has risen by more
    than `optim.spike`.
    """
    training = _Training(run, model, objective, Optimizer(model, optim), TrainState(), budget, out, notes, group)
    training.resume()
    state = training.state
    judge = evaluate if evaluate_every > 0 else None
    with MetricsLog(run, state, budget, logs, quiet=not group.is_main) as log:
        if judge is not None and state.step == 0:
            log.record(0, training.position() | training.evaluated(judge))
            if keep_best:
                training.save(best=0)
        best = group.from_main(partial(log.best, BEST)) if keep_best else None
        while state.progress(budget) < 1:
            row = training.step()
            last = state.progress(budget) >= 1
            is_evaluated = judge is not None and is_due(state.step, evaluate_every, last)
            if judge is not None and is_evaluated:
                row |= training.evaluated(judge)
            if is_evaluated or is_due(state.step, out.log_every, last):
                log.record(state.step, training.position() | row)
            log.show(state, row["tokens_per_second"])
            if keep_best and is_evaluated:
                best = group.from_main(partial(log.best, BEST))
            if last or is_due(state.step, out.save_every, last) or best == state.step:
                log.flush(state)
                training.save(best)
        if group.is_main and best is not None:
            checkpoint.choose(run.path, best)
    training.say_what_taught_nothing()
    return state


@dataclass
class _Training:
    """What the loop holds on to."""

    run: RunFolder
    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    state: TrainState
    budget: Budget
    out: TrainingOutConfig
    notes: Mapping[str, Any] | None
    group: Group
    started_at: int = 0
    without_gradient: int = 0

    def resume(self) -> None:
        """Loads the last checkpoint, if there is one."""
        if self.group.is_main:
            checkpoint.remove_leftovers(self.run.path)
        if (found := checkpoint.to_resume(self.run.path)) is not None:
            objective_state = checkpoint.restore(found, self.model, self.optimizer, self.state)
            if isinstance(self.objective, Stateful):
                self.objective.load_state_dict(objective_state)
            self.started_at = self.state.step
            self._say(f"{self.run.path}: goes on from step {self.state.step:,}")

    def step(self) -> dict[str, Any]:
        """Takes one step; returns its row of the log."""
        state, optimizer = self.state, self.optimizer
        started, started_cpu = time.perf_counter(), time.process_time()
        scale = optimizer.config.schedule(state.progress(self.budget), state.step)
        output = self.objective(self.model, state.step)
        output.loss.backward()
        norm = optimizer.clip()
        loss = self.group.mean(output.loss.detach())
        row = {"loss": loss, "grad_norm": norm.item(), "lr_scale": scale, **output.metrics}
        if not (math.isfinite(loss) and math.isfinite(row["grad_norm"])):
            self._stop(f"at step {state.step}: loss {loss}, gradient norm {row['grad_norm']}")
        self._note_gradient(row["grad_norm"])
        is_logged = is_due(state.step + 1, self.out.log_every, False)
        before = [p.detach().clone() for p in optimizer.parameters] if is_logged else []
        optimizer.step(scale)
        if is_logged:
            row["update_norm"] = optimizer.update_norm(before)
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        self._account(output, loss, seconds, time.process_time() - started_cpu)
        return row | {"smooth_loss": state.smooth_loss, "tokens_per_second": output.tokens / seconds}

    def _note_gradient(self, norm: float) -> None:
        """Says so when a step has nothing to learn from, the first time."""
        self.without_gradient += norm == 0.0
        if norm == 0.0 and self.without_gradient == 1:
            self._say(f"warning: step {self.state.step}: the gradient is 0: nothing that was drawn teaches anything")

    def say_what_taught_nothing(self) -> None:
        """How many steps had no gradient, if any."""
        if self.without_gradient:
            steps = self.state.step - self.started_at
            self._say(f"warning: {self.without_gradient} of {steps} steps taught nothing (grad_norm 0; see `signal`)")

    def _say(self, line: str) -> None:
        if self.group.is_main:
            Progress.write(line)

    def _account(self, output: StepOutput, loss: float, seconds: float, cpu_seconds: float) -> None:
        state, spike = self.state, self.optimizer.config.spike
        state.step += 1
        state.tokens += output.tokens
        smooth, lowest = state.observe(loss)
        own = max(0.0, seconds - sum(output.seconds.values()))
        state.ledger.add(
            tokens=output.tokens_by_kind or {"update": output.tokens},
            flops=output.flops,
            seconds={**output.seconds, "update": output.seconds.get("update", 0.0) + own},
            cpu_seconds={"steps": cpu_seconds},
            documents={"gold": output.documents} if output.documents else {},
        )
        if spike and smooth - lowest > spike:
            rise = f"the smoothed loss rose from {lowest:.3f} to {smooth:.3f}"
            self._stop(f"at step {state.step}: {rise}, by more than optim.spike={spike}")

    def _stop(self, what: str) -> None:
        optim, good = self.optimizer.config, checkpoint.latest(self.run.path)
        rates = f"optim.lr={optim.lr}" + (f", optim.muon.lr={optim.muon.lr}" if optim.muon else "")
        advice = f"lower {rates}, or optim.clip; the last good checkpoint: {good or 'none'}"
        raise Diverged(f"training diverged {what}; {advice}")

    def position(self) -> dict[str, Any]:
        """Where the run is: the first columns of every row of the log."""
        seconds = round(sum(self.state.ledger.seconds.values()), 3)
        return {"tokens": self.state.tokens, "flops": self.state.flops, "seconds": seconds}

    def evaluated(self, evaluate: Evaluate) -> dict[str, Any]:
        """The numbers of an evaluation of the (averaged) weights."""
        started = time.perf_counter()
        with self.optimizer.averaged():
            values = dict(evaluate(full_model(self.model), self.state))
        self.state.ledger.add(seconds={"evaluation": time.perf_counter() - started})
        return values

    def save(self, best: int | None = None) -> None:
        """Writes a checkpoint, on rank 0. The one of step `best` is not removed."""
        objective = self.objective.state_dict() if isinstance(self.objective, Stateful) else None
        with self.optimizer.averaged():
            model = full_model(self.model)
            if self.group.is_main:
                checkpoint.save(
                    self.run.path, model, self.optimizer, self.state, self.notes, objective, self.out.keep, best
                )
            else:
                self.optimizer.state_dict()  # gathering the shards takes every process
        return_freed_memory()


def summary(run: RunFolder, model: GPT, state: TrainState) -> dict[str, Any]:
    """The content of summary.json: size, cost, and the last row of the log."""
    rows = read_json_lines(run.path / "metrics.jsonl")
    found = {"parameters": n_params(model.config), "steps": state.step, "tokens": state.tokens, "flops": state.flops}
    found["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return found | {"ledger": state.state_dict()["ledger"], "last": rows[-1] if rows else {}}


def open_together(group: Group, entry: str, kind: str, *arguments: Any) -> RunFolder:
    """`open_run` on rank 0, which holds the lock; the same folder on the other processes. Another budget is accepted
    where the run then ends as if asked for it at once."""
    opened: list[RunFolder] = []

    def opening() -> tuple[Path, bool]:
        opened.append(open_run(*arguments, entry=entry, kind=kind, check_budget=check_budget))
        return opened[0].path, opened[0].resumed

    path, resumed = group.from_main(opening)
    return opened[0] if opened else RunFolder(path, resumed)


class MetricsLog:
    """A context manager; `record(step, values)` once for each logged step, in order, which goes to `logs` as well.
    `quiet`: writes nothing."""

    def __init__(
        self, run: RunFolder, state: TrainState, budget: Budget, logs: EventLogs | None = None, quiet: bool = False
    ):
        self.run, self.budget, self.quiet = run, budget, quiet
        path = Path(os.devnull) if quiet else run.path / "metrics.jsonl"
        with naming(path):
            kept = [line for line in read_json_lines(path) if line["step"] <= state.step]
        if path.is_file():
            write_json_lines(path, kept)
        self.last_step = kept[-1]["step"] if kept else -1
        self._file = path.open("a", encoding="utf-8")
        self._logs = [] if logs is None or quiet else logs.open(run.path, kept)
        shown = {"unit": f" {budget.unit}", "unit_scale": True, "desc": run.path.name, "dynamic_ncols": True}
        self._bar = Progress(total=budget.amount, initial=state.spent(budget), disable=quiet, **shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        self._file.close()
        for log in self._logs:
            log.close(failed=error is not None)

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the line of this step; numbers that are not finite become null."""
        if step <= self.last_step:  # the evaluation at step 0 of a run that was killed before its first checkpoint
            return
        row = {"step": step, **finite(values)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for log in self._logs:
            log.write(row)
        self.last_step = step

    def best(self, name: str) -> int | None:
        """The step at which this number was highest, the first of equals; None where it was never logged."""
        rows = [row for row in read_json_lines(self.run.path / "metrics.jsonl") if row.get(name) is not None]
        return max(rows, key=lambda row: row[name])["step"] if rows else None

    def show(self, state: TrainState, tokens_per_second: float) -> None:
        """Moves the progress bar."""
        self._bar.update(min(state.spent(self.budget), self.budget.amount) - self._bar.n)
        if state.smooth_loss is not None:
            text = f"step {state.step} loss {state.smooth_loss:.3f} {tokens_per_second:,.0f} tokens/s"
            self._bar.set_postfix_str(text, refresh=False)

    def flush(self, state: TrainState) -> None:
        """Makes everything up to this step durable; called before a checkpoint is written."""
        if not self.quiet:
            os.fsync(self._file.fileno())
            for log in self._logs:
                log.flush()
            self.run.write_json("ledger.json", state.state_dict()["ledger"])
