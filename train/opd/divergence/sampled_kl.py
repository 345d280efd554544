"""Reverse KL estimated from the sampled token alone: policy gradient, k2, k3.

What is differentiated decides what is learned: the plain log-ratio (k1) has zero expected gradient and is refused, its
policy gradient (pg) and half its square (k2) have that of the reverse KL, and k3, a common default under the name of
reverse KL, has that of the FORWARD KL.

Legend: N response positions, B rows, R response columns. p teacher target, q student, mu the distribution y was drawn
from, y response token.
"""

from dataclasses import field
from math import log
from typing import Annotated

import torch
from torch import Tensor

from synth.ranges import AboveZero, BadSetting, OneOf, Range, settings
from train.opd.divergence.interface_and_topk import Divergence, StudentTopK, TopK
from train.opd.log_probs import Scored, Signals, kl, of_token
from train.opd.schedule import Discount, OpenShare

WHITE = 1e-8  # keeps the variance of equal advantages from dividing by zero


@settings
class PPOClip:
    """clip, clip_high: of the ratio r = q(y)/mu(y), as in PPO; clip_high null means as clip. dual_clip: where A < 0 the
    ratio counts at most this much, with no gradient beyond (dual-clip PPO, 1912.09729)."""

    clip: OpenShare | None = None
    clip_high: AboveZero | None = None
    dual_clip: Annotated[float, Range(above=1)] | None = None

    def __post_init__(self) -> None:
        for name in ("clip_high", "dual_clip"):
            if getattr(self, name) is not None and self.clip is None:
                raise BadSetting(f"{name}={getattr(self, name)} has no effect without clip; accepted: null")

    def gain(self, ratio_N: Tensor, advantage_N: Tensor) -> Tensor:
        """min(r A, clip(r, 1 - clip, 1 + clip_high) A) (1707.06347) at every position, r A without a clip: float[N]."""
        gain_N = ratio_N * advantage_N
        if self.clip is None:
            return gain_N
        high = self.clip if self.clip_high is None else self.clip_high
        least_N = torch.minimum(gain_N, ratio_N.clamp(1.0 - self.clip, 1.0 + high) * advantage_N)
        if self.dual_clip is None:
            return least_N
        return torch.where(advantage_N < 0.0, torch.maximum(least_N, self.dual_clip * advantage_N), least_N)


def discounted_future(reward_N: Tensor, scored: Scored, gamma: float) -> tuple[Tensor, Tensor]:
    """sum_{k>=1} gamma^k reward_{t+k} of the same response, and how many tokens follow; rows must be whole."""
    row_N, time_N = scored.row_N, scored.time_N
    shape = (int(row_N.max()) + 1, int(time_N.max()) + 2)
    reward_BR = reward_N.new_zeros(shape).index_put((row_N, time_N), reward_N)
    after_BR = torch.zeros_like(reward_BR)
    for t in range(shape[1] - 2, -1, -1):
        after_BR[:, t] = gamma * (reward_BR[:, t + 1] + after_BR[:, t + 1])
    length_B = torch.zeros(shape[0], dtype=torch.long, device=row_N.device).index_add(0, row_N, torch.ones_like(row_N))
    return after_BR[row_N, time_N], length_B[row_N] - 1 - time_N


