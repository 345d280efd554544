"""The interface of a divergence, the tokens it is summed over (all or a top-k support), and those that are no KL.

A divergence is a function of log-probabilities at response positions and returns one number for each position; weights
and normaliser come later (`weight/`). Only the student carries gradient. The mass that a top-k support leaves out is
renormalised away on both sides, kept in a tail bucket, or accounted for by the generalised KL. Choices that mislead are
refused: backpropagating the sampled log-ratio (k1), a top-k sum that drops the rest or renormalises one side only.

Legend: N response positions, V vocabulary, K entries of the support. p teacher target, q student, y response token.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from synth.ranges import BadSetting, Named, Positive, Range, settings
from train.config.schema import Choice
from train.opd.log_probs import Scored, Signals


class Divergence(Choice):
    """What is computed at each position; each option is a frozen dataclass with settings of its own.

    needs_teacher: whether a teacher's log-probabilities enter the loss. sampled: whether it is estimated from the
    response's token, which the student must have drawn. whole_responses: whether a position looks at those that follow.
    bounded: whether it stays finite where the target gives a token no chance at all. k: size of a top-k support.
    needs: signals of the whole batch that it reads. needs_old: whether it reads the whole distribution of the student
    that drew the batch, where that is used again.
    """

    refused: ClassVar = {
        "rkl_k1": "the teacher cancels from the expected gradient of the log-ratio, so nothing is learned"
        " (rkl_pg is its policy gradient)"
    }
    needs_teacher = True
    needs_old = False
    sampled = False
    changes = bounded = False

    @abstractmethod
    def __call__(self, scored: Scored) -> Tensor:
        """float[N], in nats for the true divergences; rows are whole where `whole_responses` says so."""

    @property
    def needs(self) -> frozenset:
        return frozenset()

    def prepared(self, signals: Signals) -> "Divergence":
        """The divergence with what it must know of the whole batch."""
        return self

    def clipped(self, scored: Scored) -> Tensor | None:
        """bool[N]: where a clip changes something; None without clips."""
        return None

    def at(self, step: int, losses: Sequence[float]) -> "Divergence":
        """The divergence of a step, given its losses at the steps before; only where it `changes`."""
        return self

    @property
    def whole_responses(self) -> bool:
        return False

    @property
    def k(self) -> int | None:
        return None


@settings
class NoDivergence(Divergence, kind="none"):
    """No distillation term: the outcome alone is learned from."""

    needs_teacher = False
    bounded = True

    def __call__(self, scored: Scored) -> Tensor:
        return torch.zeros_like(scored.behaviour_N)


@settings
class NLL(Divergence, kind="nll"):
    """-log q(y): forward KL to the response token itself. Needs no teacher; not stationary at any softer target."""

    needs_teacher = False
    bounded = True

    def __call__(self, scored: Scored) -> Tensor:
        return -scored.log_q_N


def keep(log_NV: Tensor, index_NK: Tensor) -> Tensor:
    """The support's entries as they are: a partial distribution, for the generalised KL only."""
    return log_NV.gather(-1, index_NK)


def renormalise(log_NV: Tensor, index_NK: Tensor) -> Tensor:
    """The distribution conditioned on the support. Done on both sides the KL is true, but blind to mass outside."""
    kept_NK = keep(log_NV, index_NK)
    return kept_NK - kept_NK.logsumexp(dim=-1, keepdim=True)


def tail_bucket(log_NV: Tensor, index_NK: Tensor) -> Tensor:
    """The support plus one symbol that holds all the rest, as in SDPO (2601.20802).

    A true KL, and never above the full one (data processing). The rest is summed from its own entries, not as one
    minus the support, so that it keeps its digits when it is tiny.
    """
    rest_NV = log_NV.scatter(-1, index_NK, float("-inf"))
    return torch.cat([keep(log_NV, index_NK), rest_NV.logsumexp(dim=-1, keepdim=True)], dim=-1)


RESTS = {"renorm": renormalise, "tail": tail_bucket, "general": keep}
REFUSED_RESTS = {
    "drop": "a truncated sum is no divergence (its gradient is not zero at p = q)",
    "half": "renormalised on one side only it is no divergence (at p = q it still sharpens the student)",
}


def student_topk(scored: Scored, k: int) -> Tensor:
    """Indices of the student's k likeliest tokens at each position, held fixed within a step."""
    return scored.student_NV.detach().topk(k, dim=-1).indices


class Support(Choice):
    """Which tokens count. generalised: whether the entries are those of the generalised KL; k: null for all tokens."""

    @property
    def generalised(self) -> bool:
        return False

    @abstractmethod
    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student on the support: float[N, K] each."""


@settings
class Full(Support, kind="full"):
    """The whole vocabulary."""

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        return scored.target_NV, scored.student_NV


@settings
class TopK(Support):
    """`k` tokens. rest: what becomes of the others: renorm | tail | general."""

    k: Positive = 16  # likeliest tokens in the support
    rest: Annotated[str, Named(*RESTS)] = "tail"  # what becomes of the other tokens

    def __post_init__(self) -> None:
        if self.rest not in RESTS:
            why = REFUSED_RESTS.get(self.rest, "not known")
            raise BadSetting(f"rest={self.rest}: {why}; accepted: {', '.join(RESTS)}")

    @property
    def generalised(self) -> bool:
        return self.rest == "general"

    @abstractmethod
    def index(self, scored: Scored) -> Tensor:
        """The tokens of the support: int64[N, K]."""

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        index_NK, restrict = self.index(scored), RESTS[self.rest]
        return restrict(scored.target_NV, index_NK), restrict(scored.student_NV, index_NK)


@settings
class StudentTopK(TopK, kind="student_topk"):
    """The student's k likeliest tokens."""

    def index(self, scored: Scored) -> Tensor:
        return student_topk(scored, self.k)


@settings
class TeacherTopK(TopK, kind="teacher_topk"):
    """The teacher's k likeliest tokens, after its transform."""

    def index(self, scored: Scored) -> Tensor:
        return scored.target_NV.topk(self.k, dim=-1).indices


@settings
class Ranking(Divergence, kind="ranking"):
    """Plackett-Luce: -log of the student's chance to rank its own k likeliest tokens in the teacher's order.

    TSD-KD (2603.13260): sum_j logsumexp_{i>=j} log q(v_i) - log q(v_j), v_1 the teacher's favourite. Stationary only at
    a student that is sure of the order, so not at p = q. reversed: the sum runs over i <= j, as released, which is the
    chance of the reversed order.
    """

    k: Annotated[int, Range(2)] = 10  # the student's likeliest tokens that are ranked
    reversed: bool = False

    def __call__(self, scored: Scored) -> Tensor:
        index_NK = student_topk(scored, self.k)
        order_NK = scored.target_NV.gather(-1, index_NK).argsort(dim=-1, descending=True, stable=True)
        ranked_NK = scored.student_NV.gather(-1, index_NK.gather(-1, order_NK))
        if not self.reversed:
            ranked_NK = ranked_NK.flip(-1)
        return (ranked_NK.logcumsumexp(dim=-1) - ranked_NK).sum(dim=-1)
