"""Losses over the vocabulary, a block of positions at a time, so that no batch's log-probabilities live all at once.

Unembedding, log-softmax and loss go forward and backward in each block before the next is begun; what stays of a block
is its gradient with respect to the hidden states and to the unembedding. Equal to one pass over all positions to
rounding; where all fit into one block it is that pass.

Legend: N response positions, n those of a block, C channels, V vocabulary.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

ENTRIES = {"cpu": 2**22, "cuda": 2**26}  # log-probabilities of a block: 16 MB, 256 MB


def next_token_log_probs(hidden_NC: Tensor, unembedding_VC: Tensor) -> Tensor:
    """Log-probabilities of the next token, float32[N, V]."""
    return torch.log_softmax(F.linear(hidden_NC, unembedding_VC).float(), dim=-1)


def blocks(length_B: Tensor, vocabulary: int, whole_rows: bool = False) -> list[slice]:
    """Slices of the N = length_B.sum() positions of at most ENTRIES log-probabilities.

    whole_rows: never cut a response, for estimators that look at what follows; a long one is a block of its own.
    """
    most = max(1, ENTRIES[length_B.device.type] // vocabulary)
    ends = length_B.cumsum(0).tolist()
    if not whole_rows:
        ends = [*range(most, ends[-1], most), ends[-1]]
    found, start = [], 0
    for end, after in zip(ends, [*ends[1:], None], strict=True):
        if after is None or after - start > most:
            found.append(slice(start, end))
            start = end
    return found


class _Recorded(torch.autograd.Function):
    """A scalar whose gradients with respect to two tensors have been computed already."""

    @staticmethod
    def forward(ctx, value: Tensor, slope_a: Tensor, slope_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(slope_a, slope_b)
        return value.clone()

    @staticmethod
    def backward(ctx, outer: Tensor):
        slope_a, slope_b = ctx.saved_tensors
        return None, None, None, outer * slope_a, outer * slope_b


class BlockwiseLoss:
    """A sum over blocks of positions, with gradient to the hidden states and the unembedding.

        >>> total = BlockwiseLoss(hidden_NC, unembedding_VC, blocks)
        >>> for block in total:
        ...     total.add(loss_of(total.log_probs()))   # goes backward at once
        >>> total.loss()                                # a scalar whose backward costs nothing more

    What a block makes should be let go before the next one: nothing but numbers stays of it.
    """

    def __init__(self, hidden_NC: Tensor, unembedding_VC: Tensor, blocks: list[slice]) -> None:
        self.hidden_NC, self.unembedding_VC, self.blocks = hidden_NC, unembedding_VC, blocks
        self._weight = unembedding_VC.detach().requires_grad_()
        self._slopes: list[Tensor] = []
        self._total = torch.zeros((), device=hidden_NC.device)

    def __iter__(self) -> Iterator[slice]:
        for block in self.blocks:
            self._hidden_nC = self.hidden_NC.detach()[block].requires_grad_()
            yield block

    def log_probs(self) -> Tensor:
        """Log-probabilities of the next token at the present block, with gradient: float32[n, V]."""
        return next_token_log_probs(self._hidden_nC, self._weight)

    def add(self, loss: Tensor) -> None:
        """The loss of the present block."""
        loss.backward()
        self._slopes.append(self._hidden_nC.grad)
        self._total += loss.detach()

    def loss(self) -> Tensor:
        """The sum, once every block has been added."""
        return _Recorded.apply(
            self._total, torch.cat(self._slopes), self._weight.grad, self.hidden_NC, self.unembedding_VC
        )
