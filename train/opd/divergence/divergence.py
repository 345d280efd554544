"""How the student is compared with its target, at one position: the divergence part of a method.

Everything here is a function of log-probabilities at response positions and returns one number for each position;
weights and normaliser come later (`weight.py`). Only the student carries gradient. Choices that look like matters of
taste change what is learned, so those that mislead are refused: backpropagating the sampled log-ratio (k1), a top-k sum
that drops the rest, and a top-k sum that is renormalised on one side only.

Legend: N response positions, V vocabulary, K entries of the support. p teacher target, q student, y response token.
"""

from dataclasses import dataclass

from torch import Tensor

from train.opd.checks import only, positive, require, unit
from train.opd.divergence.estimators import ESTIMATORS, SUPPORTS, TOPK, student_topk
from train.opd.divergence.kl import KINDS, RESTS
from train.opd.teacher.targets import Scored

REFUSED_RESTS = {
    "drop": "a truncated sum is no divergence (its gradient is not zero at p = q)",
    "half": "renormalised on one side only it is no divergence (at p = q it still sharpens the student)",
}


def nll(scored: Scored) -> Tensor:
    """-log q(y): forward KL to the response token itself. Needs no teacher; not stationary at any softer target."""
    return -scored.student_NV.gather(-1, scored.token_N[:, None]).squeeze(-1)


def ranking(scored: Scored, k: int) -> Tensor:
    """Plackett-Luce: -log of the student's chance to rank its own k likeliest tokens in the teacher's order.

    TSD-KD (2603.13260): sum_j logsumexp_{i>=j} log q(v_i) - log q(v_j), v_1 the teacher's favourite. Stationary only at
    a student that is sure of the order, so not at p = q.
    """
    assert scored.teacher_NV is not None
    index_NK = student_topk(scored, k)
    order_NK = scored.teacher_NV.gather(-1, index_NK).argsort(dim=-1, descending=True, stable=True)
    ranked_NK = scored.student_NV.gather(-1, index_NK.gather(-1, order_NK))
    remaining_NK = ranked_NK.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return (remaining_NK - ranked_NK).sum(dim=-1)


