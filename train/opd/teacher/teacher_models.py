"""Whose parameters score the responses, the first choice of a teacher: frozen models, copies of the student, an oracle.

Every choice answers `law(rollouts, student)`, which makes log-probabilities of a few positions at a time; those that
follow the student hear of each step through `follow`, before its batch is drawn, and have a state that checkpoints
keep. So step k is scored by the copies as they are after k updates, whether or not the run was killed in between.

Legend: B rows, T columns, N response positions, n some of them, C channels, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gpt import GPT
from synth.oracle.next_token import ABSTAINED, Oracle
from train.opd.chunked_loss import blocks
from train.opd.rollouts import Rollouts, positions

Law = Callable[[slice], Tensor]  # log-probabilities float32[n, V] at some of a batch's response positions
IMPOSSIBLE = -1e4  # log-probability of what the oracle rules out: zero as a chance, and finite in sums


def frozen(model: GPT) -> GPT:
    """The model in evaluation mode with all gradients off."""
    return model.eval().requires_grad_(False)


class States(nn.Module):
    """A model's residual stream at response positions, as a module whose gradients processes can average."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Tensor:
        """[N, C], N = length_B.sum(), row after row: what the unembedding reads to predict the next token there.

        The last column, which predicts nothing that is scored, is not read at all.

        Args:
            tokens_BT: int64, prompt and response, padded on the right.
            prompt_B, length_B: tokens of this model's prompt and of the response.
        """
        row_N, time_N = positions(length_B)
        at_N = row_N * (tokens_BT.shape[1] - 1) + prompt_B[row_N] - 1 + time_N
        return self.model.hidden(tokens_BT[:, :-1], at_N=at_N)


def logprobs(states_NC: Tensor, weight_VC: Tensor) -> Tensor:
    """Log-probabilities of the next token, float32[N, V]."""
    return torch.log_softmax(F.linear(states_NC, weight_VC).float(), dim=-1)


@torch.no_grad()
def law_of(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Law:
    """A model's log-probabilities of the next token at response positions, made without gradient when asked for."""
    states_NC, weight_VC = States(model)(tokens_BT, prompt_B, length_B), model.unembedding
    return torch.no_grad()(lambda at: logprobs(states_NC[at], weight_VC))


def told_law(model: GPT, rollouts: Rollouts) -> Law:
    """The model's law of the responses, given what a teacher reads before them."""
    return law_of(model, *rollouts.told(), rollouts.length_B)


def chosen_law(laws: Sequence[Law], which_N: Tensor, place_N: Tensor) -> Law:
    """Position i has the law `which_N[i]`, at that law's own position `place_N[i]`."""

    def at(part: slice) -> Tensor:
        which_n, place_n = which_N[part], place_N[part]
        used = which_n.unique().tolist()
        found = torch.cat([laws[i](place_n[which_n == i]) for i in used])
        order_n = torch.cat([(which_n == i).nonzero().squeeze(1) for i in used])
        return torch.empty_like(found).index_copy_(0, order_n, found)

    return torch.no_grad()(at)


class Frozen:
    """One model that never changes: an external checkpoint, or the student at step 0. The base of all choices."""

    def __init__(self, *models: GPT) -> None:
        self.models = [frozen(model) for model in models]

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step with the student's weights of that moment."""

    def law(self, rollouts: Rollouts, student: GPT) -> Law:
        """Log-probabilities at the response positions, without gradient."""
        return told_law(self.models[0], rollouts)

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

    def law(self, rollouts: Rollouts, student: GPT) -> Law:
        which_B = self._which(rollouts)
        used = which_B.unique().tolist()
        laws = [told_law(self.models[i], rollouts.rows((which_B == i).nonzero().squeeze(1))) for i in used]
        which_N = torch.searchsorted(which_B.unique(), which_B)[positions(rollouts.length_B)[0]]
        mine_NI = which_N[:, None] == torch.arange(len(used), device=which_N.device)
        place_N = (mine_NI.cumsum(0) - 1).gather(1, which_N[:, None]).squeeze(1)
        return chosen_law(laws, which_N, place_N)


class MostLikely(Frozen):
    """Several models: each response is scored by the one that finds it likeliest, by its mean log-probability."""

    def law(self, rollouts: Rollouts, student: GPT) -> Law:
        row_N, _ = positions(rollouts.length_B)
        laws, which_B = self._scored(rollouts)
        return chosen_law(laws, which_B[row_N], torch.arange(len(row_N), device=row_N.device))

    def _scored(self, rollouts: Rollouts) -> tuple[list[Law], Tensor]:
        """The law of each model, and int[B] which of them finds each response likeliest."""
        row_N, time_N = positions(rollouts.length_B)
        token_N, size = rollouts.response_BR[row_N, time_N], self.models[0].config.vocab_size
        laws = [told_law(model, rollouts) for model in self.models]
        parts = blocks(rollouts.length_B, size)
        chosen_MN = torch.stack(
            [torch.cat([law(part).gather(-1, token_N[part, None]).squeeze(-1) for part in parts]) for law in laws]
        )
        total_MB = chosen_MN.new_zeros(len(laws), len(rollouts)).index_add(1, row_N, chosen_MN)
        return laws, total_MB.argmax(dim=0)

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

    def law(self, rollouts: Rollouts, student: GPT) -> Law:
        return told_law(student, rollouts)

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return [(model, torch.ones_like(rollouts.prompt_B, dtype=torch.bool)) for model in (*self.models, student)]


class Trust(Live):
    """A trust region around the student at step 0: p_0^(1-rate) p_now^rate, renormalised (SDPO, 2601.20802)."""

    def __init__(self, student: GPT, rate: float) -> None:
        super().__init__()
        self.models, self.rate = [frozen(deepcopy(student))], rate

    def law(self, rollouts: Rollouts, student: GPT) -> Law:
        first, now = told_law(self.models[0], rollouts), told_law(student, rollouts)
        return lambda at: torch.log_softmax(torch.lerp(first(at), now(at), self.rate), dim=-1)

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return []  # the law between two models is none of a model


class Exact(Frozen):
    """The generator's own law at every prefix, also an impossible one: a teacher without error (`synth.oracle.next_token`).

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

    def law(self, rollouts: Rollouts, student: GPT) -> Law:
        law, inside = self._law(rollouts)
        place_N, size = np.flatnonzero(inside), self.oracle.world.size

        def at(part: slice) -> Tensor:
            first, last = place_N[part][0], place_N[part][-1] + 1
            dense_nV = law.log_probs(size, slice(first, last))
            dense_nV[law.status[first:last] == ABSTAINED] = -np.log(size)
            dense_nV = torch.from_numpy(dense_nV[inside[first:last]]).clamp(min=IMPOSSIBLE)
            return dense_nV.to(rollouts.prompt_B.device)

        return at

    def known(self, rollouts: Rollouts) -> Tensor:
        law, inside = self._law(rollouts)
        known_BR = torch.zeros(rollouts.trainable_BR.shape, dtype=torch.bool)
        row_N, time_N = positions(rollouts.length_B.cpu())
        known_BR[row_N, time_N] = torch.from_numpy(law.status[inside] != ABSTAINED)
        return known_BR.to(rollouts.prompt_B.device)

    def reads(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return []
