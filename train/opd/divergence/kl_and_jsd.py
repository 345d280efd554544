"""Divergences that are summed over their support exactly: forward and reverse KL, JSD, skewed KLs, ToDi.

Legend: N response positions, K entries of the support. p teacher target, q student.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from math import log, log1p, tanh
from typing import Annotated

import torch
from torch import Tensor

from synth.ranges import AboveZero, BadSetting, NotNegative, Positive, Range, Share, settings
from train.opd.divergence.interface_and_topk import Divergence, Full, Support, TopK
from train.opd.log_probs import Scored
from train.opd.schedule import OpenShare

Entries = Callable[[Tensor, Tensor], Tensor]  # of a KL between two distributions, from log-probabilities


def kl_entries(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """Entries of KL(a, b) = sum_v a(v) log(a(v) / b(v)), from log-probabilities."""
    return a_NK.exp() * (a_NK - b_NK)


def generalised_kl_entries(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """Entries of sum_v [a log(a/b) - a + b]: each is >= 0, so the sum is a divergence on any subset (I-divergence)."""
    mass_a_NK = a_NK.exp()
    return mass_a_NK * (a_NK - b_NK) - mass_a_NK + b_NK.exp()


def at_temperature(scored: Scored, temperature: float) -> Scored:
    """The record with softmax(logits / temperature) of student and teacher."""
    student_NV, teacher_NV = (torch.log_softmax(x / temperature, -1) for x in (scored.student_NV, scored.target_NV))
    return scored._replace(student_NV=student_NV, teacher_NV=teacher_NV)


def mixture(a_NK: Tensor, b_NK: Tensor, share: float | Tensor) -> Tensor:
    """log(share * a + (1 - share) * b) for 0 < share < 1."""
    if isinstance(share, Tensor):
        return torch.logaddexp(a_NK + share.log(), b_NK + (-share).log1p())
    return torch.logaddexp(a_NK + log(share), b_NK + log1p(-share))


@settings
class ExactDivergence(Divergence):
    """A sum of entries over the support. entry_clip: the most that one vocabulary entry may count, in nats.

    Entry clip: OPSD (2601.18734), sum_v min(p log(p/q), tau). The clipped sum can be negative and its gradient is zero
    exactly at the worst entries: a heuristic against a few dominating tokens, no longer a divergence.
    temperature: both sides are softened by it first; no factor T^2 (OPSD trains at 1.1).
    """

    support: Support = field(default_factory=Full)
    entry_clip: AboveZero | None = None
    temperature: AboveZero = 1.0

    @property
    def k(self) -> int | None:
        return self.support.k if isinstance(self.support, TopK) else None

    @abstractmethod
    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        """Entries whose sum is the divergence: float[N, K]. `kl`: the entries of a KL on this support."""

    def _entries(self, scored: Scored) -> Tensor:
        if self.temperature != 1.0:
            scored = at_temperature(scored, self.temperature)
        p_NK, q_NK = self.support(scored)
        return self.entries(scored, p_NK, q_NK, generalised_kl_entries if self.support.generalised else kl_entries)

    def __call__(self, scored: Scored) -> Tensor:
        entries_NK = self._entries(scored)
        if self.entry_clip is not None:
            entries_NK = entries_NK.clamp(max=self.entry_clip)
        return entries_NK.sum(dim=-1)

    def clipped(self, scored: Scored) -> Tensor | None:
        return None if self.entry_clip is None else (self._entries(scored) > self.entry_clip).any(dim=-1)


@settings
class ForwardKL(ExactDivergence, kind="fkl"):
    """Forward KL: sum p log(p/q). Gradient with respect to the logits: q - p. Covers the teacher's modes."""

    bounded = True

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        return kl(p_NK, q_NK)


@settings
class ReverseKL(ExactDivergence, kind="rkl"):
    """Reverse KL: sum q log(q/p). Gradient with respect to the logits: q (log(q/p) - RKL). Seeks its modes."""

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        return kl(q_NK, p_NK)