def divergence(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """The configured divergence at each position.

    Args:
        scored: log-probabilities of student (with gradient), teacher target and response tokens; whole responses.
        config: which divergence, on which support, estimated how.
    Returns:
        float[N], in nats for the true divergences.
    """
    if config.kind == "nll":
        return nll(scored)
    if config.kind == "ranking":
        assert config.k is not None
        return ranking(scored, config.k)
    return ESTIMATORS[config.estimator](scored, config)


@dataclass(frozen=True)
class DivergenceConfig:
    """Which divergence, on which support, with which estimator. Settings of other choices must stay null.

    kind: fkl | rkl | jsd (with `beta`) | skew_fkl | skew_rkl (with `alpha`) | todi | nll | ranking (of the student's
        top `k`) | none (no distillation term).
    support: full | student_topk | teacher_topk (with `k` and `rest`: renorm | tail | general) | sampled.
    estimator: exact, or with support `sampled`: pg | k2 | k3.
    entry_clip: largest contribution of one vocabulary entry to an exact divergence, in nats.
    Of pg alone: adv_clip (nats), gamma (discount of what follows, with length_norm its mean) and decompose, baseline:
        rkl, ratio: false to leave the importance ratio out, clip: of the ratio, as in PPO.
    """

    kind: str = "rkl"
    support: str = "full"
    estimator: str = "exact"
    beta: float | None = None
    alpha: float | None = None
    k: int | None = None
    rest: str | None = None
    adv_clip: float | None = None
    entry_clip: float | None = None
    gamma: float | None = None
    length_norm: bool = False
    decompose: bool = False
    baseline: str | None = None
    ratio: bool = True
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.estimator == "k1":
            raise ValueError(
                "divergence.estimator=k1: the teacher cancels from the expected gradient of the log-ratio, so nothing "
                "is learned; accepted: pg (its policy gradient), " + ", ".join(e for e in ESTIMATORS if e != "pg")
            )
        if self.rest in REFUSED_RESTS:
            raise ValueError(f"divergence.rest={self.rest}: {REFUSED_RESTS[self.rest]}; accepted: {', '.join(RESTS)}")
        require("divergence.kind", self.kind, (*KINDS, "nll", "ranking", "none"))
        require("divergence.support", self.support, SUPPORTS)
        require("divergence.estimator", self.estimator, ESTIMATORS)
        self._check_choices()
        self._check_policy_gradient()
        self._check_numbers()

    def _check_choices(self) -> None:
        sampled_only = self.support == "sampled"
        if sampled_only == (self.estimator == "exact"):
            wanted = "pg, k2, k3" if sampled_only else "exact"
            raise ValueError(
                f"divergence.estimator={self.estimator} does not go with divergence.support={self.support}; "
                f"accepted there: {wanted}"
            )
        if sampled_only and self.kind != "rkl":
            raise ValueError(
                f"divergence.support=sampled estimates the reverse KL only, got divergence.kind={self.kind}; "
                "accepted: kind=rkl, or support=full"
            )
        if self.kind not in KINDS and self.support != "full":
            raise ValueError(
                f"divergence.support={self.support} means nothing for divergence.kind={self.kind}; leave it at full"
            )
        only("divergence.beta", self.beta, self.kind == "jsd", "divergence.kind=jsd")
        only("divergence.alpha", self.alpha, self.kind.startswith("skew"), "divergence.kind=skew_fkl or skew_rkl")
        some = self.support in TOPK
        only("divergence.k", self.k, some or self.kind == "ranking", "a top-k support or divergence.kind=ranking")
        only("divergence.rest", self.rest, some, "divergence.support=" + " or ".join(TOPK))
        if self.rest is not None:
            require("divergence.rest", self.rest, RESTS)
        if self.entry_clip is not None:
            exact_sum = self.estimator == "exact" and self.kind in KINDS
            only("divergence.entry_clip", self.entry_clip, exact_sum, "an exact divergence (" + ", ".join(KINDS) + ")")

    def _check_policy_gradient(self) -> None:
        for name in ("adv_clip", "gamma", "length_norm", "decompose", "baseline", "clip"):
            value = getattr(self, name)
            if value:
                only(f"divergence.{name}", value, self.estimator == "pg", "divergence.estimator=pg")
        if not self.ratio and self.estimator != "pg":
            raise ValueError("divergence.ratio=false has no effect here; it belongs to divergence.estimator=pg")
        if self.baseline is not None:
            require("divergence.baseline", self.baseline, ("rkl",))
        for name, needs, there in (
            ("length_norm", "gamma", self.gamma is not None),
            ("decompose", "gamma", self.gamma is not None),
        ):
            if getattr(self, name) and not there:
                raise ValueError(f"divergence.{name}=true has no effect without divergence.{needs}; accepted: false")
        if self.decompose and self.baseline is not None:
            raise ValueError("divergence.baseline=rkl centres the sampled term that decompose=true replaces; pick one")
        if self.clip is not None and not self.ratio:
            raise ValueError(f"divergence.clip={self.clip} has no effect with divergence.ratio=false; accepted: null")

    def _check_numbers(self) -> None:
        if self.beta is not None and not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"divergence.beta={self.beta}: accepted are numbers from 0 (forward KL) to 1 (reverse KL)")
        unit("divergence.alpha", self.alpha)
        if self.k is not None and self.k < 1:
            raise ValueError(f"divergence.k={self.k}: accepted are whole numbers from 1 to the vocabulary size minus 1")
        if self.kind == "ranking" and self.k == 1:
            raise ValueError("divergence.k=1: one token has only one order; accepted with kind=ranking: 2 or more")
        for name in ("adv_clip", "entry_clip"):
            positive(f"divergence.{name}", getattr(self, name))
        if self.gamma is not None and not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"divergence.gamma={self.gamma}: accepted are numbers above 0, up to 1, or null")
        unit("divergence.clip", self.clip)

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's log-probabilities enter the loss."""
        return self.kind not in ("nll", "none")

    @property
    def bounded(self) -> bool:
        """Whether it stays finite where the target gives a token no chance at all."""
        blends = self.kind == "jsd" and 0.0 < (self.beta or 0.0) < 1.0
        return self.kind in ("fkl", "nll", "none", "skew_rkl", "skew_fkl") or blends or (self.beta == 0.0)
