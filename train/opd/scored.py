"""The scored record: log-probabilities of student, teacher and reference at the same response positions.

Legend: B rows, R response columns, N response positions, n those of a block, C channels, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.opd.rollouts import Rollouts, positions

LogProbs = Callable[[slice], Tensor]  # log-probabilities float32[n, V] at some of a batch's response positions
Targets = tuple[LogProbs | None, LogProbs | None]  # of the teacher, after its transform, and of the student at step 0


def of_token(log_probs_NV: Tensor, token_N: Tensor) -> Tensor:
    """The log-probability of one token at each position: float[N]."""
    return log_probs_NV.gather(-1, token_N[:, None]).squeeze(-1)


def entropy(log_probs_NV: Tensor) -> Tensor:
    """Entropy of each position's distribution, in nats: float[N]."""
    return -(log_probs_NV.exp() * log_probs_NV).sum(dim=-1)


class Scored(NamedTuple):
    """Log-probabilities at N response positions, row after row: all of a batch's, or a block of them.

    student_NV: float32, with gradient. teacher_NV: the target after its transform, or None without a teacher.
    reference_NV: the student at step 0, or None where nothing asks for it. token_N: the response tokens.
    behaviour_N: their log-probability when they were drawn. row_N, time_N: which row, which response position.
    """

    student_NV: Tensor
    teacher_NV: Tensor | None
    reference_NV: Tensor | None
    token_N: Tensor
    behaviour_N: Tensor
    row_N: Tensor
    time_N: Tensor

    @property
    def target_NV(self) -> Tensor:
        """The teacher's log-probabilities, for losses that every method with a teacher may have."""
        if self.teacher_NV is None:
            raise RuntimeError("no teacher scored these positions")
        return self.teacher_NV

    @property
    def log_q_N(self) -> Tensor:
        """log q(y) of the response tokens, with gradient."""
        return of_token(self.student_NV, self.token_N)

    @property
    def log_p_N(self) -> Tensor:
        """log p(y) of the response tokens under the teacher's target."""
        return of_token(self.target_NV, self.token_N)


class MicroBatchScores:
    """A micro-batch to be scored: the student's hidden states, with gradient, and its targets.

    hidden: `teacher_models.HiddenStates` of the student, or what averages its gradients over processes.
    Log-probabilities are made for a block of positions at a time, by `at`.
    """

    def __init__(self, hidden: nn.Module, targets: Targets, rollouts: Rollouts) -> None:
        self.hidden_NC = hidden(rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        self.targets = targets
        self.row_N, self.time_N = positions(rollouts.length_B)
        self.token_N = rollouts.tokens_BT[self.row_N, rollouts.prompt_B[self.row_N] + self.time_N]
        self.behaviour_N = rollouts.behaviour_BR[self.row_N, self.time_N]

    def at(self, block: slice, student_nV: Tensor) -> Scored:
        """The record of some positions, given the student's log-probabilities there."""
        teacher, reference = (None if log_probs is None else log_probs(block) for log_probs in self.targets)
        tracks = (self.token_N, self.behaviour_N, self.row_N, self.time_N)
        return Scored(student_nV, teacher, reference, *(track_N[block] for track_N in tracks))


@torch.no_grad()
def advantage(scored: Scored) -> Tensor:
    """d = log p(y) - log q(y): what the teacher gives the response's token above the student, float[N]."""
    return scored.log_p_N - scored.log_q_N
