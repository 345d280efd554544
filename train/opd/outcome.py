"""What the verifier adds: the outcome part of a method.

A group is the responses to one prompt; the advantage of a response is its reward relative to its group, so a group
whose rewards are all equal gives no gradient. The policy gradient uses the ratio rho = q(y_t) / mu(y_t) to the
distribution that the response was drawn from. It is one up to rounding where a batch is drawn from the student as it is
and used for one step; PPO's clip is offered only where it has something to act on.

A teacher may modulate the outcome instead of being followed: it enters the ratio (TRRD) or scales the advantage (RLSD).

Legend: B rows, N response positions of all rows.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from train.opd.checks import Schedule, only, require, unit
from train.opd.divergence.estimators import clipped_gain
from train.opd.rollouts import Rollouts
from train.opd.teacher.targets import Scored
from train.opd.weight.sample_weights import group_mean, judged_right

EPSILON = 1e-6  # keeps the standard deviation of an all-equal group from dividing by zero
LOG_RATIO = 1.0  # TRRD clamps log(q/p) to [-1, 1]


def strict(rollouts: Rollouts) -> Tensor:
    """1 where the checker finds every step and the answer right."""
    return judged_right(rollouts)


def answer(rollouts: Rollouts) -> Tensor:
    """1 where the final answer is right, however it was reached."""
    return torch.as_tensor(rollouts.verdicts.answer_right, device=rollouts.prompt_B.device).float()


REWARDS = {"strict": strict, "answer": answer}


def drgrpo(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """R - mean of the group (Dr.GRPO, 2503.20783): no division that favours questions of little variance."""
    return reward_B - group_mean(reward_B, group_B)


def grpo(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """(R - mean) / (standard deviation + epsilon) of the group (GRPO, 2402.03300)."""
    centred_B = drgrpo(reward_B, group_B)
    return centred_B / (group_mean(centred_B**2, group_B).sqrt() + EPSILON)


OUTCOMES = {"grpo": grpo, "drgrpo": drgrpo}
NORMALISER = {"grpo": "sequence", "drgrpo": "constant"}  # of the published objectives: 1/|o|, and a constant

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


COMBINERS = {"add": add, "convex": convex, "mask": mask, "route": route}
MODULATIONS = ("trrd", "rlsd")


@dataclass(frozen=True)
class OutcomeConfig:
    """kind: none | grpo | drgrpo. With a kind: combiner add | convex | mask | route, reward strict | answer, its weight
    in the loss, and a schedule that multiplies the weight.

    modulate: trrd (share `mix` of the ratio is to the sampling distribution, the rest to the teacher) | rlsd (share
        `mix` of the advantage is scaled by the teacher, at most by 1 +- `bound`). clip, clip_high: of the ratio, as in
        PPO; clip_high null means as clip.
    """

    kind: str = "none"
    combiner: str = "add"
    reward: str = "strict"
    weight: float = 1.0
    schedule: Schedule | None = None
    modulate: str | None = None
    mix: float | None = None
    bound: float | None = None
    clip: float | None = None
    clip_high: float | None = None

    def __post_init__(self) -> None:
        require("outcome.kind", self.kind, ("none", *OUTCOMES))
        require("outcome.combiner", self.combiner, COMBINERS)
        require("outcome.reward", self.reward, REWARDS)
        if not self.weight > 0.0:
            raise ValueError(f"outcome.weight={self.weight}: accepted are positive numbers; kind=none switches it off")
        if self.combiner == "convex":
            unit("outcome.weight", self.weight)
        if self.kind == "none" and any(getattr(self, f.name) != f.default for f in fields(self)):
            raise ValueError("outcome.kind=none leaves the other settings without effect; accepted: defaults")
        if self.modulate is not None:
            require("outcome.modulate", self.modulate, MODULATIONS)
        only("outcome.mix", self.mix, self.modulate is not None, "outcome.modulate=" + " or ".join(MODULATIONS))
        only("outcome.bound", self.bound, self.modulate == "rlsd", "outcome.modulate=rlsd")
        unit("outcome.mix", self.mix, closed=True)
        unit("outcome.bound", self.bound)
        unit("outcome.clip", self.clip)
        if self.clip_high is not None:
            only("outcome.clip_high", self.clip_high, self.clip is not None, "outcome.clip")
            unit("outcome.clip_high", self.clip_high)


def rewards(rollouts: Rollouts, config: OutcomeConfig) -> Tensor:
    """The reward of every response: float32[B], 0 or 1."""
    return REWARDS[config.reward](rollouts)


def advantages(rollouts: Rollouts, config: OutcomeConfig) -> Tensor:
    """The advantage of every response of a whole batch: float32[B], without gradient."""
    return OUTCOMES[config.kind](rewards(rollouts, config), rollouts.group_B)


def _token(log_NV: Tensor, scored: Scored) -> Tensor:
    return log_NV.gather(-1, scored.token_N[:, None]).squeeze(-1)


def ratio_and_advantage(scored: Scored, advantage_B: Tensor, config: OutcomeConfig) -> tuple[Tensor, Tensor]:
    """The ratio (with gradient) and the advantage (without) at every response position, modulated by the teacher.

    trrd: (q/mu)^a (q/p)^(1-a), log(q/p) clamped to [-1, 1] (RLAD, 2602.22495): a = 1 is GRPO. The teacher acts through
    the clip and through (q/p)^(1-a) as a weight. rlsd: A ((1-l) + l clip(e^{sign(A) d}, 1-eps, 1+eps)), d = log p/q.
    """
    log_q_N, advantage_N = _token(scored.student_NV, scored), advantage_B[scored.row_N]
    log_ratio_N = log_q_N - scored.behaviour_N
    if config.modulate is None:
        return log_ratio_N.exp(), advantage_N
    assert scored.teacher_NV is not None and config.mix is not None
    log_p_N = _token(scored.teacher_NV, scored)
    if config.modulate == "trrd":
        to_teacher_N = (log_q_N - log_p_N).clamp(-LOG_RATIO, LOG_RATIO)
        return (config.mix * log_ratio_N + (1.0 - config.mix) * to_teacher_N).exp(), advantage_N
    assert config.bound is not None
    trust_N = (advantage_N.sign() * (log_p_N - log_q_N.detach())).exp().clamp(1.0 - config.bound, 1.0 + config.bound)
    return log_ratio_N.exp(), advantage_N * ((1.0 - config.mix) + config.mix * trust_N)


def policy_gradient(scored: Scored, advantage_B: Tensor, config: OutcomeConfig) -> Tensor:
    """-min(r A, clip(r) A) at every response position: float[N]."""
    ratio_N, advantage_N = ratio_and_advantage(scored, advantage_B, config)
    return -clipped_gain(ratio_N, advantage_N, config.clip, config.clip_high)


@torch.no_grad()
def clipped(scored: Scored, advantage_B: Tensor, config: OutcomeConfig) -> Tensor:
    """bool[N]: where the clip takes the gradient away."""
    ratio_N, advantage_N = ratio_and_advantage(scored, advantage_B, config)
    return clipped_gain(ratio_N, advantage_N, config.clip, config.clip_high) < ratio_N * advantage_N
