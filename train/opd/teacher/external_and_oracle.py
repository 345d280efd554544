"""Teachers from outside: a checkpoint, several of which each response is scored by one, the exact oracle, or none.

Legend: B rows, N response positions, M models.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from models.decode.sampling import token_logprobs
from models.gpt import GPT
from synth.dataset import Source
from synth.oracle.next_token import ABSTAINED, POLICIES, Oracle
from synth.ranges import OneOf, Positive, Range, settings
from synth.spec import Spec
from train.evaluation.evaluator import PassConfig, sample_solutions
from train.opd.log_probs import LogProbs, token_log_probs
from train.opd.rollout_batch import Rollouts, positions, votes
from train.opd.teacher.teacher import (
    Frozen,
    ReadingTeacher,
    Route,
    ScoringModel,
    TeacherConfig,
    gathered,
    log_probs_with_context,
)
from train.opd.teacher.transforms import Identity, Transform

IMPOSSIBLE = -1e4  # log-probability of what the oracle rules out: zero as a chance, and finite in sums


class Exact(ScoringModel):
    """The oracle's distribution at every prefix, also an impossible one: a teacher without error.

    Where the oracle abstains the row is uniform, and `has_target` says so. Costs no FLOPs of a model.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle

    def _next_token(self, rollouts: Rollouts):
        """The oracle's answer, and bool[positions]: all but what follows a response's last token."""
        lengths = rollouts.length_B.tolist()
        rows = rollouts.response_BR.cpu().numpy()
        found = self.oracle(rollouts.problems, [row[:n] for row, n in zip(rows, lengths, strict=True)])
        inside = np.ones(len(found.status), dtype=bool)
        inside[found.rows[1:] - 1] = False
        return found, inside

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        found, inside = self._next_token(rollouts)
        place_N, size = np.flatnonzero(inside), self.oracle.world.size

        def at(block: slice) -> Tensor:
            first, last = place_N[block][0], place_N[block][-1] + 1
            dense_nV = found.log_probs(size, slice(first, last))
            dense_nV[found.status[first:last] == ABSTAINED] = -np.log(size)
            dense_nV = torch.from_numpy(dense_nV[inside[first:last]]).clamp(min=IMPOSSIBLE)
            return dense_nV.to(rollouts.prompt_B.device)

        return at

    def has_target(self, rollouts: Rollouts) -> Tensor:
        found, inside = self._next_token(rollouts)
        has_target_BR = torch.zeros(rollouts.trainable_BR.shape, dtype=torch.bool)
        row_N, time_N = positions(rollouts.length_B.cpu())
        has_target_BR[row_N, time_N] = torch.from_numpy(found.status[inside] != ABSTAINED)
        return has_target_BR.to(rollouts.prompt_B.device)


def check_number(checkpoints: Sequence[GPT], wanted: int, route: str) -> None:
    """Raise ValueError unless there are as many checkpoints as the route takes."""
    if len(checkpoints) != wanted:
        raise ValueError(f"teachers: {len(checkpoints)} checkpoints with teacher.route={route}; accepted: {wanted}")


@settings
class RouteByOps(Route, kind="ops"):
    """bounds: problems of up to bounds[i] operations go to teacher i, all others to the last."""

    bounds: list[int] = field(default_factory=lambda: [2])

    def __post_init__(self) -> None:
        if not self.bounds or sorted(set(self.bounds)) != list(self.bounds):
            raise ValueError(f"teacher.route.bounds={self.bounds}: accepted are rising numbers of operations")

    def models(self, checkpoints: Sequence[GPT], student: GPT, spec: Spec | None) -> ScoringModel:
        check_number(checkpoints, len(self.bounds) + 1, "ops")
        return ByOps(checkpoints, self.bounds)


@settings
class RouteToLikeliest(Route, kind="likeliest"):
    """Each response goes to the teacher that finds it likeliest."""

    def models(self, checkpoints: Sequence[GPT], student: GPT, spec: Spec | None) -> ScoringModel:
        check_number(checkpoints, max(2, len(checkpoints)), "likeliest")
        return MostLikely(*checkpoints)


