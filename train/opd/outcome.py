"""What the verifier adds: the outcome part of a method.

A group is the responses to one prompt; the advantage of a response is its reward relative to its group, so a group
whose rewards are all equal gives no gradient. The policy gradient uses the ratio rho = q(y_t) / mu(y_t) to the
distribution that the response was drawn from. It is one up to rounding, because every batch of rollouts is used for
one step; so the clip of PPO has nothing to act on here and is not offered.

Legend: B rows, N response positions of all rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from train.opd.rollouts import Rollouts
from train.opd.settings import require
from train.opd.teacher import Scored

EPSILON = 1e-6  # keeps the standard deviation of an all-equal group from dividing by zero


def strict(rollouts: Rollouts) -> Tensor:
    """1 where the checker finds every step and the answer right."""
    return torch.as_tensor(rollouts.verdicts.right, device=rollouts.prompt_B.device).float()


def answer(rollouts: Rollouts) -> Tensor:
    """1 where the final answer is right, however it was reached."""
    return torch.as_tensor(rollouts.verdicts.answer_right, device=rollouts.prompt_B.device).float()


REWARDS = {"strict": strict, "answer": answer}


def group_mean(value_B: Tensor, group_B: Tensor) -> Tensor:
    """The mean over each row's group, at each row: float[B]."""
    total = torch.zeros(int(group_B.max()) + 1, device=value_B.device).index_add(0, group_B, value_B)
    count = torch.zeros_like(total).index_add(0, group_B, torch.ones_like(value_B))
    return (total / count.clamp(min=1.0))[group_B]


def drgrpo(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """R - mean of the group (Dr.GRPO, 2503.20783): no division that favours questions of little variance."""
    return reward_B - group_mean(reward_B, group_B)


def grpo(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """(R - mean) / (standard deviation + epsilon) of the group (GRPO, 2402.03300)."""
    centred_B = drgrpo(reward_B, group_B)
    return centred_B / (group_mean(centred_B**2, group_B).sqrt() + EPSILON)


OUTCOMES = {"grpo": grpo, "drgrpo": drgrpo}
NORMALISER = {"grpo": "sequence", "drgrpo": "constant"}  # of the published objectives: 1/|o|, and a constant


def add(distillation: Tensor, outcome: Tensor, weight: float) -> Tensor:
    """Distillation plus weight times outcome (as in KDRL, 2506.02208, without its annealing)."""
    return distillation + weight * outcome


COMBINERS = {"add": add}


@dataclass(frozen=True)
class OutcomeConfig:
    """kind: none | grpo | drgrpo. With a kind: combiner add, reward strict | answer, and its weight in the loss."""

    kind: str = "none"
    combiner: str = "add"
    reward: str = "strict"
    weight: float = 1.0

    def __post_init__(self) -> None:
        require("outcome.kind", self.kind, ("none", *OUTCOMES))
        require("outcome.combiner", self.combiner, COMBINERS)
        require("outcome.reward", self.reward, REWARDS)
        if not self.weight > 0.0:
            raise ValueError(f"outcome.weight={self.weight}: accepted are positive numbers; kind=none switches it off")
        if self.kind == "none" and (self.combiner, self.reward, self.weight) != ("add", "strict", 1.0):
            raise ValueError("outcome.kind=none leaves combiner, reward and weight without effect; accepted: defaults")


def advantages(rollouts: Rollouts, config: OutcomeConfig) -> Tensor:
    """The advantage of every response of a whole batch: float32[B], without gradient."""
    return OUTCOMES[config.kind](REWARDS[config.reward](rollouts), rollouts.group_B)


def policy_gradient(scored: Scored, advantage_B: Tensor) -> Tensor:
    """-rho A at every response position: float[N]."""
    log_q_N = scored.student_NV.gather(-1, scored.token_N[:, None]).squeeze(-1)
    return -(log_q_N - scored.behaviour_N).exp() * advantage_B[scored.row_N]
