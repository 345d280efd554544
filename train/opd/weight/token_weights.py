"""Weights of single response positions: masks, entropies, importance. They multiply with each other.

Legend: B rows, R response columns.
"""

from abc import abstractmethod
from math import log
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from synth.kernel.rng import key
from synth.problem.arrays import Problems, dependencies
from synth.ranges import AboveZero, Count, NotNegative, Positive, Range, Share, settings
from synth.world.vocabulary import EOS, SPECIALS
from train.config.schema import Choice
from train.opd.log_probs import Signals
from train.opd.rollout_batch import Rollouts
from train.opd.schedule import OpenShare


class TokenWeight(Choice):
    """A weight of every response position. needs: signals that it reads. by_step: whether it asks the checker where
    steps are, so that a row must hold one solution. drops: whether tokens of weight 0 are not counted either.
    mean_one: whether the weights are divided by their mean over the tokens that count."""

    drops = False
    mean_one = False
    needs: frozenset[str] = frozenset()
    by_step = False

    @abstractmethod
    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        """float[B, R], for a whole batch."""


def columns(rollouts: Rollouts) -> Tensor:
    """int64[1, R]: the place of each response column."""
    return torch.arange(rollouts.trainable_BR.shape[1], device=rollouts.prompt_B.device)[None]


def top(value_BR: Tensor, share: float, rollouts: Rollouts) -> Tensor:
    """1 at the `share` of all trainable positions where the value is highest: from its 1 - share quantile on."""
    inside_BR = rollouts.trainable_BR
    return ((value_BR >= quantile(value_BR[inside_BR], share)) & inside_BR).to(value_BR.dtype)


def quantile(value_N: Tensor, share: float) -> float:
    """What a `share` of the values reaches, on a line between two of them."""
    return float(value_N.quantile(round(1.0 - share, 12))) if len(value_N) else 0.0


def mistake_start(rollouts: Rollouts) -> Tensor:
    """int64[B, 1]: first token of the first wrong step, beyond the response where there is none."""
    verdicts = rollouts.verdicts
    never = rollouts.trainable_BR.shape[1]
    starts = [never if step < 0 else int(verdicts.start[row, step]) for row, step in enumerate(verdicts.first_mistake)]
    return torch.tensor(starts, device=rollouts.prompt_B.device)[:, None]


@settings
class DropFirst(TokenWeight, kind="first"):
    """Drops the first `skip` tokens, where a teacher speaks about the context that it read (SDFT, 2601.19897)."""

    skip: Count = 2  # tokens dropped at the start
    drops = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (columns(rollouts) >= self.skip).float()


@settings
class DropSpecial(TokenWeight, kind="special"):
    """Drops special tokens, the end excepted: without it stopping would not be learned (Revisiting OPD, 2603.25562).

    tokens: those to drop, in place of all special tokens but the end. first_only: only where a token stands for the
    first time in a response, as the released code has it.
    """

    tokens: list[int] | None = None
    first_only: bool = False
    drops = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        response_BR = rollouts.response_BR
        wanted = [t for t in range(len(SPECIALS)) if t != EOS] if self.tokens is None else self.tokens
        kept_BR = torch.ones_like(response_BR, dtype=torch.bool)
        for token in wanted:
            is_BR = response_BR == token
            kept_BR &= ~(is_BR & (is_BR.cumsum(dim=1) == 1)) if self.first_only else ~is_BR
        return kept_BR.float()


@settings
class BeforeMistake(TokenWeight, kind="before_mistake"):
    """Only what comes before the first wrong step; all of a response without one (ours)."""

    by_step = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (columns(rollouts) < mistake_start(rollouts)).float()


@settings
class AfterMistake(BeforeMistake, kind="after_mistake"):
    """Only the first wrong step and what follows; nothing of a response without one (ours)."""

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return 1.0 - super().__call__(rollouts, signals)


