"""Which positions count, and for how much: the weight part of a method.

The invariant that matters: the normaliser is computed once, for the whole batch. Every response position gets a
coefficient, so the loss is a plain sum of coefficient times divergence, and cutting the batch into micro-batches,
reordering its rows or padding them further changes nothing. Prompts and padding have no position here at all; the
end-of-sequence token has one like any other.

Legend: B rows, R response columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from train.opd.rollouts import Rollouts
from train.opd.settings import require


def response(rollouts: Rollouts) -> Tensor:
    """Every response token, its end included, that the document's own label mask does not leave out."""
    return rollouts.trainable_BR.float()


TOKENS = {"response": response}


def every(rollouts: Rollouts) -> Tensor:
    """All responses alike."""
    return torch.ones_like(rollouts.prompt_B, dtype=torch.float32)


def finished(rollouts: Rollouts) -> Tensor:
    """Only responses that ended by themselves; those cut at the token budget count nothing."""
    return rollouts.finished_B.float()


def right(rollouts: Rollouts) -> Tensor:
    """Only responses that the checker finds right in every step (rejection sampling: RFT, STaR)."""
    return torch.as_tensor(rollouts.verdicts.right, device=rollouts.prompt_B.device).float()


SAMPLES = {"all": every, "finished": finished, "right": right}


def token_mean(weight_BR: Tensor, max_new: int) -> Tensor:
    """Every token alike, over the whole batch: long responses dominate (DAPO; SDPO)."""
    return weight_BR / weight_BR.sum().clamp(min=1.0)


def sequence_mean(weight_BR: Tensor, max_new: int) -> Tensor:
    """The mean over each response, then over responses: tokens of short responses weigh more (GKD; GRPO)."""
    total_B1 = weight_BR.sum(dim=1, keepdim=True)
    return weight_BR / total_B1.clamp(min=1.0) / (total_B1 > 0).sum().clamp(min=1)


def constant(weight_BR: Tensor, max_new: int) -> Tensor:
    """Over rows times the token budget, the same for every batch: unbiased for sums over a response (Dr.GRPO)."""
    return weight_BR / (len(weight_BR) * max_new)


NORMALISERS = {"token": token_mean, "sequence": sequence_mean, "constant": constant}


@dataclass(frozen=True)
class WeightConfig:
    """token: response. sample: all | finished | right. normaliser: token | sequence | constant."""

    token: str = "response"
    sample: str = "all"
    normaliser: str = "token"

    def __post_init__(self) -> None:
        require("weight.token", self.token, TOKENS)
        require("weight.sample", self.sample, SAMPLES)
        require("weight.normaliser", self.normaliser, NORMALISERS)


def coefficients(rollouts: Rollouts, config: WeightConfig, max_new: int) -> Tensor:
    """What each response position counts in the loss.

    Args:
        rollouts: the whole batch of a step, not a part of it.
        max_new: the budget of a response in tokens.
    Returns:
        float32[B, R], zero on padding; sums to 1 with the normalisers `token` and `sequence` unless nothing counts.
    """
    weight_BR = TOKENS[config.token](rollouts) * SAMPLES[config.sample](rollouts)[:, None]
    return NORMALISERS[config.normaliser](weight_BR, max_new)
