"""Weights of single response positions. Each is a function of the batch and multiplies with the others.

Legend: B rows, R response columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synth.world.vocabulary import EOS, SPECIALS
from train.opd.rollouts import Rollouts
from train.opd.signals import Signals

if TYPE_CHECKING:
    from train.opd.weight.weight import WeightConfig

Weigh = Callable[[Rollouts, "WeightConfig", Signals], Tensor]


@dataclass(frozen=True)
class TokenWeight:
    """A weight float[B, R] and the signals that it needs."""

    of: Weigh
    needs: frozenset[str] = frozenset()


def columns(rollouts: Rollouts) -> Tensor:
    """int64[1, R]: the place of each response column."""
    return torch.arange(rollouts.trainable_BR.shape[1], device=rollouts.prompt_B.device)[None]


def first(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Drops the first `skip` tokens, where a told teacher speaks about what it was told (SDFT, 2601.19897)."""
    return (columns(rollouts) >= config.skip).float()


def special(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Drops special tokens, the end excepted: without it stopping would not be learned (2603.25562 masks them)."""
    response_BR = rollouts.response_BR
    return ((response_BR >= len(SPECIALS)) | (response_BR == EOS)).float()


def mistake_start(rollouts: Rollouts) -> Tensor:
    """int64[B, 1]: first token of the first wrong step, beyond the response where there is none."""
    verdicts = rollouts.verdicts
    never = rollouts.trainable_BR.shape[1]
    starts = [never if step < 0 else int(verdicts.start[row, step]) for row, step in enumerate(verdicts.first_mistake)]
    return torch.tensor(starts, device=rollouts.prompt_B.device)[:, None]


def before_mistake(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only what comes before the first wrong step; all of a response without one (ours)."""
    return (columns(rollouts) < mistake_start(rollouts)).float()


def after_mistake(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only the first wrong step and what follows; nothing of a response without one (ours)."""
    return (columns(rollouts) >= mistake_start(rollouts)).float()


def top(value_BR: Tensor, share: float, rollouts: Rollouts) -> Tensor:
    """1 at the `share` of all trainable positions where the value is highest (ties included)."""
    inside_BR = rollouts.trainable_BR
    value_N = value_BR[inside_BR]
    if len(value_N) == 0:
        return torch.zeros_like(value_BR)
    kept = max(1, round(share * len(value_N)))
    least = value_N.topk(kept).values[-1]
    return ((value_BR >= least) & inside_BR).float()


def teacher_entropy(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only where the teacher is most uncertain: the top `share` by H_p (EOPD, 2603.07079, by a threshold in nats)."""
    return top(signals["teacher_entropy"], config.share, rollouts)


def entropy_gap(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """sigmoid(H_S - H_T): more where the student is less certain than the teacher (TSD-KD, 2603.13260)."""
    return torch.sigmoid(signals["student_entropy"] - signals["teacher_entropy"])


def tip(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """The top `share` of u = h + d - h d, h entropy over log V, d reverse KL over its largest in the batch (TIP)."""
    h_BR = signals["student_entropy"] / log(signals.vocabulary)
    d_BR = signals["rkl"] / signals["rkl"].max().clamp(min=1e-12)
    return top(h_BR + d_BR - h_BR * d_BR, config.share, rollouts)


def opener(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """The smallest prefix of each response that holds `share` of the student's entropy over it (TSD-KD)."""
    entropy_BR = signals["student_entropy"]
    before_BR = entropy_BR.cumsum(dim=1) - entropy_BR
    return (before_BR < config.share * entropy_BR.sum(dim=1, keepdim=True)).float()


def early(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """1 + gamma (1 - share of the response's |log p/q| that lies before): early tokens more (IW-OPD, 2606.22600)."""
    size_BR = (signals["log_p"] - signals["log_q"]).abs()
    share_BR = (size_BR.cumsum(dim=1) - size_BR) / size_BR.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return 1.0 + config.gamma * (1.0 - share_BR)


def importance(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """min(q(y) / mu(y), cap): corrects for tokens that another distribution drew (SDPO caps at 2)."""
    return (signals["log_q"] - rollouts.behaviour_BR).exp().clamp(max=config.cap)


def needing(of: Weigh, *names: str) -> TokenWeight:
    return TokenWeight(of, frozenset(names))


TOKENS = {
    "first": TokenWeight(first),
    "special": TokenWeight(special),
    "before_mistake": TokenWeight(before_mistake),
    "after_mistake": TokenWeight(after_mistake),
    "teacher_entropy": needing(teacher_entropy, "teacher_entropy"),
    "entropy_gap": needing(entropy_gap, "student_entropy", "teacher_entropy"),
    "tip": needing(tip, "student_entropy", "rkl"),
    "opener": needing(opener, "student_entropy"),
    "early": needing(early, "log_p", "log_q"),
    "importance": needing(importance, "log_q"),
}
