"""Few-pass element-wise functions against their definitions, values and gradients, in float64."""

import pytest
import torch
from torch import Tensor

from models.ops import causal_conv, relu2, rms_norm, swiglu
from models.rope import apply_rope, rope_tables

EPS = 1e-5


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def plain_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def plain_rotate(x_BTE: Tensor, head_dim: int, rotated: int, base: float) -> Tensor:
    """Pair (i, i + R) of each head as a complex number, times e^(i t / base^(i / R))."""
    half = rotated // 2
    x = x_BTE.unflatten(-1, (-1, head_dim))
    angle_TR = torch.arange(x_BTE.shape[1])[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[..., :half], x[..., half:rotated]) * torch.exp(1j * angle_TR)[:, None]
    return torch.cat((turned.real, turned.imag, x[..., rotated:]), -1).flatten(-2)


def test_relu2():
    x = numbers(40)
    assert torch.allclose(relu2(x), x.clamp(min=0) ** 2)
    assert torch.autograd.gradcheck(relu2, x)


def test_swiglu():
    x = numbers(5, 3, 12)
    gate, up = x[..., :6], x[..., 6:]
    assert torch.allclose(swiglu(x), gate / (1 + (-gate).exp()) * up)
    assert torch.autograd.gradcheck(swiglu, x)
    with torch.no_grad():
        assert torch.allclose(swiglu(x), gate / (1 + (-gate).exp()) * up)


@pytest.mark.parametrize("shape", [(6,), (2, 1, 6), (3, 6)])
def test_rms_norm(shape):
    x, weight = numbers(5, 2, 3, 6), numbers(*shape, seed=1)
    assert torch.allclose(rms_norm(x, weight, EPS), plain_rms_norm(x, weight))
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, EPS), (x, weight))
    with torch.no_grad():
        assert torch.allclose(rms_norm(x, weight, EPS), plain_rms_norm(x, weight))


@pytest.mark.parametrize(("head_dim", "rotated"), [(8, 8), (8, 4), (6, 2)])
def test_rotate(head_dim, rotated):
    x = numbers(2, 7, 3 * head_dim)
    rope = rope_tables(7, head_dim, rotated, 100.0, 3).unbind(0)
    expected = plain_rotate(x, head_dim, rotated, 100.0)
    assert torch.allclose(apply_rope(x, rope, rotated // 2), expected, atol=1e-6)
    rope = tuple(table.double() for table in rope)
    assert torch.autograd.gradcheck(lambda x: apply_rope(x, rope, rotated // 2), x)
    with torch.no_grad():
        assert torch.allclose(apply_rope(x, rope, rotated // 2), expected, atol=1e-6)


@pytest.mark.parametrize("lags", [1, 3, 9])
def test_causal_mix(lags):
    x, weight = torch.randn(2, 6, 4, dtype=torch.double), torch.randn(lags, 4, dtype=torch.double)
    expected = x.clone()
    for t in range(6):
        for j in range(1, min(t, lags) + 1):
            expected[:, t] += weight[j - 1] * x[:, t - j]
    assert torch.allclose(causal_conv(x, weight), expected)
    assert torch.autograd.gradcheck(causal_conv, (x.requires_grad_(), weight.requires_grad_()))
