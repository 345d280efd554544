"""The terms of a step's loss, all of one form: at each response position a number times what the position counts.

The invariant that matters: what a position counts is fixed for the whole batch before the first forward pass with
gradient, so a term is a plain sum, and cutting the batch into micro-batches changes nothing.

Legend: B rows, R response columns, M rows of a micro-batch, N response positions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from models.gpt import GPT
from train.opd.diagnostics.measures import PositionMeasures, StepTotals
from train.opd.divergence.interface_and_topk import Divergence
from train.opd.log_probs import Scored, Signals, Targets, advantage, token_log_probs
from train.opd.outcome.outcome import GroupOutcome
from train.opd.rollout_batch import Prompts, Rollouts, positions
from train.opd.teacher.context import add_contexts
from train.opd.teacher.teacher import Teacher

BRAKES = ("ref_kl", "ref_k2", "ref_k3", "entropy")  # names of terms that hold the student without a target


@dataclass(frozen=True)
class LossTerm:
    """`coefficient` times the sum over positions of count times loss. count_BR: without gradient, 0 on padding."""

    name: str
    count_BR: Tensor
    loss: Callable[[Scored], Tensor]
    coefficient: float = 1.0

    def rows(self, index_M: Tensor) -> "LossTerm":
        """The term over some rows of its batch."""
        return replace(self, count_BR=self.count_BR[index_M])

    @property
    def teaches_BR(self) -> Tensor:
        """bool[B, R]: the positions that the term learns from."""
        return self.count_BR != 0.0

    def __call__(self, scored: Scored) -> Tensor:
        """The part of some positions; those of a batch add up."""
        return self.coefficient * (self.count_BR[scored.row_N, scored.time_N] * self.loss(scored)).sum()

    def measures(self, scored: Scored) -> dict[str, Tensor]:
        """What is logged about the term at each position, float[N] by name."""
        return {}


@dataclass(frozen=True)
class DistillationTerm(LossTerm):
    """A term that follows the teacher, or the response itself. Logs where a clip acts: clip_divergence."""

    loss: Divergence

    def measures(self, scored: Scored) -> dict[str, Tensor]:
        clipped_N = self.loss.clipped(scored)
        return {} if clipped_N is None else {"clip_divergence": clipped_N.float()}


@dataclass(frozen=True)
class OutcomeTerm(LossTerm):
    """The policy gradient of the verifier's reward. Logs where the ratio is clipped (clip_share), and where the teacher
    would move the token the other way than the outcome does (sign_conflict)."""

    outcome: GroupOutcome = field(kw_only=True)
    advantage_BR: Tensor = field(kw_only=True)
    guest_B: Tensor = field(kw_only=True)

    @property
    def teaches_BR(self) -> Tensor:
        """bool[B, R]: without an advantage a response teaches nothing."""
        return (self.count_BR != 0.0) & (self.advantage_BR != 0.0)

    def rows(self, index_M: Tensor) -> "OutcomeTerm":
        tracks = (self.count_BR, self.advantage_BR, self.guest_B)
        own = outcome_term(self.outcome, *(track[index_M] for track in tracks))
        return replace(own, name=self.name, coefficient=self.coefficient)

    def measures(self, scored: Scored) -> dict[str, Tensor]:
        found = {}
        if self.outcome.clip is not None:
            found["clip_share"] = self.outcome.clipped(scored, self.advantage_BR).float()
        if scored.teacher_NV is not None:
            own_N = self.advantage_BR[scored.row_N, scored.time_N]
            found["sign_conflict"] = (advantage(scored) * own_N < 0.0).float()
        return found


def outcome_term(outcome: GroupOutcome, count_BR: Tensor, advantage_BR: Tensor, guest_B: Tensor) -> OutcomeTerm:
    """The term of a batch, or of some of its rows."""

    def loss(scored: Scored) -> Tensor:
        return outcome.policy_gradient(scored, advantage_BR, guest_B)

    return OutcomeTerm("outcome", count_BR, loss, outcome=outcome, advantage_BR=advantage_BR, guest_B=guest_B)


@torch.no_grad()
def term_measures(terms: Sequence[LossTerm], scored: Scored) -> dict[str, Tensor]:
    """What the terms log at each position; of a measure that several have, the largest."""
    found: dict[str, Tensor] = {}
    for term in terms:
        for name, value_N in term.measures(scored).items():
            found[name] = torch.maximum(found[name], value_N) if name in found else value_N
    return found


def signal_shares(terms: Sequence[LossTerm], group_B: Tensor) -> dict[str, float]:
    """The share of responses, and of prompts (group_B), at which a term learns that is more than a brake: signal,
    signal_groups. A reward that all responses to a prompt share, or a weight of nought, teaches nothing."""
    teaches_B = torch.zeros(len(group_B), dtype=torch.bool, device=group_B.device)
    for term in terms:
        if term.name not in BRAKES:
            teaches_B |= term.teaches_BR.any(dim=1)
    groups = max(1, len(group_B.unique()))
    return {
        "signal": float(teaches_B.float().mean()) if len(group_B) else 0.0,
        "signal_groups": len(group_B[teaches_B].unique()) / groups,
    }


class MicroBatch:
    """Some rows of a batch, `index_M`, and the targets for them, which the teacher is asked for once."""

    def __init__(self, index_M: Tensor, rollouts: Rollouts, ask: Callable[[Rollouts], Targets]) -> None:
        self.index_M, self.rollouts, self._ask = index_M, rollouts, ask
        self._targets: Targets | None = None

    def targets(self, keep: bool = False) -> Targets:
        """Log-probabilities of teacher and reference; kept for the next call or let go."""
        targets = self._ask(self.rollouts) if self._targets is None else self._targets
        self._targets = targets if keep else None
        return targets


@dataclass(frozen=True)
class LossBatch:
    """Rows that a step learns from, cut into this process's micro-batches, and the terms that are summed over them.

    logged: whether its positions are measured for the log.
    """

    rollouts: Rollouts
    parts: list[MicroBatch]
    terms: list[LossTerm]
    logged: bool = False


@dataclass(frozen=True)
class Step:
    """A step under way: what further terms may need to know of it, and where its numbers are noted.

    number: of the step; batch: the index of its prompts. cut: rows of each micro-batch of this process.
    """

    model: GPT
    number: int
    batch: int
    rollouts: Rollouts
    prompts: Prompts
    teacher: Teacher
    cut: Callable[[Rollouts], list[Tensor]]
    totals: StepTotals
    positions: PositionMeasures
    signals: Signals | None = None

    def parts(self, rollouts: Rollouts, asks: bool) -> list[MicroBatch]:
        """The micro-batches of some rows; asks: whether the teacher is asked for its targets there."""
        ask = self._ask if asks else lambda part: (None, None)
        return [MicroBatch(index_M, rollouts.rows(index_M), ask) for index_M in self.cut(rollouts) if len(index_M)]

    @torch.no_grad()
    def contrast(self) -> Tensor:
        """log of the mean, over the teacher's contrasting contexts, of the chance that it gives each response token:
        float[B, R], 0 where the row lacks such a context or the teacher's own, or another process scores it."""
        config, limit = self.teacher.config, self.teacher.context_limit(self.model)
        found = torch.full((config.contrasts, *self.rollouts.behaviour_BR.shape), -torch.inf)
        found = found.to(self.rollouts.behaviour_BR)
        for k in range(config.contrasts):
            with_context = add_contexts(
                self.rollouts, config.contrast, self.prompts, self.batch, limit, f"contrast {k}"
            )
            for part in self.parts(with_context, asks=True):
                (row_N, time_N), teacher = positions(part.rollouts.length_B), part.targets()[0]
                if teacher is None:
                    continue
                own_N = token_log_probs(teacher, part.rollouts, self.model.config.vocab_size)
                shown_N = (part.rollouts.has_context_B & self.rollouts.has_context_B[part.index_M])[row_N]
                found[k, part.index_M[row_N], time_N] = torch.where(shown_N, own_N, -torch.inf)
        count_BR = (found > -torch.inf).sum(dim=0)
        return torch.where(count_BR > 0, found.logsumexp(dim=0) - count_BR.clamp(min=1).log(), 0.0)

    def _ask(self, part: Rollouts) -> Targets:
        started = time.perf_counter()
        targets = self.teacher.targets(part, self.model)
        self.totals.add_teacher(*self.teacher.cost(part, self.model), time.perf_counter() - started)
        return targets


class Extension(Protocol):
    """A part of a method that learns from further rows, or changes what the responses' positions count."""

    def extend(self, batches: list[LossBatch], step: Step) -> list[LossBatch]:
        """The step's batches, the responses first, with what the part changes and adds."""
        ...
