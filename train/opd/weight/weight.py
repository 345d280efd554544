"""Which positions count, and for how much: the weight part of a method.

The invariant that matters: the normaliser is computed once, for the whole batch. Every response position gets a
coefficient, so the loss is a plain sum of coefficient times divergence, and cutting the batch into micro-batches,
reordering its rows or padding them further changes nothing. Prompts, contexts and padding have no position here at all;
the end-of-sequence token has one like any other.

The normaliser counts the response tokens of the rows that count. Token weights multiply after that: leaving tokens out
takes their terms away and leaves the others as they were.

Legend: B rows, R response columns.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.opd.checks import only, positive, require, unit
from train.opd.rollouts import Rollouts
from train.opd.signals import Signals
from train.opd.weight.sample_weights import SAMPLES
from train.opd.weight.token_weights import TOKENS


def token_mean(count_BR: Tensor, max_new: int) -> Tensor:
    """Every token alike, over the whole batch: long responses dominate (DAPO; SDPO)."""
    return (1.0 / count_BR.sum().clamp(min=1.0)).expand(count_BR.shape)


def sequence_mean(count_BR: Tensor, max_new: int) -> Tensor:
    """The mean over each response, then over responses: tokens of short responses weigh more (GKD; GRPO)."""
    total_B1 = count_BR.sum(dim=1, keepdim=True)
    return (1.0 / total_B1.clamp(min=1.0) / (total_B1 > 0).sum().clamp(min=1)).expand(count_BR.shape)


def constant(count_BR: Tensor, max_new: int) -> Tensor:
    """Over rows times the token budget, the same for every batch: unbiased for sums over a response (Dr.GRPO)."""
    return torch.full_like(count_BR, 1.0 / (len(count_BR) * max_new))


NORMALISERS = {"token": token_mean, "sequence": sequence_mean, "constant": constant}
# which weights each setting belongs to
SETTINGS = {
    "skip": ("first",),
    "share": ("tip", "opener", "teacher_entropy", "teacher_sentences"),
    "gamma": ("early",),
    "cap": ("importance",),
    "alpha": ("paced",),
    "beta": ("paced",),
    "tau": ("student_ppl", "teacher_ppl"),
}


@dataclass(frozen=True)
class WeightConfig:
    """Weights that multiply, by name; none: every response token alike. Settings of other weights must stay null.

    token: first (drops the first `skip`) | special | before_mistake | after_mistake | teacher_entropy (its top `share`)
        | entropy_gap | tip (top `share`) | opener (`share` of the entropy) | early (`gamma`) | importance (`cap`).
    sample: finished | right | wrong | success | contrast | paced (`alpha`, `beta`) | student_ppl, teacher_ppl (`tau`) |
        teacher_sentences (top `share`).
    normaliser: token | sequence | constant. over: kept (the rows that count) | batch (all rows).
    """

    token: list[str] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)
    normaliser: str = "token"
    over: str = "kept"
    skip: int | None = None
    share: float | None = None
    gamma: float | None = None
    cap: float | None = None
    alpha: float | None = None
    beta: float | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        for setting, registry in (("token", TOKENS), ("sample", SAMPLES)):
            names = getattr(self, setting)
            for name in names:
                require(f"weight.{setting}", name, registry)
            if len(set(names)) < len(names):
                raise ValueError(f"weight.{setting}={names}: accepted is each name once")
        require("weight.normaliser", self.normaliser, NORMALISERS)
        require("weight.over", self.over, ("kept", "batch"))
        chosen = {*self.token, *self.sample}
        for setting, owners in SETTINGS.items():
            only(f"weight.{setting}", getattr(self, setting), bool(chosen & {*owners}), "weight " + " or ".join(owners))
        if len(chosen & {*SETTINGS["share"]}) > 1 or len(chosen & {*SETTINGS["tau"]}) > 1:
            raise ValueError("weight: two of the weights chosen share a setting; accepted: one of them in each term")
        if self.over == "batch" and (self.normaliser == "constant" or not self.sample):
            raise ValueError("weight.over=batch changes nothing here: all rows are counted anyway; accepted: kept")
        unit("weight.share", self.share)
        for setting in ("skip", "gamma", "cap", "alpha", "beta", "tau"):
            positive(f"weight.{setting}", getattr(self, setting))

    @property
    def needs(self) -> set[str]:
        """Measurements of the batch that must be made before the coefficients are known (`signals.py`)."""
        weights = [TOKENS[name] for name in self.token] + [SAMPLES[name] for name in self.sample]
        return set().union(*(weight.needs for weight in weights))

    @property
    def needs_group(self) -> bool:
        """Whether responses to one prompt are compared."""
        return any(SAMPLES[name].group for name in self.sample)


def coefficients(
    rollouts: Rollouts,
    config: WeightConfig,
    max_new: int,
    signals: Signals | None = None,
    known_BR: Tensor | None = None,
) -> Tensor:
    """What each response position counts in the loss.

    Args:
        rollouts: the whole batch of a step, not a part of it.
        max_new: the budget of a response in tokens.
        signals: what the weights need to know of the batch.
        known_BR: bool, where there is a target at all; elsewhere nothing counts, and it is not counted either.
    Returns:
        float32[B, R], zero on padding; sums to 1 with the normalisers `token` and `sequence` unless weights change it.
    """
    count_BR = rollouts.trainable_BR.float()
    if known_BR is not None:
        count_BR = count_BR * known_BR
    weight_B = torch.ones_like(count_BR[:, 0])
    for name in config.sample:
        weight_B = weight_B * SAMPLES[name].of(rollouts, config, signals)
    weight_BR = count_BR * weight_B[:, None]
    for name in config.token:
        weight_BR = weight_BR * TOKENS[name].of(rollouts, config, signals)
    counted_BR = count_BR if config.over == "batch" else count_BR * (weight_B != 0)[:, None]
    return weight_BR * NORMALISERS[config.normaliser](counted_BR, max_new)
