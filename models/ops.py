"""Element-wise operations of the model in few passes over memory: RMS norm, gated MLPs, causal convolution.

As plain tensor arithmetic they cost a small model on a CPU as much time as its matrix products; with the hand-written
gradients below about a third of that.

The invariant that matters: value and gradient equal the definition in each docstring.

Legend: B batch, T tokens, C channels, S earlier tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def use_autograd_function() -> bool:
    """Whether to use the hand-written gradients: only where gradients are on and `torch.compile` is not at work."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _ReLU2(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        h = x.clamp_min(0)
        ctx.save_for_backward(h)
        return h * h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return (grad * h).mul_(2)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    return _ReLU2.apply(x) if use_autograd_function() else F.relu(x).square()


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        sigmoid = gate.sigmoid()
        ctx.save_for_backward(x, sigmoid)
        return (gate * sigmoid).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, sigmoid = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        back = torch.empty_like(x)
        grad_gate, grad_up = back.chunk(2, dim=-1)
        silu = gate * sigmoid
        torch.mul(grad, silu, out=grad_up)
        slope = silu.addcmul_(silu, sigmoid, value=-1).add_(sigmoid)  # sigmoid + silu (1 - sigmoid)
        torch.mul(slope.mul_(up), grad, out=grad_gate)
        return back


def swiglu(x: Tensor) -> Tensor:
    """silu(first half of the channels) * second half (Shazeer 2020); the exponential is taken once, not twice."""
    if use_autograd_function():
        return _SwiGLU.apply(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return mean_square.add_(eps).rsqrt_()


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, inverse, weight = ctx.saved_tensors
        product = grad * unit
        grad_weight = product.sum_to_size(weight.shape)
        mean = product.mul_(weight).mean(-1, keepdim=True)
        return (grad * weight).addcmul_(unit, mean, value=-1).mul_(inverse), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, mean over the last axis, weight broadcast (Zhang and Sennrich 2019)."""
    if not x.is_cuda and not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else (x * _inverse_rms(x, eps)).mul_(weight)
    if weight.ndim == 1:  # one kernel on a GPU
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.rms_norm(x, x.shape[-1:], None, eps) * weight


def _inside(x: Tensor, j: int, position_BT: Tensor | None) -> Tensor:
    """`x` at columns j.. of a row, with 0 where the token j columns before is of another document."""
    return x if position_BT is None else x * (position_BT[:, j:, None] >= j)


def _convolve(x: Tensor, weight: Tensor, position_BT: Tensor | None = None) -> Tensor:
    out = x.clone()
    for j in range(1, min(len(weight), x.shape[1] - 1) + 1):
        out[:, j:].addcmul_(_inside(x[:, :-j], j, position_BT), weight[j - 1])
    return out


class _CausalConv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, position_BT: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, position_BT)
        return _convolve(x, weight, position_BT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, position_BT = ctx.saved_tensors
        grad_x, grad_weight = grad.clone(), torch.zeros_like(weight)
        for j in range(1, min(len(weight), x.shape[1] - 1) + 1):
            inside = _inside(grad[:, j:], j, position_BT)
            grad_x[:, :-j].addcmul_(inside, weight[j - 1])
            grad_weight[j - 1] = (inside * x[:, :-j]).sum((0, 1))
        return grad_x, grad_weight, None


def causal_conv(
    x_BTC: Tensor, weight_SC: Tensor, past_BSC: Tensor | None = None, position_BT: Tensor | None = None
) -> Tensor:
    """x[t] + sum_j weight[j - 1] * x[t - j], j = 1..S: a causal depthwise convolution. Before the start x is
    `past_BSC`, oldest first, or 0. `position_BT` is given where a row holds several documents: the position of each
    token in its own document, before whose start x is 0."""
    if past_BSC is None:
        return (_CausalConv.apply if use_autograd_function() else _convolve)(x_BTC, weight_SC, position_BT)
    if x_BTC.shape[1] == 1:
        return x_BTC + (past_BSC * weight_SC.flip(0)).sum(1, keepdim=True)
    return _convolve(torch.cat((past_BSC, x_BTC), dim=1), weight_SC)[:, len(weight_SC) :]
