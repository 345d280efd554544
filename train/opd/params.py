"""Whose parameters score the responses, the first choice of a teacher: frozen models, copies of the student, an oracle.

Every choice answers `logprobs(rollouts, student)`; those that follow the student hear of each step through `follow`,
before its batch is drawn, and have a state that checkpoints keep. So step k is scored by the copies as they are after k
updates, whether or not the run was killed in between.

Legend: B rows, T columns, N response positions, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from synth.oracle import ABSTAINED, Oracle
from train.opd.rollouts import Rollouts, positions

IMPOSSIBLE = -1e4  # log-probability of what the oracle rules out: zero as a chance, and finite in sums


def frozen(model: GPT) -> GPT:
    """The model in evaluation mode with all gradients off."""
    return model.eval().requires_grad_(False)


def response_logprobs(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Tensor:
    """Log-probabilities of the next token at every response position.

    Only these positions go through the projection to the vocabulary, and the last column, which predicts nothing that
    is scored, is not read at all.

    Args:
        model: maps tokens and flat positions to logits at those positions.
        tokens_BT: int64, prompt and response, padded on the right.
        prompt_B, length_B: tokens of this model's prompt and of the response.
    Returns:
        float32[N, V], N = length_B.sum(), row after row.
    """
    row_N, time_N = positions(length_B)
    at_N = row_N * (tokens_BT.shape[1] - 1) + prompt_B[row_N] - 1 + time_N
    return torch.log_softmax(model(tokens_BT[:, :-1], at_N=at_N).float(), dim=-1)


def scored_by(model: GPT, rollouts: Rollouts) -> Tensor:
    """The model's log-probabilities of the responses, given what a teacher reads before them: float32[N, V]."""
    return response_logprobs(model, *rollouts.told(), rollouts.length_B)


class Frozen:
    """One model that never changes: an external checkpoint, or the student at step 0. The base of all choices."""

    def __init__(self, *models: GPT) -> None:
        self.models = [frozen(model) for model in models]

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step with the student's weights of that moment."""

    def logprobs(self, rollouts: Rollouts, student: GPT) -> Tensor:
        """float32[N, V] at the response positions, without gradient."""
        return scored_by(self.models[0], rollouts)

    def known(self, rollouts: Rollouts) -> Tensor | None:
        """bool[B, R]: where there is a target at all; None: everywhere."""
        return None

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        """The models that read these rows, and bool[B] which rows each reads, for the ledger."""
        return [(self.models[0], torch.ones_like(rollouts.prompt_B, dtype=torch.bool))]

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        """The models that could continue these rows, and bool[B] which each would; a row of none has no such model."""
        return self.reads(rollouts, student)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class ByOps(Frozen):
    """Several models: teacher i answers problems of at most bounds[i] operations, the last one all others."""

    def __init__(self, models: Sequence[GPT], bounds: Sequence[int]) -> None:
        super().__init__(*models)
        self.bounds = list(bounds)

    def _which(self, rollouts: Rollouts) -> Tensor:
        return torch.as_tensor(np.searchsorted(self.bounds, rollouts.problems.ops), device=rollouts.prompt_B.device)

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return [(model, self._which(rollouts) == i) for i, model in enumerate(self.models)]

    def logprobs(self, rollouts: Rollouts, student: GPT) -> Tensor:
        which_B = self._which(rollouts)
        row_N, _ = positions(rollouts.length_B)
        out_NV = None
        for i in which_B.unique().tolist():
            rows_M = (which_B == i).nonzero().squeeze(1)
            part_MV = scored_by(self.models[i], rollouts.rows(rows_M))
            if out_NV is None:
                out_NV = part_MV.new_empty(len(row_N), part_MV.shape[1])
            out_NV[(which_B == i)[row_N]] = part_MV
        assert out_NV is not None
        return out_NV


