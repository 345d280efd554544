"""Losses over the vocabulary, a block of positions at a time, so that no batch's log-probabilities live all at once.

Unembedding, log-softmax and loss go forward and backward in each block before the next is begun; what stays of a block
is its gradient with respect to the residual stream and to the unembedding. Equal to one pass over all positions to
rounding; where all fit into one block it is that pass.

Legend: N response positions, n those of a block, C channels, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ENTRIES = {"cpu": 2**22, "cuda": 2**26}  # log-probabilities of a block: 16 MB, 256 MB


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


class _Known(torch.autograd.Function):
    """A scalar whose gradients with respect to two tensors are known already."""

    @staticmethod
    def forward(ctx, value: Tensor, slope_a: Tensor, slope_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(slope_a, slope_b)
        return value.clone()

    @staticmethod
    def backward(ctx, outer: Tensor):
        slope_a, slope_b = ctx.saved_tensors
        return None, None, None, outer * slope_a, outer * slope_b


def fused(states_NC: Tensor, weight_VC: Tensor, parts: list[slice], loss_of: Callable[..., Tensor]) -> Tensor:
    """The sum over `parts` of loss_of(part, states_nC, weight_VC), with gradient to the states and the weight.

    `loss_of` is called once for each part, in order, on leaves of their own.
    """
    weight = weight_VC.detach().requires_grad_()
    slopes, total = [], torch.zeros((), device=states_NC.device)
    for part in parts:
        states_nC = states_NC.detach()[part].requires_grad_()
        loss = loss_of(part, states_nC, weight)
        loss.backward()
        slopes.append(states_nC.grad)
        total += loss.detach()
    return _Known.apply(total, torch.cat(slopes), weight.grad, states_NC, weight_VC)
