"""External teachers: one checkpoint, or several of which each response is scored by one.

Legend: B rows, N response positions, M models.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from train.config.schema import Choice
from train.opd.chunked_loss import blocks
from train.opd.rollouts import Rollouts, positions
from train.opd.scored import LogProbs, of_token
from train.opd.teacher.scoring_models import ScoringModel, gathered, log_probs_with_context


class Route(Choice):
    """Which of several teachers scores a response."""

    @abstractmethod
    def models(self, checkpoints: Sequence[GPT]) -> ScoringModel:
        """Raises ValueError when the number of checkpoints is not that of the route."""


def check_number(checkpoints: Sequence[GPT], wanted: int, route: str) -> None:
    """Raise ValueError unless there are as many checkpoints as the route takes."""
    if len(checkpoints) != wanted:
        raise ValueError(f"teachers: {len(checkpoints)} checkpoints with teacher.route={route}; accepted: {wanted}")


@dataclass(frozen=True)
class RouteByOps(Route, kind="ops"):
    """bounds: problems of up to bounds[i] operations go to teacher i, all others to the last."""

    bounds: list[int] = field(default_factory=lambda: [2])

    def __post_init__(self) -> None:
        if not self.bounds or sorted(set(self.bounds)) != list(self.bounds):
            raise ValueError(f"teacher.route.bounds={self.bounds}: accepted are rising numbers of operations")

    def models(self, checkpoints: Sequence[GPT]) -> ScoringModel:
        check_number(checkpoints, len(self.bounds) + 1, "ops")
        return ByOps(checkpoints, self.bounds)


@dataclass(frozen=True)
class RouteToLikeliest(Route, kind="likeliest"):
    """Each response goes to the teacher that finds it likeliest."""

    def models(self, checkpoints: Sequence[GPT]) -> ScoringModel:
        check_number(checkpoints, max(2, len(checkpoints)), "likeliest")
        return MostLikely(*checkpoints)


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
        row_N, time_N = positions(rollouts.length_B)
        token_N, size = rollouts.response_BR[row_N, time_N], self.models[0].config.vocab_size
        sources = [log_probs_with_context(model, rollouts) for model in self.models]
        parts = blocks(rollouts.length_B, size)
        own_MN = torch.stack([torch.cat([of_token(source(at), token_N[at]) for at in parts]) for source in sources])
        total_MB = own_MN.new_zeros(len(sources), len(rollouts)).index_add(1, row_N, own_MN)
        return sources, total_MB.argmax(dim=0)

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        _, which_B = self._scored(rollouts)
        return [(model, which_B == i) for i, model in enumerate(self.models)]