class MostLikely(Frozen):
    """Several models: each response is scored by the one that finds it likeliest, by its mean log-probability."""

    def logprobs(self, rollouts: Rollouts, student: GPT) -> Tensor:
        row_N, _ = positions(rollouts.length_B)
        all_MNV, which_B = self._scored(rollouts)
        return all_MNV[which_B[row_N], torch.arange(len(row_N), device=row_N.device)]

    def _scored(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Log-probabilities under each of M models, float32[M, N, V], and which finds each response likeliest."""
        row_N, time_N = positions(rollouts.length_B)
        token_N1 = rollouts.response_BR[row_N, time_N][:, None]
        all_MNV = torch.stack([scored_by(model, rollouts) for model in self.models])
        chosen_MN = all_MNV.gather(-1, token_N1.expand(len(self.models), -1, 1)).squeeze(-1)
        total_MB = chosen_MN.new_zeros(len(self.models), len(rollouts)).index_add(1, row_N, chosen_MN)
        return all_MNV, total_MB.argmax(dim=0)

    @torch.no_grad()
    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        _, which_B = self._scored(rollouts)
        return [(model, which_B == i) for i, model in enumerate(self.models)]

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return [(model, torch.ones_like(rollouts.prompt_B, dtype=torch.bool)) for model in self.models]


class Averaged(Frozen):
    """The exponential moving average of the student's weights: theta_T <- (1 - rate) theta_T + rate theta."""

    def __init__(self, student: GPT, rate: float) -> None:
        super().__init__(deepcopy(student))
        self.rate, self.step = rate, 0

    @torch.no_grad()
    def follow(self, student: GPT, step: int) -> None:
        if step > self.step:
            for mine, theirs in zip(self.models[0].parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs, self.rate)
            self.step = step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "weights": self.models[0].state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.models[0].load_state_dict(state["weights"])


class Synced(Averaged):
    """A copy of the student that is renewed every `every` steps (CRISP, 2603.05433)."""

    def __init__(self, student: GPT, every: int) -> None:
        super().__init__(student, 1.0)
        self.every = every

    def follow(self, student: GPT, step: int) -> None:
        if step % self.every == 0:
            super().follow(student, step)


class Live(Frozen):
    """The student itself as it is now, without gradient. It drifts with what it teaches; SDPO found it to diverge."""

    def __init__(self) -> None:
        super().__init__()

    def logprobs(self, rollouts: Rollouts, student: GPT) -> Tensor:
        return scored_by(student, rollouts)

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return [(model, torch.ones_like(rollouts.prompt_B, dtype=torch.bool)) for model in (*self.models, student)]


class Trust(Live):
    """A trust region around the student at step 0: p_0^(1-rate) p_now^rate, renormalised (SDPO, 2601.20802)."""

    def __init__(self, student: GPT, rate: float) -> None:
        super().__init__()
        self.models, self.rate = [frozen(deepcopy(student))], rate

    def logprobs(self, rollouts: Rollouts, student: GPT) -> Tensor:
        first_NV, now_NV = scored_by(self.models[0], rollouts), scored_by(student, rollouts)
        return torch.log_softmax(torch.lerp(first_NV, now_NV, self.rate), dim=-1)

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return []  # the law between two models is none of a model


class Exact(Frozen):
    """The generator's own law at every prefix, also an impossible one: a teacher without error (`synth.oracle`).

    Where the oracle abstains the row is uniform, and `known` says so. Costs no FLOPs of a model.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle

    def _law(self, rollouts: Rollouts):
        lengths = rollouts.length_B.tolist()
        rows = rollouts.response_BR.cpu().numpy()
        law = self.oracle(rollouts.problems, [row[:n] for row, n in zip(rows, lengths, strict=True)])
        inside = np.ones(len(law.status), dtype=bool)
        inside[law.rows[1:] - 1] = False  # what follows the last token is nobody's target
        return law, inside

    def logprobs(self, rollouts: Rollouts, student: GPT) -> Tensor:
        law, inside = self._law(rollouts)
        size = self.oracle.world.size
        dense_NV = law.dense(size)[inside]
        dense_NV[law.status[inside] == ABSTAINED] = -np.log(size)
        return torch.from_numpy(dense_NV).clamp(min=IMPOSSIBLE).to(rollouts.prompt_B.device)

    def known(self, rollouts: Rollouts) -> Tensor:
        law, inside = self._law(rollouts)
        known_BR = torch.zeros(rollouts.trainable_BR.shape, dtype=torch.bool)
        row_N, time_N = positions(rollouts.length_B.cpu())
        known_BR[row_N, time_N] = torch.from_numpy(law.status[inside] != ABSTAINED)
        return known_BR.to(rollouts.prompt_B.device)

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return []
