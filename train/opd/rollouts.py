"""The one batch record of distillation: prompts with responses, where they came from and what the checker says.

The invariant that matters: response token t (from 0) of row b stands at column prompt_B[b] + t of `tokens_BT`, and the
model's output at column prompt_B[b] + t - 1 predicts it. Rows are padded on the right only; a response includes its
end-of-sequence token, and a response without one was cut at the token budget.

Legend: B rows, T columns (prompt and response), R response columns, N response positions, row after row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from synth.judge.checker import Verdicts
from synth.problem.arrays import Problems
from synth.world.vocabulary import EOS, PAD

ORIGINS = ("student", "gold", "teacher", "spliced", "revision")  # who wrote a response


@dataclass(frozen=True)
class Rollouts:
    """Responses of one step. All tensors are on one device.

    tokens_BT: int64, prompt and response, padded with `pad`.
    prompt_B, length_B: int64, tokens of the prompt and of the response (its end-of-sequence token counted).
    trainable_BR: bool, response tokens that may be learned from: False on padding, and on the tokens that a document's
        own label mask leaves out.
    behaviour_BR: float32, log-probability of each response token under the distribution it was drawn from (for gold
        documents the generator's own), 0 on padding.
    group_B: int64, which prompt of the step the row answers.
    origin_B: int64, index in ORIGINS.
    problems: what is asked, one for each row.
    verdicts: the checker's judgement of each row.
    first: index in the stream of the prompt of group 0.
    eos, pad: the end-of-sequence and the padding token.
    context: what a teacher reads before the prompt of each row, tokens of its sections; () without any
        (`teacher/teacher_prompt.py`).
    """

    tokens_BT: Tensor
    prompt_B: Tensor
    length_B: Tensor
    trainable_BR: Tensor
    behaviour_BR: Tensor
    group_B: Tensor
    origin_B: Tensor
    problems: Problems
    verdicts: Verdicts
    eos: int = EOS
    pad: int = PAD
    first: int = 0
    context: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_B)

    @property
    def has_context_B(self) -> Tensor:
        """bool[B]: whether the teacher reads anything beyond the prompt."""
        return torch.tensor([len(context) > 0 for context in self.context or [()] * len(self)]).to(self.prompt_B.device)

    def with_contexts(self) -> tuple[Tensor, Tensor]:
        """Tokens and prompt lengths as the teacher reads them; the same tensors where no row has a context."""
        if not any(self.context):
            return self.tokens_BT, self.prompt_B
        lengths, tokens = self.prompt_B.tolist(), self.tokens_BT.tolist()
        prompts = [[*c, *row[:n]] for c, row, n in zip(self.context, tokens, lengths, strict=True)]
        return join(prompts, self.response_BR, self.length_B, self.pad)

    @property
    def response_BR(self) -> Tensor:
        """int64[B, R]: the responses alone, padded with `pad`."""
        return responses(self.tokens_BT, self.prompt_B, self.length_B, self.pad)

    @property
    def finished_B(self) -> Tensor:
        """bool[B]: whether the response ended by itself, that is by its end-of-sequence token."""
        last_B1 = (self.prompt_B + self.length_B - 1)[:, None]
        return (self.tokens_BT.gather(1, last_B1).squeeze(1) == self.eos) & (self.length_B > 0)

    def rows(self, index_M: Tensor) -> "Rollouts":
        """The chosen rows, in that order, with columns that only padded other rows cut off."""
        take = index_M.cpu().numpy()
        n_columns = int((self.prompt_B + self.length_B)[index_M].max())
        n_response = int(self.length_B[index_M].max())
        return replace(
            self,
            tokens_BT=self.tokens_BT[index_M, :n_columns],
            trainable_BR=self.trainable_BR[index_M, :n_response],
            behaviour_BR=self.behaviour_BR[index_M, :n_response],
            problems=self.problems.take(take),
            verdicts=Verdicts(*(field[take] for field in self.verdicts)),
            context=tuple(self.context[row] for row in take) if self.context else (),
            **{name: getattr(self, name)[index_M] for name in ("prompt_B", "length_B", "group_B", "origin_B")},
        )

    def chunks(self, size: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
        """Row indices in blocks of at most `size` rows (0: all at once), sorted by length so that blocks pad little.

        Of `world_size` processes each takes every `world_size`-th row in that order, so that all have as much to do.
        """
        order_B = torch.argsort(self.prompt_B + self.length_B, stable=True)[rank::world_size]
        return list(order_B.split(size or len(self)))


def judged_right(rollouts: Rollouts) -> Tensor:
    """float[B]: 1 where the checker finds every step and the answer right."""
    return torch.as_tensor(rollouts.verdicts.right, device=rollouts.prompt_B.device).float()


def group_mean(value_B: Tensor, group_B: Tensor) -> Tensor:
    """The mean over each row's group, at each row: float[B]."""
    total = torch.zeros(int(group_B.max()) + 1, dtype=value_B.dtype, device=value_B.device).index_add(
        0, group_B, value_B
    )
    count = torch.zeros_like(total).index_add(0, group_B, torch.ones_like(value_B))
    return (total / count.clamp(min=1.0))[group_B]


def positions(length_B: Tensor) -> tuple[Tensor, Tensor]:
    """Row and response column of every response position, row after row: two int64[N] with N = length_B.sum()."""
    row_N = torch.repeat_interleave(torch.arange(len(length_B), device=length_B.device), length_B)
    start_B = length_B.cumsum(0) - length_B
    return row_N, torch.arange(len(row_N), device=length_B.device) - start_B[row_N]


def responses(tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor, pad: int = PAD) -> Tensor:
    """int64[B, R]: the response part of each row, padded with `pad`."""
    n_response = int(length_B.max()) if len(length_B) else 0
    column_R = torch.arange(n_response, device=tokens_BT.device)
    at_BR = (prompt_B[:, None] + column_R).clamp(max=tokens_BT.shape[1] - 1)
    return tokens_BT.gather(1, at_BR).masked_fill(column_R >= length_B[:, None], pad)


def join(
    prompts: Sequence[Sequence[int]], response_BR: Tensor, length_B: Tensor, pad: int = PAD
) -> tuple[Tensor, Tensor]:
    """Prompts with their responses behind them.

    Returns:
        int64[B, T] padded on the right with `pad`, and the prompts' lengths int64[B].
    """
    device = response_BR.device
    prompt_B = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long, device=device)
    n_columns = int((prompt_B + length_B).max())
    tokens_BT = torch.full((len(prompts), n_columns), pad, dtype=torch.long, device=device)
    flat = torch.as_tensor(np.concatenate(prompts), dtype=torch.long, device=device)
    tokens_BT[positions(prompt_B)] = flat
    row_N, time_N = positions(length_B)
    tokens_BT[row_N, prompt_B[row_N] + time_N] = response_BR[row_N, time_N]
    return tokens_BT, prompt_B
