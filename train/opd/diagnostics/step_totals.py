"""What a step came to: sums over its micro-batches of loss terms, tokens and floating-point operations."""

from collections import Counter

import torch
from torch import Tensor

from models.gpt import GPT
from train.core.batch_flops import forward_flops, training_flops
from train.core.distributed import Group
from train.opd.rollouts import Rollouts
from train.opd.topd import Forks


class Tally:
    """Sums over the micro-batches of a step; `means()` at its end."""

    def __init__(self) -> None:
        self.terms: Counter[str] = Counter()
        self.shares: dict[str, float] = {}
        self.tokens: Counter[str] = Counter({"teacher": 0, "update": 0})
        self.flops: Counter[str] = Counter({"teacher": 0.0, "update": 0.0})
        self.teacher_seconds = 0.0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add a block's terms of the loss."""
        self.terms.update({name: float(value) for name, value in terms.items()})

    def updated(self, model: GPT, part: Rollouts) -> None:
        """Count what the student read of a micro-batch to learn from it."""
        read_B = part.prompt_B + part.length_B - 1  # the last token of a row is only a target
        self.tokens["update"] += int((read_B + 1).sum())
        self.flops["update"] += training_flops(model.config, read_B)

    def scored(self, tokens: int, flops: float) -> None:
        """Count what the teacher read."""
        self.tokens["teacher"] += tokens
        self.flops["teacher"] += flops

    def measured(self, model: GPT, rollouts: Rollouts) -> None:
        """Count the student's own pass without gradient over a micro-batch."""
        self.flops["signals"] += forward_flops(model.config, rollouts.prompt_B + rollouts.length_B - 1)
        self.tokens["signals"] += int((rollouts.prompt_B + rollouts.length_B).sum())

    def looked(self, forks: Forks, main: bool) -> None:
        """Count the futures that were written at high-loss tokens; every process writes them all, the `main` counts."""
        self.flops["futures"] = forks.flops if main else 0.0
        self.shares["forks"] = forks.real / forks.looked if forks.looked else 0.0

    def share(self, name: str, chosen_BR: Tensor, rollouts: Rollouts) -> None:
        """The share of response tokens where something holds."""
        inside_BR = torch.arange(chosen_BR.shape[1], device=chosen_BR.device) < rollouts.length_B[:, None]
        self.shares[name] = float((chosen_BR & inside_BR).sum() / inside_BR.sum().clamp(min=1))

    def together(self, group: Group) -> None:
        """Add up what the processes of a group counted."""
        for name in ("terms", "tokens", "flops"):
            total: Counter[str] = Counter()
            for own in group.gather(getattr(self, name)):
                total.update(own)  # `+` would drop what is not above zero
            setattr(self, name, total)

    def means(self) -> dict[str, float]:
        """Terms of the loss as they are, and shares of positions."""
        return {f"loss_{name}": value for name, value in self.terms.items()} | self.shares
