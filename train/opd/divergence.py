"""How the student is compared with its target, at one position: the divergence part of a method.

Everything here is a function of log-probabilities at response positions and returns one number for each position;
weights and normaliser come later (`weight.py`). Only the student carries gradient. Two choices that look like
matters of taste change what is learned, so they are refused where they mislead: backpropagating the sampled log-ratio
(k1) has zero expected gradient, and a top-k sum without treatment of the rest is not a divergence.

Legend: N response positions, V vocabulary, K entries of the support. p teacher target, q student, y response token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, log1p

import torch
from torch import Tensor

from train.opd.settings import only, require
from train.opd.teacher import Scored


def kl_entries(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """Entries of KL(a, b) = sum_v a(v) log(a(v) / b(v)), from log-probabilities."""
    return a_NK.exp() * (a_NK - b_NK)


def generalised_kl_entries(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """Entries of sum_v [a log(a/b) - a + b]: each is >= 0, so the sum is a divergence on any subset (I-divergence)."""
    mass_a_NK = a_NK.exp()
    return mass_a_NK * (a_NK - b_NK) - mass_a_NK + b_NK.exp()


def mixture(a_NK: Tensor, b_NK: Tensor, share: float) -> Tensor:
    """log(share * a + (1 - share) * b) for 0 < share < 1."""
    return torch.logaddexp(a_NK + log(share), b_NK + log1p(-share))


# The kinds below take log-probabilities of target and student on the support, how to weigh the entries of a KL, and the
# share of their mixture (beta or alpha); they return entries whose sum over the support is the divergence.
Entries = Callable[[Tensor, Tensor], Tensor]


def fkl(p_NK: Tensor, q_NK: Tensor, entries: Entries, share: float) -> Tensor:
    """Forward KL: sum p log(p/q). Gradient with respect to the logits: q - p. Covers the teacher's modes."""
    return entries(p_NK, q_NK)


def rkl(p_NK: Tensor, q_NK: Tensor, entries: Entries, share: float) -> Tensor:
    """Reverse KL: sum q log(q/p). Gradient with respect to the logits: q (log(q/p) - RKL). Seeks its modes."""
    return entries(q_NK, p_NK)


def jsd(p_NK: Tensor, q_NK: Tensor, entries: Entries, share: float) -> Tensor:
    """Generalised Jensen-Shannon, GKD (2306.13649): b KL(p, m) + (1-b) KL(q, m) with m = b p + (1-b) q.

    JSD_b / b tends to forward KL as b -> 0 and JSD_b / (1-b) to reverse KL as b -> 1, but at the very ends JSD is zero
    everywhere. So b = 0 means forward KL and b = 1 reverse KL here, as in the released implementations.
    """
    if share in (0.0, 1.0):
        return (fkl if share == 0.0 else rkl)(p_NK, q_NK, entries, share)
    m_NK = mixture(p_NK, q_NK, share)
    return share * entries(p_NK, m_NK) + (1.0 - share) * entries(q_NK, m_NK)


def skew_fkl(p_NK: Tensor, q_NK: Tensor, entries: Entries, share: float) -> Tensor:
    """Skew forward KL, DistiLLM (2402.03898): KL(p, a p + (1-a) q), at most -log a."""
    return entries(p_NK, mixture(p_NK, q_NK, share))


def skew_rkl(p_NK: Tensor, q_NK: Tensor, entries: Entries, share: float) -> Tensor:
    """Skew reverse KL, DistiLLM (2402.03898): KL(q, (1-a) p + a q), at most -log a."""
    return entries(q_NK, mixture(q_NK, p_NK, share))


KINDS = {"fkl": fkl, "rkl": rkl, "jsd": jsd, "skew_fkl": skew_fkl, "skew_rkl": skew_rkl}


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


def student_topk(scored: Scored, k: int) -> Tensor:
    """Indices of the student's k likeliest tokens at each position, held fixed within a step."""
    return scored.student_NV.detach().topk(k, dim=-1).indices


def teacher_topk(scored: Scored, k: int) -> Tensor:
    """Indices of the target's k likeliest tokens at each position."""
    assert scored.teacher_NV is not None
    return scored.teacher_NV.topk(k, dim=-1).indices


TOPK = {"student_topk": student_topk, "teacher_topk": teacher_topk}
SUPPORTS = ("full", *TOPK, "sampled")