@settings
class JSD(ExactDivergence, kind="jsd"):
    """Generalised Jensen-Shannon, GKD (2306.13649): b KL(p, m) + (1-b) KL(q, m) with m = b p + (1-b) q.

    JSD_b / b tends to forward KL as b -> 0 and JSD_b / (1-b) to reverse KL as b -> 1, but at the very ends JSD is zero
    everywhere. So b = 0 means forward KL and b = 1 reverse KL here, as in the released implementations.
    """

    beta: Share = 0.5  # 0 forward KL, 1 reverse KL, between them Jensen-Shannon

    @property
    def bounded(self) -> bool:
        return self.beta < 1.0

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        if self.beta in (0.0, 1.0):
            return kl(p_NK, q_NK) if self.beta == 0.0 else kl(q_NK, p_NK)
        m_NK = mixture(p_NK, q_NK, self.beta)
        return self.beta * kl(p_NK, m_NK) + (1.0 - self.beta) * kl(q_NK, m_NK)


@settings
class SkewedKL(ExactDivergence):
    """A KL to a mixture of both, DistiLLM (2402.03898), at most -log alpha. alpha: the first one's share of it.

    anchor: m of DistiLLM-2's curriculum (2503.07067), the mean at the start of the gap g between both models' geometric
    mean probabilities of a response: its alpha is 1 - (1 - alpha) m / g, from 0.01 to alpha, with gradient as released.
    """

    alpha: OpenShare = 0.1
    anchor: float | None = None
    bounded = True

    @property
    def whole_responses(self) -> bool:
        return self.anchor is not None

    def shares(self, scored: Scored, a_N: Tensor, b_N: Tensor) -> Tensor | float:
        """alpha at each position, float[N, 1], from the tokens' log-probabilities in the first and the second."""
        if self.anchor is None:
            return self.alpha
        length_B = torch.bincount(scored.row_N).clamp(min=1)
        means = (a_N.new_zeros(len(length_B)).index_add(0, scored.row_N, x_N) / length_B for x_N in (a_N, b_N))
        first_B, second_B = (mean_B.exp() for mean_B in means)
        alpha_B = 1.0 - (1.0 - self.alpha) * self.anchor / (first_B - second_B + 1e-5)
        return alpha_B.clamp(0.01, self.alpha)[scored.row_N][:, None]


@settings
class SkewForwardKL(SkewedKL, kind="skew_fkl"):
    """Skew forward KL: KL(p, a p + (1-a) q)."""

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        share = self.shares(scored, scored.log_p_N, scored.log_q_N)
        return kl(p_NK, mixture(p_NK, q_NK, share))


@settings
class SkewReverseKL(SkewedKL, kind="skew_rkl"):
    """Skew reverse KL: KL(q, (1-a) p + a q). stopped: without gradient through q in the mixture (DistiLLM-2)."""

    stopped: bool = False

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        share = self.shares(scored, scored.log_q_N, scored.log_p_N)
        return kl(q_NK, mixture(q_NK.detach() if self.stopped else q_NK, p_NK, share))


@settings
class ToDi(ExactDivergence, kind="todi"):
    """Token-wise mix, ToDi (2505.16297): s KL(p, q) + (1-s) KL(q, p) entry by entry, s = sg[sigmoid(log p/q)].

    Forward KL where the student is too low, reverse KL where it is too high.
    """

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        s_NK = (p_NK - q_NK).detach().sigmoid()
        return s_NK * kl(p_NK, q_NK) + (1.0 - s_NK) * kl(q_NK, p_NK)


