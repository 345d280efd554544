"""Rotary positions (RoPE) in one pass over queries and keys, with their gradient by hand.

The invariant that matters: value and gradient equal the definition in `apply_rope`'s docstring.

Legend: B batch, T tokens, E channels of all queries and keys (2 n_embd), R rotated pairs of channels per head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from models.ops import use_autograd_function

Rope = tuple[Tensor, Tensor, Tensor]


def rope_tables(context: int, head_dim: int, rotated: int, base: float, n_heads: int) -> Tensor:
    """The tables keep, ahead and behind of `apply_rope`, [3, context, E], for `rotated` channels of each head."""
    rest = head_dim - rotated
    frequency_R = base ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / max(rotated, 1))
    angle_TR = torch.arange(context, dtype=torch.float64)[:, None] * frequency_R
    cos, sin = angle_TR.cos(), angle_TR.sin()
    still, none = cos.new_ones(context, rest), torch.zeros_like
    keep = torch.cat((cos, cos, still), 1)
    ahead = torch.cat((-sin, none(sin), none(still)), 1)
    behind = torch.cat((none(sin), sin, none(still)), 1)
    return torch.stack((keep, ahead, behind)).float().repeat(1, 1, n_heads)


def _rotate(x: Tensor, keep: Tensor, ahead: Tensor, behind: Tensor, half: int) -> Tensor:
    y = x * keep
    y[..., :-half].addcmul_(x[..., half:], ahead[..., :-half])
    y[..., half:].addcmul_(x[..., :-half], behind[..., half:])
    return y


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, ahead: Tensor, behind: Tensor, half: int) -> Tensor:
        ctx.save_for_backward(keep, ahead, behind)
        ctx.half = half
        return _rotate(x, keep, ahead, behind, half)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (keep, ahead, behind), half = ctx.saved_tensors, ctx.half
        back = grad * keep
        back[..., half:].addcmul_(grad[..., :-half], ahead[..., :-half])
        back[..., :-half].addcmul_(grad[..., half:], behind[..., half:])
        return back, None, None, None, None


def apply_rope(x_BTE: Tensor, rope: Rope, half: int) -> Tensor:
    """Rotary positions (Su et al. 2021) in the half-split layout of GPT-NeoX and Llama, on all heads in one go. In each
    head, channels i and R + i (i < R = `half`) turn by the angle of their position; channels from 2R on stay. Rather
    than splitting every head, the whole row is shifted by R: y[i] = keep[i] x[i] + ahead[i] x[i+R] + behind[i] x[i-R],
    where `ahead` is -sin on first halves, `behind` is sin on second halves, and both are 0 elsewhere."""
    return (_Rotate.apply if use_autograd_function() else _rotate)(x_BTE, *rope, half)
