"""Transforms of a target and position regularizers: closed forms and finite differences on a few symbols."""

import math

import pytest
import torch

from tests.helpers.opd_batches import V, logits, pair, record
from train.opd.divergence.kl_and_jsd import ReverseKL
from train.opd.log_probs import entropy
from train.opd.regularizer import negative_entropy, reference_kl
from train.opd.teacher.transforms import MixWithUniform, Power, RaisedEntropy, Temper


def test_power_target():
    """Exponent 1 is the teacher, 0 the reference, and above 1 the fixed point is p^l r^(1-l)."""
    p_NV, r_NV = (torch.log_softmax(logits(seed, 3, V), dim=-1) for seed in (1, 2))

    def target(exponent: float) -> torch.Tensor:
        return Power(exponent=exponent)(p_NV, r_NV)

    torch.testing.assert_close(target(1.0), p_NV)
    torch.testing.assert_close(target(0.0), r_NV)
    beyond = p_NV.exp() ** 1.25 * r_NV.exp() ** -0.25
    torch.testing.assert_close(target(1.25).exp(), beyond / beyond.sum(-1, keepdim=True))
    z_NV = r_NV.clone().requires_grad_()
    scored = record(z_NV, target(0.0))._replace(reference_NV=r_NV)
    torch.testing.assert_close(ReverseKL()(scored), reference_kl(scored))


def test_temper_target_softens_and_sharpens():
    p_NV = torch.log_softmax(logits(1, 3, V), dim=-1)
    soft, same, sharp = (Temper(temperature=value)(p_NV, None) for value in (2.0, 1.0, 0.5))
    torch.testing.assert_close(same, p_NV)
    entropies = [-(x.exp() * x).sum(-1) for x in (soft, same, sharp)]
    assert (entropies[0] > entropies[1]).all() and (entropies[1] > entropies[2]).all()
    torch.testing.assert_close(sharp.exp(), p_NV.exp() ** 2 / (p_NV.exp() ** 2).sum(-1, keepdim=True))


def test_raised_entropy_is_the_one_asked_for_and_mix_leaves_nothing_impossible():
    p_NV = torch.log_softmax(logits(1, 6, V), dim=-1)
    config = RaisedEntropy(rise=0.2, slope=1.0, pivot=1.0, least=1.0, most=64.0)
    after_N, before_N = entropy(config(p_NV, None)), entropy(p_NV)
    wanted_N = (before_N + 0.2 * torch.sigmoid(before_N - 1.0)).clamp(max=math.log(V))
    torch.testing.assert_close(after_N, wanted_N, atol=1e-4, rtol=1e-4)
    at_N = RaisedEntropy().temperature(torch.log_softmax(torch.tensor([[9.0, 0, 0], [0, 0, 0], [2, 0, 0]]), dim=-1))
    assert at_N[:2].tolist() == pytest.approx([1.1, 1.5]) and 1.1 < at_N[2] < 1.5  # sure; beyond reach; between
    sure = torch.tensor([[0.0, -1e4, -1e4]])
    mixed = MixWithUniform(share=0.3)(sure, None).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.8, 0.1, 0.1]]))


def test_position_regularizers_match_finite_differences():
    z_NV, r_NV = pair(seed=4)
    assert torch.autograd.gradcheck(lambda z: reference_kl(record(z, None)._replace(reference_NV=r_NV)), z_NV)
    assert torch.autograd.gradcheck(lambda z: negative_entropy(record(z, None)), z_NV)
    uniform = record(torch.zeros(1, V, dtype=torch.float64), None)
    torch.testing.assert_close(negative_entropy(uniform).item(), -math.log(V))
