"""The tokens that a divergence is summed over: the whole vocabulary, or the k likeliest of the student or the teacher.

The mass that a top-k support leaves out has to go somewhere, or the sum is no divergence: renormalised away on both
sides, kept in a tail bucket, or accounted for by the generalised KL.

Legend: N response positions, V vocabulary, K entries of the support.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from train.config.schema import Choice
from train.opd.schedule import require
from train.opd.scored import Scored


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


@dataclass(frozen=True)
class Full(Support, kind="full"):
    """The whole vocabulary."""

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        return scored.target_NV, scored.student_NV


@dataclass(frozen=True)
class TopK(Support):
    """`k` tokens. rest: what becomes of the others: renorm | tail | general."""

    k: int = 16
    rest: str = "tail"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(
                f"divergence.support.k={self.k}: accepted are whole numbers from 1 to the vocabulary size minus 1"
            )
        if self.rest in REFUSED_RESTS:
            raise ValueError(
                f"divergence.support.rest={self.rest}: {REFUSED_RESTS[self.rest]}; accepted: {', '.join(RESTS)}"
            )
        require("divergence.support.rest", self.rest, RESTS)

    @property
    def generalised(self) -> bool:
        return self.rest == "general"

    @abstractmethod
    def index(self, scored: Scored) -> Tensor:
        """The tokens of the support: int64[N, K]."""

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        index_NK, restrict = self.index(scored), RESTS[self.rest]
        return restrict(scored.target_NV, index_NK), restrict(scored.student_NV, index_NK)


@dataclass(frozen=True)
class StudentTopK(TopK, kind="student_topk"):
    """The student's k likeliest tokens."""

    def index(self, scored: Scored) -> Tensor:
        return student_topk(scored, self.k)


@dataclass(frozen=True)
class TeacherTopK(TopK, kind="teacher_topk"):
    """The teacher's k likeliest tokens, after its transform."""

    def index(self, scored: Scored) -> Tensor:
        return scored.target_NV.topk(self.k, dim=-1).indices