def uses(problems: Problems) -> np.ndarray:
    """int64[B, slots]: how many of the parameters that the query needs depend on a parameter, directly or not."""
    counts = np.zeros(problems.value.shape, dtype=np.int64)
    for row in range(len(counts)):
        problem = problems.take(row)
        users: dict[int, set[int]] = {}
        for slot in reversed([int(slot) for slot in problem.topo[0] if slot >= 0]):
            for below in dependencies(problem, slot):
                users.setdefault(below, set()).update({slot}, users.get(slot, set()))
        for slot, found in users.items():
            counts[row, slot] = len(found)
    return counts


@settings
class Structure(TokenWeight, kind="structure"):
    """Tokens of a step count 1 + strength times the number of needed parameters that depend on what it defines, over
    the mean: early links of the dependency graph carry the rest (ours, after structural alignment)."""

    strength: AboveZero = 1.0  # of the weight of early links
    mean_one = True
    by_step = True

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        verdicts, counts = rollouts.verdicts, uses(rollouts.problems)
        weight_BR = torch.ones_like(rollouts.behaviour_BR)
        for row, step in zip(*np.nonzero((verdicts.start >= 0) & (verdicts.param >= 0)), strict=True):
            span = slice(int(verdicts.start[row, step]), int(verdicts.stop[row, step]))
            weight_BR[row, span] += self.strength * float(counts[row, verdicts.param[row, step]])
        return weight_BR


@settings
class TopEntropy(TokenWeight):
    """Only the `share` of positions where an entropy is highest: the signal that has the option's name."""

    share: OpenShare = 0.2  # of positions that count

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return top(signals[self.kind], self.share, rollouts)


@settings
class TopTeacherEntropy(TopEntropy, kind="teacher_entropy"):
    """Only where the teacher is most uncertain: the top `share` by H_p (EOPD, 2603.07079, by a threshold in nats)."""

    needs = frozenset({"teacher_entropy"})


@settings
class TopStudentEntropy(TopEntropy, kind="student_entropy"):
    """Only where the student is most uncertain: the top `share` by H_q (REOPOLD, 2603.11137, in its second phase)."""

    share: OpenShare = 0.5
    needs = frozenset({"student_entropy"})


