"""The state of a run between steps: where it is, and the ledger of what it has spent.

Everything else is a function of the step index, so this state, the weights and the optimiser's moments are all that a
checkpoint holds. The ledger counts by kind of work (`generation`, `teacher`, `update`, ...) over all resumes, only the
steps that made the weights; comparisons at equal compute read it. Only its seconds differ between two runs of the same
work. FLOPs: two for each multiply-add of matrix products and attention over real tokens (`models.flops`), none for
padding and element-wise work.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from models.flops import flops_per_token
from models.gpt import GPTConfig

EMA = 0.98  # decay of the smoothed loss: half of its weight is on the last 34 steps


class Diverged(FloatingPointError):
    """Training stopped because the loss or the gradient is no longer a number, or the loss has risen too far."""


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of tokens (real ones, not padding, as the objective counts them), steps, FLOPs."""

    one_of: ClassVar[bool] = True  # read by train.config.compose: giving one on the command line takes back the others

    tokens: int | None = None  # learned from in all
    steps: int | None = None  # of the optimiser
    flops: float | None = None  # of all work, rollouts and scoring included

    def __post_init__(self) -> None:
        given = {k: v for k, v in asdict(self).items() if v is not None}
        if len(given) != 1:
            what = f"{len(given)} of tokens, steps and flops are given; accepted: exactly one (set the others to null)"
            raise ValueError(f"budget.{'/'.join(given) or 'tokens'}: {what}")
        if not 0 < self.amount < math.inf:
            raise ValueError(f"budget.{self.unit}={self.amount}: accepted: a number above 0")

    @property
    def unit(self) -> str:
        return next(k for k, v in asdict(self).items() if v is not None)

    @property
    def amount(self) -> float:
        return getattr(self, self.unit)


@dataclass
class Ledger:
    """Tokens, floating-point operations and wall seconds by kind of work; CPU seconds of all steps, which depend less
    on what else the machine does; gold documents read, each as often as it was."""

    tokens: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)

    def add(self, **columns: Mapping[str, float]) -> None:
        """`add(tokens={...}, flops={...}, seconds={...})`, each a mapping from kind of work to an amount."""
        for column, amounts in columns.items():
            total = getattr(self, column)
            for kind, amount in amounts.items():
                total[kind] = total.get(kind, 0) + amount


@dataclass
class TrainState:
    """Steps done, tokens counted against the budget, the smoothed loss and its lowest value so far (None before the
    first step), and the ledger."""

    step: int = 0
    tokens: int = 0
    smooth_loss: float | None = None
    ledger: Ledger = field(default_factory=Ledger)
    lowest_loss: float | None = None

    @property
    def flops(self) -> float:
        return sum(self.ledger.flops.values())

    def spent(self, budget: Budget) -> float:
        """What has been spent so far, in the budget's own unit."""
        return {"tokens": self.tokens, "steps": self.step, "flops": self.flops}[budget.unit]

    def progress(self, budget: Budget) -> float:
        """The part of the budget that is spent, in [0, 1]; drives the learning rate."""
        return min(1.0, self.spent(budget) / budget.amount)

    def observe(self, loss: float) -> tuple[float, float]:
        """Takes the loss of a step into the smoothed loss; returns that and its lowest value so far."""
        smooth = loss if self.smooth_loss is None else EMA * self.smooth_loss + (1 - EMA) * loss
        lowest = min(smooth, smooth if self.lowest_loss is None else self.lowest_loss)
        self.smooth_loss, self.lowest_loss = smooth, lowest
        return smooth, lowest

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.tokens, self.smooth_loss = state["step"], state["tokens"], state["smooth_loss"]
        self.lowest_loss = state.get("lowest_loss", self.smooth_loss)
        self.ledger = Ledger(**{k: dict(v) for k, v in state["ledger"].items()})


def forward_flops(config: GPTConfig, length_B: Tensor) -> float:
    """Operations of one forward pass over sequences of these lengths; token t attends to t + 1 positions."""
    lengths = length_B.double()
    bare = flops_per_token(config, 0.0)
    slope = flops_per_token(config, 1.0) - bare
    return float((lengths * bare + slope * lengths * (lengths + 1) / 2).sum())


def training_flops(config: GPTConfig, length_B: Tensor) -> float:
    """Operations of a training step: the backward pass costs two forward passes (Kaplan et al. 2020, section 2.1)."""
    return 3 * forward_flops(config, length_B)
