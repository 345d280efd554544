"""The compiled loops as differentiable functions: contiguous float32 tensors of one CPU thread in and out.

Legend: N tokens, K positions, P rotated pairs of a head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from models.fused import kernels
from models.gpt import NORM_EPS

EPS = np.float32(NORM_EPS)


class Layout(NamedTuple):
    """Of tokens that lie end to end: the token before each, always an earlier one, -1 where a document begins, and its
    position in the document (int64)."""

    before_N: np.ndarray
    position_N: np.ndarray


class Angles(NamedTuple):
    """Cosines and sines of the rotation by position, float32 [K, P]."""

    cos_KP: np.ndarray
    sin_KP: np.ndarray


def _array(tensor: Tensor | None, ndim: int = 1) -> np.ndarray:
    """The numbers of a tensor; of none, an array without numbers, so that a loop has one compiled form."""
    return np.empty((0,) * ndim, np.float32) if tensor is None else tensor.detach().numpy()


def _zeros(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.zeros_like(tensor)


class _Embed(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, shift: Tensor | None, token_N: Tensor, layout: Layout) -> Tensor:
        x = weight.new_empty(len(token_N), weight.shape[1])
        kernels.embed(token_N.numpy(), layout.before_N, _array(weight), _array(shift, 2), _array(x))
        ctx.save_for_backward(weight, shift)
        ctx.token_N, ctx.layout = token_N, layout
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        weight, shift = ctx.saved_tensors
        d_weight, d_shift = torch.zeros_like(weight), _zeros(shift)
        given = ctx.token_N.numpy(), ctx.layout.before_N, _array(weight), _array(shift, 2)
        kernels.embed_back(*given, _array(grad.contiguous()), _array(d_weight), _array(d_shift, 2))
        return d_weight, d_shift, None, None


class _NormMix(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, add: Tensor | None, weight: Tensor, bias: Tensor | None, shift: Tensor | None,
        centred: bool, layout: Layout,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        total, h = x if add is None else torch.empty_like(x), torch.empty_like(x)
        mean, inverse = x.new_empty(2, len(x))
        given = _array(weight), _array(bias), centred, EPS, _array(shift, 2), layout.before_N
        kernels.norm_mix(_array(x), _array(add, 2), *given, *map(_array, (total, mean, inverse, h)))
        ctx.save_for_backward(total, weight, bias, shift, mean, inverse)
        ctx.centred, ctx.layout, ctx.adds = centred, layout, add is not None
        ctx.set_materialize_grads(False)
        return total, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, through: Tensor | None, grad: Tensor | None) -> tuple:
        total, weight, bias, shift, mean, inverse = ctx.saved_tensors
        if grad is None:
            return through, through if ctx.adds else None, None, None, None, None, None
        d, d_weight, d_bias, d_shift = torch.empty_like(total), torch.zeros_like(weight), _zeros(bias), _zeros(shift)
        given = _array(total), _array(weight), _array(bias), ctx.centred, _array(shift, 2), ctx.layout.before_N
        grads = _array(grad.contiguous()), _array(None if through is None else through.contiguous(), 2)
        out = _array(d), _array(d_weight), _array(d_bias), _array(d_shift, 2)
        kernels.norm_mix_back(*given, _array(mean), _array(inverse), *grads, *out)
        return d, d if ctx.adds else None, d_weight, d_bias, d_shift, None, None


class _Prepare(Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, q_scale: Tensor | None, k_scale: Tensor | None, heads: tuple[int, int], angles: Angles,
        layout: Layout,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        qkv = qkv.view(len(qkv), -1, heads[1])
        q, k, v = qkv.new_empty(3, len(qkv), *heads).unbind(0)
        ctx.given = *angles, EPS, layout.position_N
        kernels.prepare(_array(qkv), _array(q_scale), _array(k_scale), *ctx.given, *map(_array, (q, k, v)))
        ctx.save_for_backward(qkv, q_scale, k_scale)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        qkv, q_scale, k_scale = ctx.saved_tensors
        d, d_q, d_k = torch.empty_like(qkv), _zeros(q_scale), _zeros(k_scale)
        read = _array(qkv), _array(q_scale), _array(k_scale)
        written = _array(d), _array(d_q), _array(d_k)
        kernels.prepare_back(*read, *ctx.given, *(_array(grad.contiguous()) for grad in grads), *written)
        return d.flatten(1), d_q, d_k, None, None, None


class _ReLU2(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        kernels.relu2(_array(x), _array(out))
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d = torch.empty_like(x)
        kernels.relu2_back(_array(x), _array(grad.contiguous()), _array(d))
        return d


embed: Callable[..., Tensor] = _Embed.apply
norm_mix: Callable[..., tuple[Tensor, Tensor]] = _NormMix.apply
prepare: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Prepare.apply
relu2: Callable[[Tensor], Tensor] = _ReLU2.apply
