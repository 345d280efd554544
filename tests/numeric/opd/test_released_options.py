"""Options of released objectives: dual clip, loss temperature, frozen advantage, top-k policy gradient, AKL, TAID."""

import pytest
import torch

from tests.helpers.opd_batches import pair, record
from train.opd.divergence.interface_and_topk import Divergence, StudentTopK
from train.opd.divergence.kl_and_jsd import TAID, AdaptiveKL, ReverseKL
from train.opd.divergence.sampled_kl import PolicyGradient, PPOClip, TopKPolicyGradient


def slope(divergence: Divergence, z_NV: torch.Tensor, p_NV: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(divergence(record(z_NV, p_NV)).sum(), z_NV)[0]


def test_dual_clip_bounds_what_a_likelier_bad_token_counts():
    ratio_N = torch.tensor([2.0, 9.0, 9.0], dtype=torch.float64, requires_grad=True)
    gain_N = PPOClip(0.2, None, 3.0).gain(ratio_N, torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    assert gain_N.tolist() == [-2.0, -3.0, 1.2]
    gain_N.sum().backward()
    assert ratio_N.grad.tolist() == [-1.0, 0.0, 0.0]


def test_a_temperature_softens_both_sides():
    z_NV, p_NV = pair()
    hot = ReverseKL(temperature=2.0)(record(z_NV, p_NV))
    by_hand = ReverseKL()(record(z_NV / 2.0, torch.log_softmax(p_NV / 2.0, dim=-1)))
    torch.testing.assert_close(hot, by_hand)


def test_a_frozen_advantage_keeps_the_sampling_distributions_log_ratio():
    z_NV, p_NV = pair()
    scored = record(z_NV, p_NV)._replace(behaviour_N=torch.full((len(z_NV),), -1.5, dtype=torch.float64))
    frozen_N, _ = PolicyGradient(frozen_advantage=True).advantage(scored)
    torch.testing.assert_close(frozen_N, scored.log_p_N + 1.5)


def test_top_k_policy_gradient_has_the_gradient_of_the_weighted_log_ratios():
    z_NV, p_NV = pair()
    d = TopKPolicyGradient(support=StudentTopK(k=3))
    q_NV = torch.log_softmax(z_NV, dim=-1)
    index_NK = q_NV.detach().topk(3, dim=-1).indices
    q_NK = q_NV.gather(-1, index_NK)
    cost_NK = torch.softmax(q_NK, dim=-1).detach() * (q_NK - p_NV.gather(-1, index_NK)).detach()
    torch.testing.assert_close(d(record(z_NV, p_NV)), cost_NK.sum(dim=-1))
    by_hand = torch.autograd.grad((cost_NK * q_NK).sum(), z_NV)[0]
    torch.testing.assert_close(slope(d, z_NV, p_NV), by_hand)


@pytest.mark.parametrize("d", [AdaptiveKL(), TAID()], ids=lambda d: d.kind)
def test_adaptive_and_interpolated_kl_are_zero_with_no_gradient_at_the_teacher_alone(d):
    z_NV, p_NV = pair()
    assert (d(record(z_NV, p_NV)) > 0.0).all()
    at_NV = p_NV.clone().requires_grad_()
    torch.testing.assert_close(d(record(at_NV, p_NV)), torch.zeros(len(p_NV), dtype=torch.float64))
    assert slope(d, at_NV, p_NV).abs().max() < 1e-12
