"""Divergences between two distributions over a vocabulary or a part of it, as entries whose sum is the divergence.

Functions of log-probabilities alone. The mass that a truncated support leaves out has to go somewhere, or the sum is no
divergence: renormalised away on both sides, kept in a tail bucket, or accounted for by the generalised KL.

Legend: N response positions, V vocabulary, K entries of the support. p teacher target, q student.
"""

from collections.abc import Callable
from math import log, log1p

import torch
from torch import Tensor


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


def todi(p_NK: Tensor, q_NK: Tensor, entries: Entries, share: float) -> Tensor:
    """Token-wise mix, ToDi (2505.16297): s KL(p, q) + (1-s) KL(q, p) entry by entry, s = sg[sigmoid(log p/q)].

    Forward KL where the student is too low, reverse KL where it is too high.
    """
    s_NK = (p_NK - q_NK).detach().sigmoid()
    return s_NK * entries(p_NK, q_NK) + (1.0 - s_NK) * entries(q_NK, p_NK)


KINDS = {"fkl": fkl, "rkl": rkl, "jsd": jsd, "skew_fkl": skew_fkl, "skew_rkl": skew_rkl, "todi": todi}


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
