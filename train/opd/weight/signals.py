"""What must be known of a whole batch before its coefficients are: entropies, divergences, log-probabilities.

Measured by one pass without gradient of student and teacher over the batch, only for methods whose weights ask for it.

Legend: B rows, R response columns, N response positions, V vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.core.distributed import Group
from train.opd.divergence.kl import kl
from train.opd.rollouts import Rollouts
from train.opd.scored import Scored, entropy

MEASURES: dict[str, Callable[[Scored], Tensor]] = {
    "student_entropy": lambda s: entropy(s.student_NV),
    "teacher_entropy": lambda s: entropy(s.target_NV),
    "rkl": lambda s: kl(s.student_NV, s.target_NV),
    "log_q": lambda s: s.log_q_N,
    "log_p": lambda s: s.log_p_N,
}


@dataclass(frozen=True)
class Signals:
    """float[B, R] by name, zero on padding, and the size of the vocabulary."""

    values: dict[str, Tensor]
    vocabulary: int

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def mean(self, name: str, rollouts: Rollouts) -> Tensor:
        """The mean over each response's tokens: float[B]."""
        return self[name].sum(dim=1) / rollouts.length_B.clamp(min=1)


@torch.no_grad()
def measure(
    needs: set[str], rollouts: Rollouts, blocks: Iterable[tuple[Tensor, Scored]], vocabulary: int, group: Group
) -> Signals:
    """The signals of a batch.

    Args:
        needs: names of MEASURES.
        blocks: the positions that this process scores, each with the rows of its micro-batch.
        group: whose processes score the others.
    """
    values = {name: torch.zeros_like(rollouts.behaviour_BR) for name in needs}
    for index_M, scored in blocks:
        for name, value_BR in values.items():
            value_BR[index_M[scored.row_N], scored.time_N] = MEASURES[name](scored).to(value_BR.dtype)
    if group.world_size > 1:
        every = group.gather({name: value_BR.cpu() for name, value_BR in values.items()})
        values = {name: torch.stack([own[name] for own in every]).sum(0).to(values[name].device) for name in needs}
    return Signals(values, vocabulary)
