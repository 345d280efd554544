"""Sums over the micro-batches of a step: terms of the loss, tokens, floating-point operations, seconds."""

from collections import Counter

import torch
from torch import Tensor

from models.gpt import GPT
from train.core.distributed import Group
from train.core.state import forward_flops, training_flops
from train.opd.rollouts import Rollouts


class StepTotals:
    """Sums over the micro-batches of a step; `metrics()` at its end."""

    def __init__(self) -> None:
        self.terms: Counter[str] = Counter()
        self.shares: dict[str, float] = {}
        self.tokens: Counter[str] = Counter({"teacher": 0, "update": 0})
        self.flops: Counter[str] = Counter({"teacher": 0.0, "update": 0.0})
        self.teacher_seconds = 0.0

    def add_terms(self, terms: dict[str, Tensor]) -> None:
        """A block's terms of the loss."""
        self.terms.update({name: float(value.detach()) for name, value in terms.items()})

    def add_update(self, model: GPT, part: Rollouts) -> None:
        """What the student read of a micro-batch to learn from it."""
        read_B = part.prompt_B + part.length_B - 1  # the last token of a row is only a target
        self.tokens["update"] += int((read_B + 1).sum())
        self.flops["update"] += training_flops(model.config, read_B)

    def add_teacher(self, tokens: int, flops: float, seconds: float) -> None:
        """What the teacher read."""
        self.tokens["teacher"] += tokens
        self.flops["teacher"] += flops
        self.teacher_seconds += seconds

    def add_signals(self, model: GPT, rollouts: Rollouts) -> None:
        """The student's own pass without gradient over a micro-batch."""
        self.flops["signals"] += forward_flops(model.config, rollouts.prompt_B + rollouts.length_B - 1)
        self.tokens["signals"] += int((rollouts.prompt_B + rollouts.length_B).sum())

    def add_look_ahead(self, flops: float, forks: float) -> None:
        """The futures written at high-loss tokens, and the share of these that are real forks."""
        self.flops["futures"] = flops
        self.shares["forks"] = forks

    def add_share(self, name: str, chosen_BR: Tensor, rollouts: Rollouts) -> None:
        """The share of response tokens where something holds."""
        inside_BR = torch.arange(chosen_BR.shape[1], device=chosen_BR.device) < rollouts.length_B[:, None]
        self.shares[name] = float((chosen_BR & inside_BR).sum() / inside_BR.sum().clamp(min=1))

    def gather(self, group: Group) -> None:
        """Adds up what the processes of a group counted; all write all futures, the main one counts them."""
        if not group.is_main and "futures" in self.flops:
            self.flops["futures"] = 0.0
        for name in ("terms", "tokens", "flops"):
            total: Counter[str] = Counter()
            for own in group.gather(getattr(self, name)):
                total.update(own)  # `+` would drop what is not above zero
            setattr(self, name, total)

    def metrics(self) -> dict[str, float]:
        """Terms of the loss, and shares of positions."""
        return {f"loss_{name}": value for name, value in self.terms.items()} | self.shares
