"""Weights of whole responses. They multiply with each other.

Legend: B rows.
"""

from abc import abstractmethod
from math import log
from typing import Annotated

import torch
from torch import Tensor

from synth.contexts.context_tokens import written
from synth.ranges import AboveZero, BadSetting, OneOf, Positive, settings
from train.config.schema import Choice
from train.opd.log_probs import Signals
from train.opd.rollout_batch import ORIGINS, Rollouts, agrees, group_mean, judged_right
from train.opd.schedule import OpenShare

CLEARLY = log(2.0)  # nats per token by which a sentence of the teacher's is likelier to it than to the student (ours)


class SampleWeight(Choice):
    """A weight of every response. needs: signals that it reads. needs_group: whether it compares the responses to one
    prompt. by_step: whether it asks the checker where steps are, so that a row must hold one solution."""

    needs: frozenset[str] = frozenset()
    needs_group = False
    by_step = False

    @abstractmethod
    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        """float[B], for a whole batch."""


@settings
class Finished(SampleWeight, kind="finished"):
    """Only responses that ended by themselves; those cut at the token budget count nothing."""

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return rollouts.finished_B.float()


@settings
class Right(SampleWeight, kind="right"):
    """Only responses that the checker finds right in every step (rejection sampling: RFT, STaR)."""

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return judged_right(rollouts)


@settings
class Wrong(SampleWeight, kind="wrong"):
    """Only responses with something wrong."""

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return 1.0 - judged_right(rollouts)


@settings
class Success(SampleWeight, kind="success"):
    """Only responses whose teacher was shown a right peer, one of another text (MOPD, 2605.12652)."""

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        right, group, shown = rollouts.right, rollouts.group_B.tolist(), rollouts.has_context_B.tolist()
        texts = [tuple(written(row)) for row in rollouts.response_BR.tolist()]
        good: dict[int, set[tuple[int, ...]]] = {g: set() for g in group}
        for row in range(len(texts)):
            if right[row]:
                good[group[row]].add(texts[row])
        kept = [shown[row] and bool(good[group[row]] - {texts[row]}) for row in range(len(texts))]
        return torch.tensor(kept, device=rollouts.prompt_B.device).float()


@settings
class Contrast(SampleWeight, kind="contrast"):
    """Only prompts with both right and wrong responses (REDI, 2505.24850, learns from such pairs)."""

    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        rate_B = group_mean(judged_right(rollouts), rollouts.group_B)
        return ((rate_B > 0.0) & (rate_B < 1.0)).float()


@settings
class FirstPair(SampleWeight, kind="pair"):
    """Of each prompt with right and wrong responses the first right and the first wrong one (REDI, released code)."""

    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        right_B, group_B = judged_right(rollouts) > 0.0, rollouts.group_B
        first: dict[tuple[int, bool], int] = {}
        for row, key in enumerate(zip(group_B.tolist(), right_B.tolist(), strict=True)):
            first.setdefault(key, row)
        chosen_B = torch.zeros_like(group_B, dtype=torch.float32)
        for (group, right), row in first.items():
            chosen_B[row] = float((group, not right) in first)
        return chosen_B


@settings
class OfOps(SampleWeight, kind="ops"):
    """Only problems of `least` to `most` operations (null: no end): shortening by difficulty (LiteCoT, 2505.19716)."""

    least: Positive = 1  # operations
    most: Positive | None = None  # operations; null: no end

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        ops_B = torch.as_tensor(rollouts.problems.ops, device=rollouts.prompt_B.device)
        return ((ops_B >= self.least) & (ops_B <= (self.most or ops_B.max()))).float()


@settings
class Likeliest(SampleWeight, kind="likeliest"):
    """Of the responses to a prompt the one that the student finds likeliest, by the mean over its tokens: what it can
    take in now (MIND, 2601.03717). least: the unlikeliest."""

    least: bool = False  # the unlikeliest in its place
    needs = frozenset({"log_q"})
    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        order_B = signals.mean("log_q", rollouts).argsort(stable=True, descending=not self.least)
        best: dict[int, int] = {}
        for row, group in zip(order_B.tolist(), rollouts.group_B[order_B].tolist(), strict=True):
            best.setdefault(group, row)
        chosen_B = torch.zeros_like(rollouts.group_B, dtype=torch.float32)
        chosen_B[list(best.values())] = 1.0
        return chosen_B


@settings
class Unsolved(SampleWeight, kind="unsolved"):
    """Only prompts without a right response (HDPO, 2603.23871, distils where an outcome has no gradient)."""

    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (group_mean(judged_right(rollouts), rollouts.group_B) == 0.0).float()


