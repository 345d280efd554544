"""What a way to make batches is worth at a given model, before anything is trained: signal and noise of its gradient.

    python -m train.noise checkpoint=RUN data=six arms.law={} arms.hard='{exact: 1.0}'

Over batches of one arm the gradient g has mean G and covariance V (its trace). A step of best size along g lowers
the reference arm's loss by about (G . G_ref)^2 / (V c) for a second of CPU time, where c is the time of a batch and V
is far above |G|^2, as it is late in training; so `worth`, relative to the reference, compares arms at equal time.
Curvature is taken as equal in all directions, which it is not: a lead, cheap enough to look before a run. Means of
products are over different batches only, so noise adds nothing to them; their standard errors come from leaving out
one batch.

Legend: R batches of an arm, P weights.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from train import checkpoint
from train.config import REQUIRED, plain, run_entry
from train.data import DataConfig, check_world
from train.loop import StepOutput
from train.machine import set_up
from train.rundir import Out, open_run
from train.schema import build


@dataclass(frozen=True)
class NoiseConfig:
    """Settings of the command. arms: settings of `train.questions` by name, the first the reference; `documents` in one
    is the number of texts of its batch. rounds: batches of each."""

    checkpoint: str = REQUIRED
    data: DataConfig = field(default_factory=DataConfig)
    arms: dict[str, Any] = field(default_factory=dict)
    documents: int = 16
    rounds: int = 40
    out: Out = field(default_factory=lambda: Out("runs/noise", "noise"))

    def __post_init__(self) -> None:
        if self.rounds < 4:
            raise ValueError(f"rounds={self.rounds}: accepted: 4 or more")
        if not self.arms:
            raise ValueError("arms: none; accepted: {NAME: {setting: value}, ...}")


class Mean(NamedTuple):
    """An estimate and its standard error."""

    value: float
    error: float


class Signal(NamedTuple):
    """One arm: CPU seconds a batch, trace of the covariance, |G|^2, and G . G_ref."""

    seconds: float
    covariance: float
    square: Mean
    along: Mean


def off_diagonal(products_RR: Tensor) -> Mean:
    """Mean of the entries i != j, and its standard error by the jackknife over i (row and column i left out)."""
    r = len(products_RR)
    rest_RR = products_RR - torch.diag(products_RR.diagonal())
    total = rest_RR.sum()
    without_R = (total - rest_RR.sum(0) - rest_RR.sum(1)) / ((r - 1) * (r - 2))
    error = ((r - 1) / r * (without_R - without_R.mean()).square().sum()).sqrt()
    return Mean(float(total / (r * (r - 1))), float(error))


def measure(model: nn.Module, arms: Mapping[str, Callable[[Any, int], StepOutput]], rounds: int) -> dict[str, Signal]:
    """Signal and noise of the objectives' gradients at steps 0 to `rounds` - 1; the first arm is the reference.

    The arms take turns, so that a busy machine slows them alike; the first batch of each is not timed.
    """
    seconds, gradients = dict.fromkeys(arms, 0.0), {name: [] for name in arms}
    for step in range(rounds):
        for name, objective in arms.items():
            model.zero_grad()
            started = time.process_time()
            objective(model, step).loss.backward()
            seconds[name] += (time.process_time() - started) * (step > 0)
            gradients[name].append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    stacked = {name: torch.stack(of) for name, of in gradients.items()}
    reference_RP = next(iter(stacked.values()))
    found = {}
    for name, g_RP in stacked.items():
        own_RR, along_RR = (g_RP @ g_RP.T).double(), (g_RP @ reference_RP.T).double()
        square = off_diagonal(own_RR)
        covariance = float(own_RR.diagonal().mean()) - square.value
        found[name] = Signal(seconds[name] / (rounds - 1), covariance, square, off_diagonal(along_RR))
    return found


def worth(signal: Signal, reference: Signal) -> float:
    """How many times as fast the reference's loss falls with this arm, at equal CPU time and small steps."""

    def rate(s: Signal) -> float:
        return s.along.value * abs(s.along.value) / (s.covariance * s.seconds)

    return rate(signal) / rate(reference)


def table(found: Mapping[str, Signal]) -> str:
    reference = next(iter(found.values()))
    lines = [f"{'arm':<20} {'ms':>6} {'V':>9} {'V c':>9} {'|G|^2':>21} {'G . G_ref':>21} {'worth':>6}"]
    for name, s in found.items():
        lines.append(
            f"{name:<20} {1000 * s.seconds:6.0f} {s.covariance:9.3g} {s.covariance * s.seconds:9.3g} "
            f"{s.square.value:10.2e} +-{s.square.error:8.1e} {s.along.value:10.2e} +-{s.along.error:8.1e} "
            f"{worth(s, reference):6.2f}"
        )
    return "\n".join(lines)


def main(config: NoiseConfig) -> None:
    """Measures into a run folder; a complete one is left as it is."""
    from train.climb import AskedTokens
    from train.questions import QuestionBatches, QuestionsConfig

    set_up()
    check_world(checkpoint.notes(config.checkpoint), config.data, config.checkpoint)
    model = checkpoint.load_model(config.checkpoint).train()
    source, c = config.data.source("train"), model.config
    arms = {}
    for name, settings in config.arms.items():
        more = dict(settings or {})
        documents = more.pop("documents", config.documents)
        questions = build(QuestionsConfig, {**plain(QuestionsConfig()), **more})
        least = max(c.token_shift, c.conv)
        arms[name] = AskedTokens(QuestionBatches(source, documents, config.rounds, questions, least))
    run = open_run(plain(config), {"checkpoint": checkpoint.digest(config.checkpoint)}, {"data": config.data.seed})
    if not run.complete:
        found = measure(model, arms, config.rounds)
        rows = {name: json.loads(json.dumps(s._asdict())) for name, s in found.items()}
        run.write_json("summary.json", {"noise": rows, "table": table(found).splitlines()})
        print(table(found))
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("noise", NoiseConfig, main, __doc__ or ""))
