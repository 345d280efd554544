"""What the verifier adds: the outcome part of a method.

A group is the responses to one prompt; the advantage of a response is its reward relative to its group, so a group
whose rewards are all equal gives no gradient. The policy gradient uses the ratio rho = q(y_t) / mu(y_t) to the
distribution that the response was drawn from. It is one up to rounding where a batch is drawn from the student as it is
and used for one step; PPO's clip is offered only where it has something to act on.

A teacher may modulate the outcome instead of being followed: it enters the ratio (TRRD) or scales the advantage (RLSD).

Legend: B rows, N response positions of all rows.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from synth.judge.checker import MALFORMED
from synth.ranges import AboveZero, BadSetting, NotNegative, OneOf, Positive, Share, settings
from train.config.schema import Choice
from train.opd.divergence.sampled_kl import PPOClip
from train.opd.log_probs import Scored, Signals
from train.opd.outcome.rewards import Reward
from train.opd.rollout_batch import ORIGINS, Rollouts, group_mean, judged_right
from train.opd.schedule import OpenShare, Schedule
from train.opd.weight.weight import NORMALISERS, Normaliser

EPSILON = 1e-6  # keeps the standard deviation of an all-equal group from dividing by zero
LOG_RATIO = 1.0  # TRRD clamps log(q/p) to [-1, 1]


def drgrpo_advantage(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """R - mean of the group (Dr.GRPO, 2503.20783): no division that favours questions of little variance."""
    return reward_B - group_mean(reward_B, group_B)


def grpo_advantage(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """(R - mean) / (standard deviation + epsilon) of the group (GRPO, 2402.03300); the deviation is the unbiased one,
    over n - 1, as verl and TRL have it. A response alone in its group has advantage 0."""
    centred_B = drgrpo_advantage(reward_B, group_B)
    n_B = torch.bincount(group_B)[group_B].to(centred_B.dtype)
    variance_B = group_mean(centred_B**2, group_B) * n_B / (n_B - 1.0).clamp(min=1.0)
    return centred_B / (variance_B.sqrt() + EPSILON)


# A combiner says how distillation and outcome join: for every row, the factors of the two terms, from the reward R of
# the row and the weight of the outcome.
Factors = tuple[Tensor, Tensor]


def add(reward_B: Tensor, weight: float) -> Factors:
    """Distillation plus weight times outcome (KDRL, 2506.02208)."""
    return torch.ones_like(reward_B), torch.full_like(reward_B, weight)


def convex(reward_B: Tensor, weight: float) -> Factors:
    """(1 - weight) distillation + weight outcome (SDPO, 2601.20802, with 0.9 for small models)."""
    return torch.full_like(reward_B, 1.0 - weight), torch.full_like(reward_B, weight)


def mask(reward_B: Tensor, weight: float) -> Factors:
    """Distillation only on responses without reward: A + (1 - R) d (KDRL's reward-guided masking)."""
    return 1.0 - reward_B, torch.full_like(reward_B, weight)


def route(reward_B: Tensor, weight: float) -> Factors:
    """Outcome on rewarded responses, distillation on the others: R A + (1 - R) d (SRPO)."""
    return 1.0 - reward_B, weight * reward_B


def rewarded(reward_B: Tensor, weight: float) -> Factors:
    """Distillation as its own weights have it, outcome on rewarded responses alone: R A + d."""
    return torch.ones_like(reward_B), weight * reward_B


COMBINERS = {"add": add, "convex": convex, "mask": mask, "route": route, "rewarded": rewarded}


class Modulation(Choice):
    """How a teacher enters the outcome instead of being followed."""

    def at(self, step: int) -> "Modulation":
        """As it is at a step."""
        return self

    @abstractmethod
    def __call__(self, scored: Scored, advantage_N: Tensor) -> tuple[Tensor, Tensor]:
        """The ratio (with gradient) and the advantage (without) at every position: float[N] each."""


@settings
class TRRD(Modulation, kind="trrd"):
    """(q/mu)^a (q/p)^(1-a), log(q/p) clamped to [-1, 1] (RLAD, 2602.22495): a = `mix` = 1 is GRPO. The teacher acts
    through the clip and through (q/p)^(1-a) as a weight."""

    mix: Share = 0.5  # 1 is GRPO, 0 the teacher's ratio

    def __call__(self, scored: Scored, advantage_N: Tensor) -> tuple[Tensor, Tensor]:
        log_q_N, log_p_N = scored.log_q_N, scored.log_p_N
        log_ratio_N = log_q_N - scored.behaviour_N
        to_teacher_N = (log_q_N - log_p_N).clamp(-LOG_RATIO, LOG_RATIO)
        return (self.mix * log_ratio_N + (1.0 - self.mix) * to_teacher_N).exp(), advantage_N


@settings
class RLSD(Modulation, kind="rlsd"):
    """A ((1-l) + l clip(e^{sign(A) d}, 1-eps, 1+eps)), d = log p/q: share l = `mix` of the advantage is scaled by the
    teacher, at most by 1 +- eps = `bound`. anneal: the step by which l has gone to 0 on a line. frozen: q in d is the
    sampling distribution."""

    mix: Share = 0.5  # share of the advantage that the teacher scales
    bound: OpenShare = 0.2  # of that scaling: 1 less and more this
    anneal: Positive | None = None
    frozen: bool = False

    def at(self, step: int) -> "RLSD":
        return replace(self, mix=self.mix * max(0.0, 1.0 - step / self.anneal), anneal=None) if self.anneal else self

    def __call__(self, scored: Scored, advantage_N: Tensor) -> tuple[Tensor, Tensor]:
        log_q_N, log_p_N = scored.log_q_N, scored.log_p_N
        ratio_N = (log_q_N - scored.behaviour_N).exp()
        old_N = scored.behaviour_N if self.frozen else log_q_N.detach()
        trust_N = (advantage_N.sign() * (log_p_N - old_N)).exp().clamp(1.0 - self.bound, 1.0 + self.bound)
        return ratio_N, advantage_N * ((1.0 - self.mix) + self.mix * trust_N)


class OutcomeConfig(Choice):
    """What the verifier adds; none, or a policy gradient."""

    schedule: Schedule | None = None
    modulate: Modulation | None = None
    reward: Reward | None = None
    needs: frozenset[str] = frozenset()


@settings
class NoOutcome(OutcomeConfig, kind="none"):
    """The verifier adds nothing."""


@settings
class GroupOutcome(PPOClip, OutcomeConfig):
    """A policy gradient with advantages relative to the group.

    combiner: add | convex | mask | route | rewarded. reward: strict | answer | majority | discriminator, null: what the
    method judges by. weight: in the loss, times the schedule. modulate: trrd | rlsd. normaliser: token | sequence |
    constant.
    guest_shape: c of f(q) = q / (q + c), which stands for the ratio in responses that the student did not write (LUFFY,
    2504.14945; 0: q itself); null: their ratio as any other.
    """

    combiner: Annotated[str, OneOf(*COMBINERS)] = "add"
    reward: Reward | None = None
    weight: AboveZero = 1.0
    schedule: Schedule | None = None
    modulate: Modulation | None = None
    normaliser: Normaliser = "token"
    guest_shape: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.combiner == "convex" and not self.weight < 1.0:
            raise ValueError(f"outcome.weight={self.weight}: accepted are numbers strictly between 0 and 1")
        if self.reward is not None and self.reward.learned:
            if self.combiner not in ("add", "convex"):
                raise BadSetting(f"combiner={self.combiner}: a learned reward is no 0 or 1; accepted: add, convex")
            if self.guest_shape is not None:
                raise BadSetting(f"guest_shape={self.guest_shape}: the judge knows the guests; accepted: null")

    @abstractmethod
    def advantages(self, reward_B: Tensor, group_B: Tensor) -> Tensor:
        """The advantage of every response of a whole batch: float[B], without gradient."""

    def positions(self, rollouts: Rollouts, max_new: int, signals: Signals | None) -> tuple[Tensor, Tensor]:
        """What every position counts, and its advantage: float[B, R] each, for a whole batch."""
        count_BR = self.normalised(rollouts.trainable_BR, rollouts, max_new)
        advantage_B = self.advantages(self.rewards(rollouts), self.groups(rollouts))
        return count_BR, advantage_B[:, None].expand(count_BR.shape)

    def apart(self, rollouts: Rollouts) -> Tensor:
        """bool[B]: rows in no group, from which the outcome learns nothing."""
        names = Reward.apart if self.reward is None else self.reward.apart
        return torch.isin(rollouts.origin_B, rollouts.origin_B.new_tensor([ORIGINS.index(name) for name in names]))

    def groups(self, rollouts: Rollouts) -> Tensor:
        """int64[B]: the group of each row; those apart are in others."""
        return 2 * rollouts.group_B + self.apart(rollouts)

    def normalised(self, among_BR: Tensor, rollouts: Rollouts, max_new: int) -> Tensor:
        """The normaliser at these positions of the rows that are not apart, which are all the rows it knows of."""
        among_BR, apart_B = among_BR.to(rollouts.behaviour_BR.dtype), self.apart(rollouts)
        own_BR, count_BR = among_BR[~apart_B], torch.zeros_like(among_BR)
        count_BR[~apart_B] = own_BR * NORMALISERS[self.normaliser](own_BR, max_new)
        return count_BR

    def rewards(self, rollouts: Rollouts) -> Tensor:
        """The reward of every response: float[B], 0 or 1 unless it is learned."""
        reward = judged_right if self.reward is None else self.reward
        return reward(rollouts).to(rollouts.behaviour_BR.dtype)

    def factors(self, rollouts: Rollouts) -> Factors:
        """What every row counts in the distillation terms and in the outcome."""
        return COMBINERS[self.combiner](self.rewards(rollouts), self.weight)

    def ratio_and_advantage(self, scored: Scored, advantage_BR: Tensor) -> tuple[Tensor, Tensor]:
        """The ratio (with gradient) and the advantage (without) at every position, modulated by the teacher."""
        advantage_N = advantage_BR[scored.row_N, scored.time_N]
        if self.modulate is not None:
            return self.modulate(scored, advantage_N)
        return (scored.log_q_N - scored.behaviour_N).exp(), advantage_N

    def policy_gradient(self, scored: Scored, advantage_BR: Tensor, guest_B: Tensor | None = None) -> Tensor:
        """-min(r A, clip(r) A) at every response position: float[N]. guest_B: bool, rows that others wrote."""
        ratio_N, advantage_N = self.ratio_and_advantage(scored, advantage_BR)
        gain_N = self.gain(ratio_N, advantage_N)
        if self.guest_shape is None or guest_B is None:
            return -gain_N
        q_N = scored.log_q_N.exp()
        shaped_N = q_N / (q_N + self.guest_shape) if self.guest_shape else q_N
        return -torch.where(guest_B[scored.row_N], shaped_N * advantage_N, gain_N)

    @torch.no_grad()
    def clipped(self, scored: Scored, advantage_BR: Tensor) -> Tensor:
        """bool[N]: where the clip takes the gradient away."""
        ratio_N, advantage_N = self.ratio_and_advantage(scored, advantage_BR)
        return self.gain(ratio_N, advantage_N) != ratio_N * advantage_N


@settings
class GRPO(GroupOutcome, kind="grpo"):
    """GRPO (2402.03300): over the group's standard deviation, and the mean over each response, 1/|o|."""

    normaliser: Normaliser = "sequence"

    def advantages(self, reward_B: Tensor, group_B: Tensor) -> Tensor:
        return grpo_advantage(reward_B, group_B)


@settings
class DrGRPO(GroupOutcome, kind="drgrpo"):
    """Dr.GRPO (2503.20783): without the standard deviation, over a constant."""

    normaliser: Normaliser = "constant"

    def advantages(self, reward_B: Tensor, group_B: Tensor) -> Tensor:
        return drgrpo_advantage(reward_B, group_B)


@settings
class ProcessGRPO(GRPO, kind="grpo_process"):
    """GRPO with process supervision (2402.03300, section 4.1.3), its dense reward the checker's word on each step.

    A step has reward 1 where it is no mistake, else 0; behind the last stands the response's own reward. Rewards are
    centred and scaled by all of their group; a token's advantage is the sum over the steps that end at it or later.
    """

    def positions(self, rollouts: Rollouts, max_new: int, signals: Signals | None) -> tuple[Tensor, Tensor]:
        count_BR, _ = super().positions(rollouts, max_new, signals)
        verdicts, device = rollouts.verdicts, rollouts.prompt_B.device
        last_B1 = (rollouts.length_B - 1)[:, None]
        stop_BS = torch.cat([torch.as_tensor(verdicts.stop, device=device).long() - 1, last_B1], dim=1)
        kind_BS = torch.as_tensor(verdicts.kind, device=device)
        reward_BS = torch.cat([(kind_BS < MALFORMED).to(count_BR.dtype), self.rewards(rollouts)[:, None]], dim=1)
        counts_BS = torch.cat([kind_BS >= 0, torch.ones_like(last_B1, dtype=torch.bool)], dim=1)
        row_M, step_M = counts_BS.nonzero(as_tuple=True)
        scaled_M = self.advantages(reward_BS[row_M, step_M], self.groups(rollouts)[row_M])
        before_BR = torch.zeros_like(count_BR).index_put((row_M, stop_BS[row_M, step_M]), scaled_M, accumulate=True)
        return count_BR, before_BR.flip(1).cumsum(1).flip(1)


@settings
class RLCSD(GRPO, kind="rlcsd"):
    """GRPO with contrastive credit (2606.11709): what a right hint says of a token beyond what wrong hints say.

    e = log p(y; the teacher's context) - log mean p(y; its contrast); the advantage moves by clip(strength tanh(e /
    tau), +-bound) where that is more than delta, but never past 0; those tokens are a mean of their own, times eta.
    """

    tau: AboveZero = 0.02  # temperature of the evidence
    strength: AboveZero = 0.5  # of the move of an advantage
    bound: AboveZero = 2.0  # of that move
    delta: NotNegative = 0.02  # smaller moves count nothing
    eta: AboveZero = 1.0  # weight of the tokens that are moved
    normaliser: Normaliser = "token"  # what the sums over either kind of token are divided by
    needs = frozenset({"log_p", "log_p_contrast"})

    def positions(self, rollouts: Rollouts, max_new: int, signals: Signals | None) -> tuple[Tensor, Tensor]:
        count_BR, advantage_BR = super().positions(rollouts, max_new, signals)
        if signals is None:
            raise RuntimeError("outcome=rlcsd: the teacher's contexts were not scored")
        e_BR = torch.where(signals["log_p_contrast"] < 0.0, signals["log_p"] - signals["log_p_contrast"], 0.0)
        moved_BR = (self.strength * torch.tanh(e_BR / self.tau)).clamp(-self.bound, self.bound)
        counted_BR = count_BR > 0
        chosen_BR = counted_BR & (moved_BR.abs() > self.delta)
        sign_BR = advantage_BR.sign()
        shaped_BR = sign_BR * (sign_BR * (advantage_BR + moved_BR)).clamp(min=0.0)
        masks = (counted_BR & ~chosen_BR, chosen_BR)
        rest_BR, own_BR = (self.normalised(mask_BR, rollouts, max_new) for mask_BR in masks)
        return rest_BR + self.eta * own_BR, torch.where(chosen_BR, shaped_BR, advantage_BR)