@settings
class Selection(Route, kind="selected"):
    """One teacher for the whole run, chosen before it by `samples` answers of each to `problems` training problems,
    without labels: whose answers agree most with their majority (by=agreement), or are likeliest to the student
    (by=student)."""

    problems: Positive = 64  # of the training split, to choose by
    samples: Annotated[int, Range(2)] = 4  # answers to each
    by: Literal["agreement", "student"] = "agreement"  # of its answers, or their likelihood to the student
    chooses = True

    def models(self, checkpoints: Sequence[GPT], student: GPT, spec: Spec | None) -> ScoringModel:
        check_number(checkpoints, max(2, len(checkpoints)), "selected")
        if spec is None:
            raise RuntimeError("teacher.route=selected: no data to choose by")
        source = Source(spec, 0, "train", "teacher selection")
        scores = [self._score(teacher, student, source) for teacher in checkpoints]
        best = int(np.argmax(scores))
        found = Frozen(checkpoints[best])
        found.choice = {"by": self.by, "scores": scores, "chosen": best}
        return found

    @torch.no_grad()
    def _score(self, teacher: GPT, student: GPT, source: Source) -> float:
        """Mean share of a problem's answers that are its most frequent one, or mean log-probability of their tokens."""
        drawn = sample_solutions(teacher, source, PassConfig(self.samples, self.problems), 0)
        if self.by == "agreement":
            return float(votes(drawn.verdicts.answer.reshape(-1, self.samples)).max(axis=1).mean() / self.samples)
        device, total = student.embed.weight.device, 0.0
        for row, n in enumerate(drawn.length):
            prompt = drawn.documents.prompt_tokens(row)
            text_T = torch.tensor(np.append(prompt, drawn.tokens_NR[row, :n]), device=device)
            total += float(token_logprobs(student, text_T[None])[0, len(prompt) - 1 :].mean()) / len(drawn.length)
        return total


class ByOps(ScoringModel):
    """Several models: teacher i answers problems of at most bounds[i] operations, the last one all others."""

    def __init__(self, models: Sequence[GPT], bounds: Sequence[int]) -> None:
        super().__init__(*models)
        self.bounds = list(bounds)

    def _which(self, rollouts: Rollouts) -> Tensor:
        return torch.as_tensor(np.searchsorted(self.bounds, rollouts.problems.ops), device=rollouts.prompt_B.device)

    def readers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return [(model, self._which(rollouts) == i) for i, model in enumerate(self.models)]

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        which_B = self._which(rollouts)
        used = which_B.unique().tolist()
        of_rows = [rollouts.rows((which_B == i).nonzero().squeeze(1)) for i in used]
        sources = [log_probs_with_context(self.models[i], rows) for i, rows in zip(used, of_rows, strict=True)]
        which_N = torch.searchsorted(which_B.unique(), which_B)[positions(rollouts.length_B)[0]]
        own_NI = which_N[:, None] == torch.arange(len(used), device=which_N.device)
        place_N = (own_NI.cumsum(0) - 1).gather(1, which_N[:, None]).squeeze(1)
        return gathered(sources, which_N, place_N)


class MostLikely(ScoringModel):
    """Several models: each response is scored by the one that finds it likeliest, by its mean log-probability."""

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        row_N, _ = positions(rollouts.length_B)
        sources, which_B = self._scored(rollouts)
        return gathered(sources, which_B[row_N], torch.arange(len(row_N), device=row_N.device))

    def _scored(self, rollouts: Rollouts) -> tuple[list[LogProbs], Tensor]:
        """The log-probabilities of each model, and int[B] which of them finds each response likeliest."""
        row_N, size = positions(rollouts.length_B)[0], self.models[0].config.vocab_size
        sources = [log_probs_with_context(model, rollouts) for model in self.models]
        own_MN = torch.stack([token_log_probs(source, rollouts, size) for source in sources])
        total_MB = own_MN.new_zeros(len(sources), len(rollouts)).index_add(1, row_N, own_MN)
        return sources, total_MB.argmax(dim=0)

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        _, which_B = self._scored(rollouts)
        return [(model, which_B == i) for i, model in enumerate(self.models)]


@settings
class NoTeacher(TeacherConfig, kind="none"):
    """Nothing scores the responses."""

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> None:
        return None


@settings
class OracleTeacher(TeacherConfig, kind="oracle"):
    """The generator's own distribution; policy: continue | correct | abstain, for what follows a mistake."""

    policy: Annotated[str, OneOf(*POLICIES)] = "continue"
    transform: Transform = field(default_factory=Identity)

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        if spec is None:
            raise RuntimeError("teacher=oracle: no data whose distribution it could know")
        return Exact(Oracle(spec, self.policy))


@settings
class ExternalTeacher(ReadingTeacher, kind="external"):
    """The checkpoint named by `teacher`; with a route, one of several (`teacher` and `teachers`) for each response."""

    route: Route | None = None

    @property
    def one_model(self) -> bool:
        return self.route is None or self.route.chooses

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        if not checkpoints:
            raise ValueError("teacher=null: this method's teacher=external needs the path of a checkpoint")
        if self.route is not None:
            return self.route.models(checkpoints, student, spec)
        check_number(checkpoints, 1, "null")
        return Frozen(*checkpoints)
