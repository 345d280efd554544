"""What gives a teacher's log-probabilities: one frozen model, the interface of all others, and a model's hidden states.

Every choice answers `log_probs(rollouts, student)`, which makes those of a few positions at a time; one that follows
the student hears of each step through `follow`, before its batch is drawn, and has a state that checkpoints keep. So
step k is scored by the copies as they are after k updates, whether or not the run was killed in between.

Legend: B rows, T columns, N response positions, n some of them, C channels, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.gpt import GPT
from train.opd.chunked_loss import next_token_log_probs
from train.opd.rollouts import Rollouts, positions
from train.opd.scored import LogProbs


def frozen(model: GPT) -> GPT:
    """The model in evaluation mode with all gradients off."""
    return model.eval().requires_grad_(False)


class HiddenStates(nn.Module):
    """A model's hidden states at response positions, as a module whose gradients processes can average."""

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


@torch.no_grad()
def log_probs_of(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> LogProbs:
    """A model's log-probabilities of the next token at response positions, made without gradient when asked for."""
    hidden_NC, unembedding_VC = HiddenStates(model)(tokens_BT, prompt_B, length_B), model.unembedding
    return torch.no_grad()(lambda at: next_token_log_probs(hidden_NC[at], unembedding_VC))


def log_probs_with_context(model: GPT, rollouts: Rollouts) -> LogProbs:
    """The model's log-probabilities of the responses, given what a teacher reads before them."""
    return log_probs_of(model, *rollouts.with_contexts(), rollouts.length_B)


def gathered(sources: Sequence[LogProbs], which_N: Tensor, place_N: Tensor) -> LogProbs:
    """Position i has the log-probabilities of `sources[which_N[i]]`, at that source's own position `place_N[i]`."""

    def at(block: slice) -> Tensor:
        which_n, place_n = which_N[block], place_N[block]
        used = which_n.unique().tolist()
        found = torch.cat([sources[i](place_n[which_n == i]) for i in used])
        order_n = torch.cat([(which_n == i).nonzero().squeeze(1) for i in used])
        return torch.empty_like(found).index_copy_(0, order_n, found)

    return torch.no_grad()(at)


class ScoringModel:
    """What scores the responses. models: its frozen checkpoints, none where it has no parameters of its own."""

    def __init__(self, *models: GPT) -> None:
        self.models = [frozen(model) for model in models]

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step with the student's weights of that moment."""

    @abstractmethod
    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        """Log-probabilities at the response positions, without gradient."""

    def has_target(self, rollouts: Rollouts) -> Tensor | None:
        """bool[B, R]: where there is a target at all; None: everywhere."""
        return None

    def readers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        """The models that read these rows, and bool[B] which rows each reads, for the ledger."""
        every_B = torch.ones_like(rollouts.prompt_B, dtype=torch.bool)
        return [(model, every_B) for model in self.models]

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        """The models that could continue these rows, and bool[B] which each would; a row of none has no such model."""
        return self.readers(rollouts, student)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Frozen(ScoringModel):
    """One model that never changes: an external checkpoint, or the student at step 0."""

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        return log_probs_with_context(self.models[0], rollouts)
