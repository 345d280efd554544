"""The interface of a divergence, and those that are no KL: likelihood of the response, ranking of the top tokens, none.

A divergence is a function of log-probabilities at response positions and returns one number for each position; weights
and normaliser come later (`weight/`). Only the student carries gradient. Choices that look like matters of taste change
what is learned, so those that mislead are refused: backpropagating the sampled log-ratio (k1), a top-k sum that drops
the rest, and a top-k sum that is renormalised on one side only.

Legend: N response positions, V vocabulary, K entries of the support. p teacher target, q student, y response token.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from train.config.schema import Choice
from train.opd.divergence.topk_support import student_topk
from train.opd.scored import Scored


class Divergence(Choice):
    """What is computed at each position; each option is a frozen dataclass with settings of its own.

    needs_teacher: whether a teacher's log-probabilities enter the loss. sampled: whether it is estimated from the
    response's token, which the student must have drawn. whole_responses: whether a position looks at those that follow.
    bounded: whether it stays finite where the target gives a token no chance at all. k: size of a top-k support.
    """

    refused: ClassVar = {
        "rkl_k1": "the teacher cancels from the expected gradient of the log-ratio, so nothing is learned"
        " (rkl_pg is its policy gradient)"
    }
    needs_teacher = True
    sampled = False

    @abstractmethod
    def __call__(self, scored: Scored) -> Tensor:
        """float[N], in nats for the true divergences; rows are whole where `whole_responses` says so."""

    def clipped(self, scored: Scored) -> Tensor | None:
        """bool[N]: where a clip changes something; None without clips."""
        return None

    @property
    def whole_responses(self) -> bool:
        return False

    @property
    def bounded(self) -> bool:
        return False

    @property
    def k(self) -> int | None:
        return None


@dataclass(frozen=True)
class NoDivergence(Divergence, kind="none"):
    """No distillation term: the outcome alone is learned from."""

    needs_teacher = False
    bounded = True

    def __call__(self, scored: Scored) -> Tensor:
        return torch.zeros_like(scored.behaviour_N)


@dataclass(frozen=True)
class NLL(Divergence, kind="nll"):
    """-log q(y): forward KL to the response token itself. Needs no teacher; not stationary at any softer target."""

    needs_teacher = False
    bounded = True

    def __call__(self, scored: Scored) -> Tensor:
        return -scored.log_q_N


@dataclass(frozen=True)
class Ranking(Divergence, kind="ranking"):
    """Plackett-Luce: -log of the student's chance to rank its own k likeliest tokens in the teacher's order.

    TSD-KD (2603.13260): sum_j logsumexp_{i>=j} log q(v_i) - log q(v_j), v_1 the teacher's favourite. Stationary only at
    a student that is sure of the order, so not at p = q.
    """

    k: int = 10

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ValueError(f"divergence.k={self.k}: one token has only one order; accepted: 2 or more")

    def __call__(self, scored: Scored) -> Tensor:
        index_NK = student_topk(scored, self.k)
        order_NK = scored.target_NV.gather(-1, index_NK).argsort(dim=-1, descending=True, stable=True)
        ranked_NK = scored.student_NV.gather(-1, index_NK.gather(-1, order_NK))
        remaining_NK = ranked_NK.flip(-1).logcumsumexp(dim=-1).flip(-1)
        return (remaining_NK - ranked_NK).sum(dim=-1)
