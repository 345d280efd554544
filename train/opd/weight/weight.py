"""Which positions count, and for how much: the weight part of a method.

The invariant that matters: the normaliser is computed once, for the whole batch. Every response position gets a
coefficient, so the loss is a plain sum of coefficient times divergence, and cutting the batch into micro-batches,
reordering its rows or padding them further changes nothing. Prompts, contexts and padding have no position here at all;
the end-of-sequence token has one like any other.

The normaliser divides by a number of response tokens. Not among them are responses of weight 0 and positions without a
target (both are, with `over: batch`), nor tokens that a weight with `drops` takes out, such as `first` and `special`.
Every other token weight leaves the number as it is, even where it is 0: the other tokens count what they did before.

Legend: B rows, R response columns.
"""

from dataclasses import field
from typing import Annotated

import torch
from torch import Tensor

from synth.ranges import OneOf, settings
from train.opd.log_probs import Signals
from train.opd.rollout_batch import Rollouts
from train.opd.weight.sample_weights import SampleWeight
from train.opd.weight.token_weights import TokenWeight


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
Normaliser = Annotated[str, OneOf(*NORMALISERS)]


@settings
class WeightConfig:
    """Weights that multiply; none: every response token alike.

    normaliser: token | sequence | constant. over: which responses it counts: kept (those of a weight above 0, where
    they have a target) | batch (all).
    """

    token: list[TokenWeight] = field(default_factory=list)  # weights of positions, multiplied
    sample: list[SampleWeight] = field(default_factory=list)  # weights of responses, multiplied
    normaliser: Normaliser = "token"
    over: Annotated[str, OneOf("kept", "batch")] = "kept"

    def __post_init__(self) -> None:
        for setting in ("token", "sample"):
            names = [weight.kind for weight in getattr(self, setting)]
            if len(set(names)) < len(names):
                raise ValueError(f"weight.{setting}={names}: accepted is each name once")
        if self.over == "batch" and (self.normaliser == "constant" or not self.sample):
            raise ValueError("weight.over=batch changes nothing here: all rows are counted anyway; accepted: kept")

    @property
    def all(self) -> list[TokenWeight | SampleWeight]:
        return [*self.token, *self.sample]

    @property
    def needs(self) -> set[str]:
        """Measurements of the batch that must be made before the coefficients are known (`log_probs.Signals`)."""
        return set().union(*(weight.needs for weight in self.all))

    @property
    def needs_group(self) -> bool:
        """Whether responses to one prompt are compared."""
        return any(weight.needs_group for weight in self.sample)

    @property
    def names(self) -> set[str]:
        return {weight.kind for weight in self.all}


def coefficients(
    rollouts: Rollouts,
    config: WeightConfig,
    max_new: int,
    signals: Signals | None = None,
    has_target_BR: Tensor | None = None,
) -> Tensor:
    """What each response position counts in the loss.

    Args:
        rollouts: the whole batch of a step, not a part of it.
        max_new: the budget of a response in tokens.
        signals: what the weights need to know of the batch.
        has_target_BR: bool, where there is a target at all; elsewhere nothing is learned.
    Returns:
        float[B, R], zero on padding; sums to 1 with the normalisers `token` and `sequence` unless weights change it.
    """
    count_BR = rollouts.trainable_BR.to(rollouts.behaviour_BR.dtype)
    weight_B = torch.ones_like(count_BR[:, 0])
    signals = Signals({}, 0) if signals is None else signals
    for weigh in config.sample:
        weight_B = weight_B * weigh(rollouts, signals)
    kept_BR = count_BR * (weight_B != 0)[:, None] * (1.0 if has_target_BR is None else has_target_BR)
    weight_BR = kept_BR * weight_B[:, None]
    for weigh in config.token:
        token_BR = weigh(rollouts, signals)
        if weigh.mean_one:
            token_BR = token_BR * kept_BR.sum() / (token_BR * kept_BR).sum().clamp(min=1e-12)
        weight_BR = weight_BR * token_BR
        if weigh.drops:
            count_BR, kept_BR = count_BR * (token_BR != 0), kept_BR * (token_BR != 0)
    return weight_BR * NORMALISERS[config.normaliser](count_BR if config.over == "batch" else kept_BR, max_new)
