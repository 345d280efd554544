"""Weights of whole responses. Each is a function of the batch and multiplies with the others.

Legend: B rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synth.contexts.sections import written
from train.opd.rollouts import Rollouts
from train.opd.signals import Signals

if TYPE_CHECKING:
    from train.opd.weight.weight import WeightConfig

Weigh = Callable[[Rollouts, "WeightConfig", Signals], Tensor]
CLEARLY = log(2.0)  # nats per token by which a sentence of the teacher's is likelier to it than to the student (ours)


@dataclass(frozen=True)
class SampleWeight:
    """A weight float[B], the signals that it needs, and whether it compares responses to one prompt."""

    of: Weigh
    needs: frozenset[str] = frozenset()
    group: bool = False


def judged_right(rollouts: Rollouts) -> Tensor:
    """float[B]: 1 where the checker finds every step and the answer right."""
    return torch.as_tensor(rollouts.verdicts.right, device=rollouts.prompt_B.device).float()


def group_mean(value_B: Tensor, group_B: Tensor) -> Tensor:
    """The mean over each row's group, at each row: float[B]."""
    total = torch.zeros(int(group_B.max()) + 1, device=value_B.device).index_add(0, group_B, value_B)
    count = torch.zeros_like(total).index_add(0, group_B, torch.ones_like(value_B))
    return (total / count.clamp(min=1.0))[group_B]


def finished(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only responses that ended by themselves; those cut at the token budget count nothing."""
    return rollouts.finished_B.float()


def right(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only responses that the checker finds right in every step (rejection sampling: RFT, STaR)."""
    return judged_right(rollouts)


def wrong(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only responses with something wrong."""
    return 1.0 - judged_right(rollouts)


def success(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only responses whose teacher was shown a right peer, one of another text (MOPD, 2605.12652)."""
    right, group, told = rollouts.verdicts.right, rollouts.group_B.tolist(), rollouts.told_B.tolist()
    texts = [tuple(written(row)) for row in rollouts.response_BR.tolist()]
    good: dict[int, set[tuple[int, ...]]] = {g: set() for g in group}
    for row in range(len(texts)):
        if right[row]:
            good[group[row]].add(texts[row])
    shown = [told[row] and bool(good[group[row]] - {texts[row]}) for row in range(len(texts))]
    return torch.tensor(shown, device=rollouts.prompt_B.device).float()


def contrast(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Only prompts with both right and wrong responses (REDI, 2505.24850, learns from such pairs)."""
    rate_B = group_mean(judged_right(rollouts), rollouts.group_B)
    return ((rate_B > 0.0) & (rate_B < 1.0)).float()


def paced(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """a^alpha (1 - a)^beta, a the prompt's pass rate: prompts that are neither solved nor hopeless (PACED)."""
    rate_B = group_mean(judged_right(rollouts), rollouts.group_B)
    return rate_B**config.alpha * (1.0 - rate_B) ** config.beta


def perplexity(score_B: Tensor, rollouts: Rollouts) -> Tensor:
    """exp(score) over its mean among the responses to the same prompt that are as right (SCOPE, 2604.10688)."""
    class_B = 2 * rollouts.group_B + judged_right(rollouts).long()
    top = torch.full((int(class_B.max()) + 1,), -torch.inf, device=score_B.device)
    top = top.scatter_reduce(0, class_B, score_B, "amax")
    weight_B = (score_B - top[class_B]).exp()
    return weight_B / group_mean(weight_B, class_B)


def student_ppl(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Proportional to PPL_S^(1/tau): learn most from the right responses that the student found unlikely (SCOPE)."""
    return perplexity(-signals.mean("log_q", rollouts) / config.tau, rollouts)


def teacher_ppl(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """Proportional to PPL_T^(-1/tau): trust the teacher where it is at home in what was written (SCOPE)."""
    return perplexity(signals.mean("log_p", rollouts) / config.tau, rollouts)


def teacher_sentences(rollouts: Rollouts, config: "WeightConfig", signals: Signals) -> Tensor:
    """The `share` of responses with the most sentences of the teacher's, those clearly likelier to it.

    Divergence-aware sampling, DASD (2601.09088). A sentence is a step, its likelihood the geometric mean over its
    tokens. Ties are kept.
    """
    gap_BR, verdicts = (signals["log_p"] - signals["log_q"]).cpu(), rollouts.verdicts
    shares = []
    for row in range(len(rollouts)):
        spans = [(a, b) for a, b in zip(verdicts.start[row], verdicts.stop[row], strict=True) if 0 <= a < b]
        own = [bool(gap_BR[row, a:b].mean() > CLEARLY) for a, b in spans]
        shares.append(sum(own) / len(own) if own else 0.0)
    share_B = torch.tensor(shares, device=rollouts.prompt_B.device)
    return (share_B >= share_B.topk(max(1, round(config.share * len(shares)))).values[-1]).float()


def needing(of: Weigh, *names: str, group: bool = False) -> SampleWeight:
    return SampleWeight(of, frozenset(names), group)


SAMPLES = {
    "finished": SampleWeight(finished),
    "right": SampleWeight(right),
    "wrong": SampleWeight(wrong),
    "success": SampleWeight(success),
    "contrast": needing(contrast, group=True),
    "paced": needing(paced, group=True),
    "student_ppl": needing(student_ppl, "log_q", group=True),
    "teacher_ppl": needing(teacher_ppl, "log_p", group=True),
    "teacher_sentences": needing(teacher_sentences, "log_p", "log_q"),
}