@settings
class AdaptiveKL(ExactDivergence, kind="akl"):
    """Adaptive KL (2404.02657): forward and reverse KL, each by the gap |p - q| on the teacher's head and on its tail.

    The head are the likeliest tokens up to a mass of `head_share` of p, the first one always, the tail all others.
    from_least: the tail are the least likely tokens that together hold at most `head_share`, as in the code of ToDi's
    authors, where it is a baseline. The shares carry no gradient.
    """

    head_share: OpenShare = 0.5  # of the teacher's probability that is its head, at most
    from_least: bool = False  # begin with the tail, at the least likely token

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        p, gap_NK = p_NK.exp(), (p_NK.exp() - q_NK.detach().exp()).abs()
        sorted_NK, order_NK = p.sort(dim=-1, descending=not self.from_least)
        first_NK = sorted_NK.cumsum(dim=-1) <= self.head_share  # the head, or the tail
        first_NK[:, 0] |= not self.from_least
        tail_NK = torch.zeros_like(p).scatter(-1, order_NK, (first_NK == self.from_least).to(p.dtype))
        tail_N1, total_N1 = (gap_NK * tail_NK).sum(dim=-1, keepdim=True), gap_NK.sum(dim=-1, keepdim=True)
        share_N1 = tail_N1 / total_N1.clamp(min=1e-12)
        return (1.0 - share_N1) * kl(p_NK, q_NK) + share_N1 * kl(q_NK, p_NK)


class MovingTarget(ExactDivergence):
    """A KL between the student and a target made of the teacher's distribution and of the student's as it is."""

    reverse = False

    def __post_init__(self) -> None:
        if self.support.generalised:
            raise BadSetting("support.rest=general: the target is a distribution; accepted: renorm, tail")

    @abstractmethod
    def target(self, p_NK: Tensor, q_NK: Tensor) -> Tensor:
        """The target's log-probabilities, from those of the teacher and, without gradient, of the student."""

    def entries(self, scored: Scored, p_NK: Tensor, q_NK: Tensor, kl: Entries) -> Tensor:
        target_NK = torch.log_softmax(self.target(p_NK, q_NK.detach()), dim=-1)
        return kl(q_NK, target_NK) if self.reverse else kl(target_NK, q_NK)


@settings
class TAID(MovingTarget, kind="taid"):
    """Forward KL to softmax((1 - t) sg[z_q] + t z_p), a mix of logits (2501.16937).

    t goes from `start` to `end`, at least as fast as a line of `steps`, and faster while the loss falls: at most by
    `alpha` (1 - t) in a step, through a momentum `momentum` of its relative change.
    """

    start: Share = 0.4  # of the share t of the teacher's logits
    end: Share = 1.0  # of the share t
    steps: Positive = 150  # of the slowest way from start to end
    alpha: NotNegative = 5e-4  # the most that t gains in a step, times 1 - t
    momentum: OpenShare = 0.99  # of the relative change of the loss
    bounded = True
    changes = True

    def target(self, p_NK: Tensor, q_NK: Tensor) -> Tensor:
        return (1.0 - self.start) * q_NK + self.start * p_NK

    def at(self, step: int, losses: Sequence[float]) -> "TAID":
        return replace(self, start=self.shares(losses)[-1]) if losses else self

    def shares(self, losses: Sequence[float]) -> list[float]:
        """t behind each step, from the losses of the steps so far; the first only begins the comparison."""
        t, drift, found = self.start, 0.0, []
        for step, loss in enumerate(losses):
            if step:
                before = losses[step - 1]
                drift = self.momentum * drift + (1.0 - self.momentum) * (before - loss) / (before + 1e-15)
                line = self.start + (self.end - self.start) * step / self.steps
                t = min(self.end, max(line, t + self.alpha * (1.0 - t) * (0.5 + 0.5 * tanh(drift / 2.0))))
            found.append(t)
        return found


@settings
class Veto(MovingTarget, kind="veto"):
    """KL to softmax(z_p + b sg[z_q]), the teacher sharpened where the student agrees (2601.07155); `reverse`: from it.

    b falls from `power` to 0 on a line of `steps`: left where it is the student would collapse to the teacher's mode.
    """

    power: Annotated[float, Range(least=0, below=1)] = 0.8  # of the student in the target, at the start
    steps: Positive = 150  # until that power is 0
    reverse: bool = False
    changes = True

    def target(self, p_NK: Tensor, q_NK: Tensor) -> Tensor:
        return p_NK + self.power * q_NK

    @property
    def bounded(self) -> bool:
        return not self.reverse

    def at(self, step: int, losses: Sequence[float]) -> "Veto":
        return replace(self, power=self.power * max(0.0, 1.0 - step / self.steps))