@settings
class NotAbove(SampleWeight, kind="not_above"):
    """Only responses whose reward is not above their group's mean: all but the right ones of mixed groups (SRPO)."""

    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        right_B = judged_right(rollouts)
        return (right_B <= group_mean(right_B, rollouts.group_B)).float()


@settings
class WrittenBy(SampleWeight, kind="written_by"):
    """Only responses of one origin, one of `rollouts.ORIGINS` (DistiLLM-2: another loss for each of a pair)."""

    origin: Annotated[str, OneOf(*ORIGINS)] = "teacher"  # who wrote the responses that count

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (rollouts.origin_B == ORIGINS.index(self.origin)).float()


@settings
class Consistent(SampleWeight, kind="consistent"):
    """Only responses whose answer is the most frequent one of its prompt: selection without labels, by self-consistency
    (2203.11171)."""

    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return agrees(rollouts)


@settings
class Paced(SampleWeight, kind="paced"):
    """a^alpha (1 - a)^beta, a the prompt's pass rate: prompts that are neither solved nor hopeless (PACED)."""

    alpha: AboveZero = 1.0  # power of the pass rate
    beta: AboveZero = 1.0  # power of the failure rate
    needs_group = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        rate_B = group_mean(judged_right(rollouts), rollouts.group_B)
        return rate_B**self.alpha * (1.0 - rate_B) ** self.beta


@settings
class RewardSoftmax(SampleWeight, kind="reward"):
    """softmax of reward / beta over the batch, times its rows: right responses count more (released code of PACED)."""

    beta: AboveZero = 1.0  # temperature of the softmax

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        reward_B = judged_right(rollouts).to(rollouts.behaviour_BR.dtype)
        return len(rollouts) * torch.softmax(reward_B / self.beta, dim=0)


@settings
class Perplexity(SampleWeight):
    """exp(score / tau) over its mean among the responses to the same prompt that are as right (SCOPE, 2604.10688).

    tau below 0 turns the order round."""

    tau: float = 1.0  # temperature; below 0 turns the order round
    needs_group = True

    def __post_init__(self) -> None:
        if self.tau == 0.0:
            raise BadSetting("tau=0.0: accepted: numbers other than 0")

    def normalised(self, score_B: Tensor, rollouts: Rollouts) -> Tensor:
        """The weights, from each response's score before tau."""
        score_B = score_B / self.tau
        class_B = 2 * rollouts.group_B + judged_right(rollouts).long()
        top = torch.full((int(class_B.max()) + 1,), -torch.inf, dtype=score_B.dtype, device=score_B.device)
        top = top.scatter_reduce(0, class_B, score_B, "amax")
        weight_B = (score_B - top[class_B]).exp()
        return weight_B / group_mean(weight_B, class_B)


@settings
class StudentPerplexity(Perplexity, kind="student_ppl"):
    """Proportional to PPL_S^(1/tau): learn most from the right responses that the student found unlikely (SCOPE).

    frozen: by the student that drew them."""

    frozen: bool = False
    needs = frozenset({"log_q"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        old_B = rollouts.behaviour_BR.sum(dim=1) / rollouts.length_B.clamp(min=1)
        return self.normalised(-(old_B if self.frozen else signals.mean("log_q", rollouts)), rollouts)


@settings
class TeacherPerplexity(Perplexity, kind="teacher_ppl"):
    """Proportional to PPL_T^(-1/tau): trust the teacher where it is at home in what was written (SCOPE)."""

    needs = frozenset({"log_p"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return self.normalised(signals.mean("log_p", rollouts), rollouts)


@settings
class TeacherSentences(SampleWeight, kind="teacher_sentences"):
    """The `share` of responses with the most sentences of the teacher's, those clearly likelier to it.

    Divergence-aware sampling, DASD (2601.09088). A sentence is a step, its likelihood the geometric mean over its
    tokens. Ties are kept.
    """

    share: OpenShare = 0.5  # of responses that count
    needs = frozenset({"log_p", "log_q"})
    by_step = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        gap_BR, verdicts = (signals["log_p"] - signals["log_q"]).cpu(), rollouts.verdicts
        shares = []
        for row in range(len(rollouts)):
            spans = [(a, b) for a, b in zip(verdicts.start[row], verdicts.stop[row], strict=True) if 0 <= a < b]
            own = [bool(gap_BR[row, a:b].mean() > CLEARLY) for a, b in spans]
            shares.append(sum(own) / len(own) if own else 0.0)
        share_B = torch.tensor(shares, device=rollouts.prompt_B.device)
        return (share_B >= share_B.topk(max(1, round(self.share * len(shares)))).values[-1]).float()