def exact(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """The divergence summed over its support. With `entry_clip` each vocabulary entry counts at most that much.

    Entry clip: OPSD (2601.18734), sum_v min(p log(p/q), tau). The clipped sum can be negative and its gradient is zero
    exactly at the worst entries: a heuristic against a few dominating tokens, no longer a divergence.
    """
    assert scored.teacher_NV is not None
    p_NK, q_NK, entries = scored.teacher_NV, scored.student_NV, kl_entries
    if config.k is not None and config.rest is not None:
        index_NK = TOPK[config.support](scored, config.k)
        p_NK, q_NK = (RESTS[config.rest](log_NV, index_NK) for log_NV in (p_NK, q_NK))
        entries = generalised_kl_entries if config.rest == "general" else kl_entries
    share = config.beta if config.kind == "jsd" else config.alpha
    entries_NK = KINDS[config.kind](p_NK, q_NK, entries, share or 0.0)
    if config.entry_clip is not None:
        entries_NK = entries_NK.clamp(max=config.entry_clip)
    return entries_NK.sum(dim=-1)


def pg(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """Sampled reverse KL as a policy gradient: -rho A, A = sg[clip(log p(y) - log q(y), -c, c)], rho = q(y) / mu(y).

    Its expected gradient is that of the exact reverse KL. Form: tinker-cookbook's on-policy distillation (advantage =
    minus the sampled KL, importance-sampling loss); `adv_clip` guards against tokens the teacher finds impossible.
    rho is one up to rounding where y was drawn from q itself, and corrects for another sampling temperature.
    """
    log_p_N, log_q_N, log_mu_N = sampled(scored)
    advantage_N = (log_p_N - log_q_N).detach()
    if config.adv_clip is not None:
        advantage_N = advantage_N.clamp(-config.adv_clip, config.adv_clip)
    return -(log_q_N - log_mu_N).exp() * advantage_N


def k2(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """Half the squared log-ratio: its expected gradient is that of the exact reverse KL (KDRL, 2506.02208)."""
    log_p_N, log_q_N, log_mu_N = sampled(scored)
    return (log_q_N - log_mu_N).detach().exp() * 0.5 * (log_q_N - log_p_N) ** 2


def k3(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """p/q - 1 + log(q/p): an unbiased value of the reverse KL whose expected gradient is that of the FORWARD KL.

    It is a common default loss under the name of reverse KL; read runs that use it as forward KL on student states.
    """
    log_p_N, log_q_N, log_mu_N = sampled(scored)
    log_ratio_N = log_p_N - log_q_N
    return (log_q_N - log_mu_N).detach().exp() * (log_ratio_N.exp() - 1.0 - log_ratio_N)


ESTIMATORS = {"exact": exact, "pg": pg, "k2": k2, "k3": k3}


def sampled(scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
    """log p(y), log q(y) and log mu(y) of the response tokens, mu being the distribution they were drawn from."""
    assert scored.teacher_NV is not None
    index_N1 = scored.token_N[:, None]
    log_p_N = scored.teacher_NV.gather(-1, index_N1).squeeze(-1)
    log_q_N = scored.student_NV.gather(-1, index_N1).squeeze(-1)
    return log_p_N, log_q_N, scored.behaviour_N


def nll(scored: Scored) -> Tensor:
    """-log q(y): forward KL to the response token itself. Needs no teacher; not stationary at any softer target."""
    return -scored.student_NV.gather(-1, scored.token_N[:, None]).squeeze(-1)


def divergence(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """The configured divergence at each position.

    Args:
        scored: log-probabilities of student (with gradient), teacher target and response tokens.
        config: which divergence, on which support, estimated how.
    Returns:
        float[N], in nats for the true divergences.
    """
    return nll(scored) if config.kind == "nll" else ESTIMATORS[config.estimator](scored, config)


@dataclass(frozen=True)
class DivergenceConfig:
    """Which divergence, on which support, with which estimator. Settings of other choices must stay null.

    kind: fkl | rkl | jsd (with `beta`) | skew_fkl | skew_rkl (with `alpha`) | nll | none (no distillation term).
    support: full | student_topk | teacher_topk (with `k` and `rest`: renorm | tail | general) | sampled.
    estimator: exact, or with support `sampled`: pg (with optional `adv_clip`) | k2 | k3.
    entry_clip: largest contribution of one vocabulary entry to an exact divergence, in nats.
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

    def __post_init__(self) -> None:
        if self.estimator == "k1":
            raise ValueError(
                "divergence.estimator=k1: the teacher cancels from the expected gradient of the log-ratio, so nothing "
                "is learned; accepted: pg (its policy gradient), " + ", ".join(e for e in ESTIMATORS if e != "pg")
            )
        if self.rest == "drop":
            raise ValueError(
                "divergence.rest=drop: a truncated sum is no divergence (its gradient is not zero at p = q); "
                f"accepted: {', '.join(RESTS)}"
            )
        require("divergence.kind", self.kind, (*KINDS, "nll", "none"))
        require("divergence.support", self.support, SUPPORTS)
        require("divergence.estimator", self.estimator, ESTIMATORS)
        self._check_choices()
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
        if self.kind in ("nll", "none") and self.support != "full":
            raise ValueError(
                f"divergence.support={self.support} means nothing for divergence.kind={self.kind}; leave it at full"
            )
        only("divergence.beta", self.beta, self.kind == "jsd", "divergence.kind=jsd")
        only("divergence.alpha", self.alpha, self.kind.startswith("skew"), "divergence.kind=skew_fkl or skew_rkl")
        only("divergence.k", self.k, self.support in TOPK, "divergence.support=" + " or ".join(TOPK))
        only("divergence.rest", self.rest, self.support in TOPK, "divergence.support=" + " or ".join(TOPK))
        if self.rest is not None:
            require("divergence.rest", self.rest, RESTS)
        if self.adv_clip is not None:
            only("divergence.adv_clip", self.adv_clip, self.estimator == "pg", "divergence.estimator=pg")
        if self.entry_clip is not None:
            exact_sum = self.estimator == "exact" and self.kind in KINDS
            only("divergence.entry_clip", self.entry_clip, exact_sum, "an exact divergence (" + ", ".join(KINDS) + ")")

    def _check_numbers(self) -> None:
        if self.beta is not None and not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"divergence.beta={self.beta}: accepted are numbers from 0 (forward KL) to 1 (reverse KL)")
        if self.alpha is not None and not 0.0 < self.alpha < 1.0:
            raise ValueError(f"divergence.alpha={self.alpha}: accepted are numbers strictly between 0 and 1")
        if self.k is not None and self.k < 1:
            raise ValueError(f"divergence.k={self.k}: accepted are whole numbers from 1 to the vocabulary size minus 1")
        for name in ("adv_clip", "entry_clip"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"divergence.{name}={value}: accepted are positive numbers, or null for no clip")

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's log-probabilities enter the loss."""
        return self.kind not in ("nll", "none")