@settings
class PolicyGradient(PPOClip, Divergence, kind="rkl_pg"):
    """Sampled reverse KL as a policy gradient: -rho A, A = sg[clip(d, -c, c)], d = log p(y)/q(y), rho = q(y)/mu(y).

    Its expected gradient is that of the exact reverse KL. Form: tinker-cookbook's on-policy distillation (advantage =
    minus the sampled KL, importance-sampling loss). rho is one up to rounding where y was drawn from q itself, and
    corrects for another sampling distribution.

    adv_clip: c, in nats; guards against tokens the teacher finds impossible. floor: d is at least log(f / (1 - f)), the
    least that a mixture with share f of the teacher would give (REOPOLD, 2603.11137). gamma: A gets the discounted d of
    the tokens that follow; gamma = 1 is the gradient of the sequence's KL (MiniLLM, 2306.08543); length_norm: their
    mean, or short empty answers win. decompose: the token's own d is replaced by the exact reverse KL, and only the
    future is sampled (MiniLLM's single-step decomposition); own: it stays in A, and in that mean, too. whiten: A less
    its mean, over its deviation, both of the batch as a padded rectangle, zeros included (both: MiniLLM, released
    code). baseline rkl: A = d + RKL, centred, of the same expectation (vOPD). ratio: false leaves rho out (Lightning
    OPD, 2604.13010). frozen_advantage: q in d is the student that drew y, so d stays while a batch is used again
    (G-OPD, Lightning OPD).
    """

    adv_clip: AboveZero | None = None
    floor: OpenShare | None = None
    gamma: Discount | None = None
    length_norm: bool = False
    decompose: bool = False
    baseline: Annotated[str, OneOf("rkl")] | None = None  # what is subtracted from the sampled term
    ratio: bool = True
    frozen_advantage: bool = False
    own: bool = False
    whiten: bool = False
    sampled = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("length_norm", "decompose"):
            if getattr(self, name) and self.gamma is None:
                raise ValueError(f"divergence.{name}=true has no effect without divergence.gamma; accepted: false")
        if self.own and not self.decompose:
            raise ValueError("divergence.own=true has no effect without divergence.decompose; accepted: false")
        if self.decompose and self.baseline is not None:
            raise ValueError("divergence.baseline=rkl centres the sampled term that decompose=true replaces; pick one")
        if self.clip is not None and not self.ratio:
            raise ValueError(f"divergence.clip={self.clip} has no effect with divergence.ratio=false; accepted: null")

    @property
    def whole_responses(self) -> bool:
        return self.gamma is not None

    @property
    def needs(self) -> frozenset:
        return frozenset({self}) if self.whiten else frozenset()

    def measure(self, scored: Scored) -> Tensor:
        """The advantages, float[N], of which a whitened one needs to know all."""
        return self.advantage(scored)[0]

    def prepared(self, signals: Signals) -> Divergence:
        if not self.whiten:
            return self
        all_BR = signals[self]
        return Whitened(**vars(self), mean=float(all_BR.mean()), deviation=float((all_BR.var() + WHITE).sqrt()))

    def _old(self, scored: Scored) -> Tensor:
        """log q(y) in d."""
        if not self.frozen_advantage:
            return scored.log_q_N
        return scored.behaviour_N if scored.older_NV is None else of_token(scored.older_NV, scored.token_N)

    def advantage(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The advantage, without gradient, and the exact part of the loss, with gradient: float[N] each."""
        reward_N = (scored.log_p_N - self._old(scored)).detach()
        if self.adv_clip is not None:
            reward_N = reward_N.clamp(-self.adv_clip, self.adv_clip)
        if self.floor is not None:
            reward_N = reward_N.clamp(min=log(self.floor / (1.0 - self.floor)))
        advantage_N = torch.zeros_like(reward_N) if self.decompose else reward_N
        if self.gamma is not None:
            future_N, count_N = discounted_future(reward_N, scored, self.gamma)
            if self.own:
                future_N, count_N = future_N + reward_N, count_N + 1
            advantage_N = advantage_N + (future_N / count_N.clamp(min=1) if self.length_norm else future_N)
        exact_N = torch.zeros_like(reward_N)
        if self.decompose or self.baseline == "rkl":
            rkl_N = kl(scored.student_NV, scored.target_NV)
            if self.decompose:
                exact_N = rkl_N
            else:
                advantage_N = advantage_N + rkl_N.detach()
        return advantage_N, exact_N

    def __call__(self, scored: Scored) -> Tensor:
        log_q_N = scored.log_q_N
        advantage_N, exact_N = self.advantage(scored)
        if not self.ratio:
            return exact_N - log_q_N * advantage_N
        return exact_N - self.gain((log_q_N - scored.behaviour_N).exp(), advantage_N)

    def clipped(self, scored: Scored) -> Tensor | None:
        acting = []
        if self.adv_clip is not None:
            acting.append((scored.log_p_N - scored.log_q_N).abs() > self.adv_clip)
        if self.clip is not None:
            ratio_N, (advantage_N, _) = (scored.log_q_N - scored.behaviour_N).exp(), self.advantage(scored)
            acting.append(self.gain(ratio_N, advantage_N) != ratio_N * advantage_N)
        return torch.stack(acting).any(dim=0) if acting else None


@settings
class Whitened(PolicyGradient):
    """A policy gradient whose advantages are standardised by what those of the whole batch are."""

    mean: float = 0.0
    deviation: float = 1.0

    def advantage(self, scored: Scored) -> tuple[Tensor, Tensor]:
        advantage_N, exact_N = super().advantage(scored)
        return (advantage_N - self.mean) / self.deviation, exact_N


@settings
class TopKPolicyGradient(PPOClip, Divergence, kind="topk_pg"):
    """Policy gradient over every token v of a top-k support: -sum_v PPO(q_v/o_v, w_v log(p_v/o_v)).

    Rethinking OPD (2604.13016), released code; o is the student that drew the batch, sg[q] on a fresh one. Log-ratios
    are those of the whole vocabulary; w is o, or with weigh=teacher p, renormalised on the support. With all tokens
    its gradient would be that of the reverse KL. weigh: whose probabilities weigh the tokens.
    """

    support: TopK = field(default_factory=StudentTopK)
    weigh: Annotated[str, OneOf("student", "teacher")] = "student"
    needs_old = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.support, TopK):
            raise ValueError("divergence.support=full: the sum over all tokens is divergence=rkl; accepted: a top-k")

    @property
    def k(self) -> int | None:
        return self.support.k

    def __call__(self, scored: Scored) -> Tensor:
        index_NK = self.support.index(scored._replace(student_NV=scored.old_NV))
        q_NK, old_NK, p_NK = (x.gather(-1, index_NK) for x in (scored.student_NV, scored.old_NV, scored.target_NV))
        weight_NK = (old_NK if self.weigh == "student" else p_NK).softmax(dim=-1)
        ratio_NK, advantage_NK = (q_NK - old_NK).exp(), weight_NK * (p_NK - old_NK)
        return -self.gain(ratio_NK, advantage_NK).sum(dim=-1)


@settings
class SquaredGap(Divergence, kind="squared"):
    """Half the squared difference of the token's log-probabilities, whoever wrote it (CurioSFT, 2602.02244)."""

    def __call__(self, scored: Scored) -> Tensor:
        return 0.5 * (scored.log_q_N - scored.log_p_N) ** 2


@settings
class K2(SquaredGap, kind="rkl_k2"):
    """Half the squared log-ratio: its expected gradient is that of the exact reverse KL (KDRL, 2506.02208)."""

    sampled = True

    def __call__(self, scored: Scored) -> Tensor:
        return (scored.log_q_N - scored.behaviour_N).detach().exp() * super().__call__(scored)


@settings
class K3(Divergence, kind="rkl_k3"):
    """p/q - 1 + log(q/p): an unbiased value of the reverse KL whose expected gradient is that of the FORWARD KL.

    It is a common default loss under the name of reverse KL; read runs that use it as forward KL on student states.
    """

    sampled = True

    def __call__(self, scored: Scored) -> Tensor:
        log_p_N, log_q_N = scored.log_p_N, scored.log_q_N
        log_ratio_N = log_p_N - log_q_N
        return (log_q_N - scored.behaviour_N).detach().exp() * (log_ratio_N.exp() - 1.0 - log_ratio_N)