@settings
class Confident(TokenWeight, kind="confident"):
    """exp(-beta H_p) over its mean: the teacher counts where it is sure (SRPO, 2604.02288)."""

    beta: AboveZero = 1.0  # in exp(-beta entropy)
    mean_one = True
    needs = frozenset({"teacher_entropy"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (-self.beta * signals["teacher_entropy"]).exp()


@settings
class Favoured(TokenWeight, kind="favoured"):
    """Only tokens that the teacher gives a chance above the student's by more than `threshold` (AOPD, 2605.06387)."""

    threshold: Annotated[float, Range(-1, 1)] = 0.0  # by how much the teacher's probability is above the student's
    needs = frozenset({"log_p", "log_q"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (signals["log_p"].exp() - signals["log_q"].exp() > self.threshold).to(rollouts.behaviour_BR.dtype)


@settings
class Disfavoured(Favoured, kind="disfavoured"):
    """Only the tokens that `favoured` leaves out."""

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return 1.0 - super().__call__(rollouts, signals)


@settings
class Accepted(TokenWeight, kind="accepted"):
    """Full weight where the student's favourite is among the teacher's `k` likeliest tokens, `rejected` elsewhere
    (SelecTKD, 2510.24021)."""

    k: Positive = 5  # the teacher's likeliest tokens
    rejected: Share = 0.0  # weight where the student's favourite is none of them
    needs = frozenset({"favourite_rank"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        accepted_BR = (signals["favourite_rank"] < self.k).to(rollouts.behaviour_BR.dtype)
        return accepted_BR + self.rejected * (1.0 - accepted_BR)


@settings
class EntropyGap(TokenWeight, kind="entropy_gap"):
    """sigmoid(H_S - H_T): more where the student is less certain than the teacher (TSD-KD, 2603.13260)."""

    needs = frozenset({"student_entropy", "teacher_entropy"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return torch.sigmoid(signals["student_entropy"] - signals["teacher_entropy"])


@settings
class Tip(TokenWeight, kind="tip"):
    """The top `share` of u = h + d - h d, h entropy over log V, d reverse KL over its largest in the batch (TIP)."""

    share: OpenShare = 0.5  # of positions that count
    needs = frozenset({"student_entropy", "rkl"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        h_BR = signals["student_entropy"] / log(signals.vocabulary)
        d_BR = signals["rkl"] / signals["rkl"].max().clamp(min=1e-12)
        return top(h_BR + d_BR - h_BR * d_BR, self.share, rollouts)


@settings
class TipDraw(TokenWeight, kind="tip_draw"):
    """`share` of the tokens, drawn with weights (H / log V)^alpha (JSD / log 2)^gamma (released code of TIP)."""

    share: OpenShare = 0.5  # of tokens drawn
    alpha: NotNegative = 1.0  # power of the entropy
    gamma: NotNegative = 1.0  # power of the divergence
    drops = True
    needs = frozenset({"student_entropy", "jsd"})

    def chances(self, signals: Signals) -> Tensor:
        """The weights of the draw, up to a factor: float[B, R]."""
        h_BR, d_BR = signals["student_entropy"] / log(signals.vocabulary), signals["jsd"] / log(2.0)
        return h_BR.clamp(min=1e-8) ** self.alpha * d_BR.clamp(min=1e-8) ** self.gamma

    def draw(self, chance_N: Tensor, seed: int) -> Tensor:
        """Places of the drawn tokens, each at most once: int64[share of N]. The seed is that of the batch."""
        generator = torch.Generator().manual_seed(key(seed, "tip draw", 0))
        return torch.multinomial(chance_N.cpu(), int(self.share * len(chance_N)), generator=generator)

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        inside_BR, drawn_BR = rollouts.trainable_BR, torch.zeros_like(signals["jsd"])
        chance_N = self.chances(signals)[inside_BR]
        drawn_N = torch.zeros_like(chance_N)
        drawn_N[self.draw(chance_N, rollouts.first).to(chance_N.device)] = 1.0
        return drawn_BR.masked_scatter(inside_BR, drawn_N)


@settings
class Opener(TokenWeight, kind="opener"):
    """The smallest prefix of each response that holds `share` of the student's entropy over it, alone (TSD-KD).

    flat: as released: one prefix for all, of as many columns as tokens of the batch in a row, without the one that
    reaches the share.
    """

    share: OpenShare = 0.1  # of the response's entropy that the prefix holds
    flat: bool = False
    drops = True
    needs = frozenset({"student_entropy"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        entropy_BR = signals["student_entropy"]
        if self.flat:
            entropy_N = entropy_BR[rollouts.trainable_BR]
            short_N = (entropy_N / entropy_N.sum()).cumsum(dim=0) < self.share
            return (columns(rollouts) < short_N.sum()).to(entropy_BR.dtype)
        before_BR = entropy_BR.cumsum(dim=1) - entropy_BR
        return (before_BR < self.share * entropy_BR.sum(dim=1, keepdim=True)).float()


@settings
class EarlyTokens(TokenWeight, kind="early"):
    """1 + gamma (1 - share of the response's |log p/q| that lies before): early tokens more (IW-OPD, 2606.22600).

    frozen: the log-ratio to the sampling distribution, which stays while a batch is used again.
    """

    gamma: AboveZero = 0.5  # how much more the first tokens count
    frozen: bool = False
    needs = frozenset({"log_p", "log_q"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        old_BR = rollouts.behaviour_BR if self.frozen else signals["log_q"]
        size_BR = (signals["log_p"] - old_BR).abs() * rollouts.trainable_BR
        share_BR = (size_BR.cumsum(dim=1) - size_BR) / size_BR.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return 1.0 + self.gamma * (1.0 - share_BR)


@settings
class ImportanceWeight(TokenWeight, kind="importance"):
    """min(q(y) / mu(y), cap): corrects for tokens that another distribution drew (SDPO caps at 2)."""

    cap: AboveZero = 2.0  # the most that the ratio counts
    needs = frozenset({"log_q"})

    def __call__(self, rollouts: Rollouts, signals: Signals) -> Tensor:
        return (signals["log_q"] - rollouts.behaviour_BR).exp().clamp(max=self.cap)
