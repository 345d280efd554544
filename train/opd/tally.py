"""What a step came to: sums over its micro-batches of loss terms, tokens and floating-point operations."""

from collections import Counter

import torch
from torch import Tensor

from models.gpt import GPT
from train.flops import forward_flops, training_flops
from train.opd.fork import Forks
from train.opd.rollouts import Rollouts


class Tally:
    """Sums over the micro-batches of a step; `means()` at its end."""

    def __init__(self) -> None:
        self.terms: Counter[str] = Counter()
        self.shares: dict[str, float] = {}
        self.tokens = {"teacher": 0, "update": 0}
        self.flops = {"teacher": 0.0, "update": 0.0}
        self.teacher_seconds = 0.0

    def add(self, model: GPT, part: Rollouts, terms: dict[str, Tensor]) -> None:
        """Count one micro-batch of the student's update in."""
        self.terms.update({name: float(value) for name, value in terms.items()})
        read_B = part.prompt_B + part.length_B - 1  # the last token of a row is only a target
        self.tokens["update"] += int((read_B + 1).sum())
        self.flops["update"] += training_flops(model.config, read_B)

    def scored(self, tokens: int, flops: float) -> None:
        """Count what the teacher read."""
        self.tokens["teacher"] += tokens
        self.flops["teacher"] += flops

    def measured(self, model: GPT, rollouts: Rollouts) -> None:
        """Count the student's own pass without gradient."""
        self.flops["signals"] = forward_flops(model.config, rollouts.prompt_B + rollouts.length_B - 1)
        self.tokens["signals"] = int((rollouts.prompt_B + rollouts.length_B).sum())

    def looked(self, forks: Forks) -> None:
        """Count the futures that were written at high-loss tokens."""
        self.flops["futures"] = forks.flops
        self.shares["forks"] = forks.real / forks.looked if forks.looked else 0.0

    def share(self, name: str, chosen_BR: Tensor, rollouts: Rollouts) -> None:
        """The share of response tokens where something holds."""
        inside_BR = torch.arange(chosen_BR.shape[1], device=chosen_BR.device) < rollouts.length_B[:, None]
        self.shares[name] = float((chosen_BR & inside_BR).sum() / inside_BR.sum().clamp(min=1))

    def means(self) -> dict[str, float]:
        """Terms of the loss as they are, and shares of positions."""
        return {f"loss_{name}": value for name, value in self.terms.items()} | self.shares
