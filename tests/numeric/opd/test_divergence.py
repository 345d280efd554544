"""Divergences against closed forms, finite differences and exact expectations, on vocabularies of a few symbols."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.opd_batches import V, logits, pair, record
from train.config.schema import build, merge
from train.opd.divergence.interface_and_topk import NLL, Divergence, NoDivergence, Ranking, StudentTopK, TeacherTopK
from train.opd.divergence.kl_and_jsd import (
    JSD,
    TAID,
    AdaptiveKL,
    ForwardKL,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    ToDi,
    Veto,
)
from train.opd.divergence.sampled_kl import (
    K2,
    K3,
    PolicyGradient,
    PPOClip,
    SquaredGap,
    TopKPolicyGradient,
    discounted_future,
)
from train.opd.log_probs import Scored

KLS = (ForwardKL, ReverseKL, JSD, SkewForwardKL, SkewReverseKL, ToDi)
EXACT = [
    ForwardKL(),
    ReverseKL(),
    JSD(beta=0.0),
    JSD(beta=0.3),
    JSD(beta=1.0),
    SkewForwardKL(alpha=0.1),
    SkewReverseKL(alpha=0.1),
    ToDi(),
    AdaptiveKL(),
    TAID(),
    SkewForwardKL(anchor=0.02),
    SkewReverseKL(anchor=-0.02, stopped=True),
]
TRUNCATED = [
    replace(kind, support=support(k=3, rest=rest))
    for kind in (ForwardKL(), ReverseKL(), JSD(beta=0.4), SkewForwardKL(alpha=0.2), SkewReverseKL(alpha=0.2), ToDi())
    for support in (StudentTopK, TeacherTopK)
    for rest in ("renorm", "tail", "general")
]
SAMPLED = [PolicyGradient(), K2(), K3()]
HELD = ("todi", "akl", "taid")  # parts of them carry no gradient
SMOOTH = [c for c in [*EXACT, *TRUNCATED] if c.kind not in HELD and not getattr(c, "stopped", False)]
CENTRED = PolicyGradient(baseline="rkl")


def name(config: Divergence) -> str:
    return str(config).replace(" ", "")


def gradient(config: Divergence, z_NV: torch.Tensor, p_NV: torch.Tensor, token_N=None) -> torch.Tensor:
    return torch.autograd.grad(config(record(z_NV, p_NV, token_N)).sum(), z_NV)[0]


def expected_gradient(config: Divergence, z_1V: torch.Tensor, p_1V: torch.Tensor) -> torch.Tensor:
    """sum_v q(v) grad loss(v): the gradient that sampling the response token from the student has on average."""
    q_V = torch.softmax(z_1V.detach(), dim=-1)[0]
    parts = [q_V[v] * gradient(config, z_1V, p_1V, torch.tensor([v])) for v in range(V)]
    return torch.stack(parts).sum(dim=0)


def test_values_are_the_closed_forms():
    z_NV, p_log_NV = pair()
    p, q = p_log_NV.exp(), torch.softmax(z_NV, dim=-1)
    m = 0.3 * p + 0.7 * q
    wanted = {
        "fkl": (p * (p / q).log()).sum(-1),
        "rkl": (q * (q / p).log()).sum(-1),
        "jsd": 0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1),
        "skew_fkl": (p * (p / (0.1 * p + 0.9 * q)).log()).sum(-1),
        "skew_rkl": (q * (q / (0.9 * p + 0.1 * q)).log()).sum(-1),
        "todi": (p / (p + q) * p * (p / q).log() + q / (p + q) * q * (q / p).log()).sum(-1),
    }
    assert set(wanted) == {kind.kind for kind in KLS}
    for kind, value_N in wanted.items():
        config = JSD(beta=0.3) if kind == "jsd" else build(Divergence, kind)
        torch.testing.assert_close(config(record(z_NV, p_log_NV)), value_N)


def test_gradients_of_both_kls_are_the_closed_forms():
    z_NV, p_log_NV = pair()
    q = torch.softmax(z_NV, dim=-1).detach()
    ratio = q.log() - p_log_NV
    reverse = q * (ratio - (q * ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient(ForwardKL(), z_NV, p_log_NV), q - p_log_NV.exp())
    torch.testing.assert_close(gradient(ReverseKL(), z_NV, p_log_NV), reverse)


def test_gradient_of_the_token_wise_mix_holds_its_shares_fixed():
    z_NV, p_NV = pair()
    s_NV = (p_NV - torch.log_softmax(z_NV, dim=-1)).detach().sigmoid()
    q_NV = torch.log_softmax(z_NV, dim=-1)
    wanted = (s_NV * p_NV.exp() * (p_NV - q_NV) + (1 - s_NV) * q_NV.exp() * (q_NV - p_NV)).sum()
    torch.testing.assert_close(gradient(ToDi(), z_NV, p_NV), torch.autograd.grad(wanted, z_NV)[0])


@pytest.mark.parametrize("config", SMOOTH, ids=name)
def test_gradient_matches_finite_differences(config):
    z_NV, p_NV = pair(seed=3)
    assert torch.autograd.gradcheck(lambda z: config(record(z, p_NV)), z_NV, atol=1e-6)


@pytest.mark.parametrize("config", [*EXACT, *TRUNCATED, *SAMPLED, CENTRED], ids=name)
def test_student_equal_to_teacher_is_a_fixed_point(config):
    """Zero loss and zero gradient at p = q; for the sampled forms for each token on its own, not just on average."""
    z_NV = logits(5, V, V).requires_grad_()
    p_NV, token_N = torch.log_softmax(z_NV, dim=-1).detach(), torch.arange(V)
    assert config(record(z_NV, p_NV, token_N)).abs().max() < 1e-12
    assert gradient(config, z_NV, p_NV, token_N).abs().max() < 1e-12


def test_nll_is_no_fixed_point_and_needs_no_teacher():
    z_NV = logits(5, 4, V).requires_grad_()
    config, token_N = NLL(), torch.tensor([1, 0, 3, 2])
    loss_N = config(record(z_NV, None, token_N))
    torch.testing.assert_close(loss_N, torch.nn.functional.cross_entropy(z_NV, token_N, reduction="none"))
    assert gradient(config, z_NV, torch.log_softmax(z_NV, -1).detach(), token_N).abs().max() > 0.1
    assert not config.needs_teacher


def test_expected_gradient_of_policy_gradient_and_k2_is_reverse_kl_and_of_k3_forward_kl():
    z_1V, p_1V = logits(7, 1, V).requires_grad_(), torch.log_softmax(logits(8, 1, V), dim=-1)
    reverse, forward = (gradient(kind, z_1V, p_1V) for kind in (ReverseKL(), ForwardKL()))
    assert (reverse - forward).abs().max() > 0.05
    for config, wanted in zip(SAMPLED, (reverse, reverse, forward), strict=True):
        torch.testing.assert_close(expected_gradient(config, z_1V, p_1V), wanted)


def test_a_baseline_keeps_the_expectation_and_lowers_the_variance():
    """Lower on average over pairs of distributions; not for every single one, since it is not the best baseline."""
    spread = {None: 0.0, "rkl": 0.0}
    for seed in range(0, 40, 2):
        z_1V, p_1V = logits(seed, 1, V).requires_grad_(), torch.log_softmax(logits(seed + 1, 1, V), dim=-1)
        reverse, q_V = gradient(ReverseKL(), z_1V, p_1V), torch.softmax(z_1V.detach(), dim=-1)[0]
        for config in (SAMPLED[0], CENTRED):
            torch.testing.assert_close(expected_gradient(config, z_1V, p_1V), reverse)
            squares = [q_V[v] * gradient(config, z_1V, p_1V, torch.tensor([v])).square().sum() for v in range(V)]
            spread[config.baseline] += float(sum(squares))
    assert spread["rkl"] < 0.95 * spread[None]


def test_what_is_no_fixed_point_is_refused_or_named():
    """At p = q NLL and ranking still move the student; raw and half-renormalised top-k sums would, and are refused."""
    z_NV = logits(5, V, V).requires_grad_()
    p_NV, token_N = torch.log_softmax(z_NV, dim=-1).detach(), torch.arange(V)
    for config in (NLL(), Ranking(k=3)):
        assert gradient(config, z_NV, p_NV, token_N).abs().max() > 0.05
    q_NV, index_NK = torch.log_softmax(z_NV, dim=-1), p_NV.topk(3).indices
    kept_p, kept_q = p_NV.gather(-1, index_NK), q_NV.gather(-1, index_NK)
    for target in (kept_p, torch.log_softmax(kept_p, dim=-1)):
        raw = (target.exp() * (target - kept_q)).sum()
        assert torch.autograd.grad(raw, z_NV, retain_graph=True)[0].abs().max() > 0.05
    for rest in ("drop", "half"):
        with pytest.raises(ValueError, match="no divergence"):
            ForwardKL(support=TeacherTopK(k=3, rest=rest))


def test_an_entry_clip_is_stationary_at_the_teacher_but_can_be_lower_elsewhere():
    config, lowest = ForwardKL(entry_clip=0.05), 0.0
    z_NV = logits(5, V, V).requires_grad_()
    assert gradient(config, z_NV, torch.log_softmax(z_NV, dim=-1).detach()).abs().max() < 1e-12
    for seed in range(20):
        lowest = min(lowest, float(config(record(*pair(seed))).min().detach()))
    assert lowest < -0.05


def test_ranking_is_the_chance_of_the_teacher_s_order():
    z_1V = torch.tensor([[2.0, 1.0, 0.0, -9.0]], dtype=torch.float64, requires_grad=True)
    p_1V = torch.log_softmax(torch.tensor([[0.0, 1.0, 2.0, 8.0]], dtype=torch.float64), dim=-1)
    q = torch.softmax(z_1V.detach(), dim=-1)[0]
    wanted = -math.log(q[2] / (q[0] + q[1] + q[2]) * q[1] / (q[0] + q[1]))
    value_N = Ranking(k=3)(record(z_1V, p_1V))
    assert value_N.item() == pytest.approx(wanted)
    assert torch.autograd.gradcheck(lambda z: Ranking(k=3)(record(z, p_1V)), z_1V)


def sequences(gamma: float, **more) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected gradient of the policy gradient over all sequences of 3 tokens of a bigram model, and that of the KL.

    The model has one row of logits for each previous token; the expectation is over the student's own sequences.
    """
    v, length = 3, 3
    z_SV = logits(21, v + 1, v).requires_grad_()
    p_SV = torch.log_softmax(logits(22, v + 1, v), dim=-1)
    q_SV = torch.log_softmax(z_SV, dim=-1)
    config = PolicyGradient(gamma=gamma, **more)
    total, kl = torch.zeros_like(z_SV), z_SV.new_zeros(())
    for text in itertools.product(range(v), repeat=length):
        state_N, token_N = torch.tensor([v, *text[:-1]]), torch.tensor(text)
        logq = q_SV[state_N, token_N].sum()
        kl = kl + logq.exp() * (logq - p_SV[state_N, token_N].sum())
        behaviour_N = q_SV.detach()[state_N, token_N]
        row_N, time_N = torch.zeros_like(token_N), torch.arange(length)
        scored = Scored(q_SV[state_N], p_SV[state_N], None, token_N, behaviour_N, row_N, time_N)
        grad = torch.autograd.grad(config(scored).sum(), z_SV, retain_graph=True)[0]
        total += logq.exp().detach() * grad
    return total, torch.autograd.grad(kl, z_SV)[0]


@pytest.mark.parametrize("more", [{}, {"decompose": True}, {"baseline": "rkl"}], ids=str)
def test_with_gamma_one_the_policy_gradient_is_that_of_the_sequence_s_reverse_kl(more):
    got, wanted = sequences(1.0, **more)
    torch.testing.assert_close(got, wanted)
    short, _ = sequences(0.5, **more)
    assert (short - wanted).abs().max() > 1e-3


def test_returns_are_discounted_row_by_row_and_can_be_means():
    row_N, time_N = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1])
    reward_N = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    scored = record(*pair(n=5))._replace(row_N=row_N, time_N=time_N)
    future_N, count_N = discounted_future(reward_N, scored, 0.5)
    assert future_N.tolist() == [2.0, 2.0, 0.0, 8.0, 0.0] and count_N.tolist() == [2, 1, 0, 1, 0]


def test_clip_takes_the_gradient_away_only_where_it_would_go_further():
    ratio_N = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], dtype=torch.float64, requires_grad=True)
    gain_N = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    PPOClip(0.2, 0.28).gain(ratio_N, gain_N).sum().backward()
    assert ratio_N.grad.tolist() == [0.0, -1.0, 1.0, 0.0, 1.0]


def test_expected_gradient_of_plain_log_ratio_is_zero_and_k1_is_refused():
    z_1V, p_1V = logits(7, 1, V).requires_grad_(), torch.log_softmax(logits(8, 1, V), dim=-1)
    q_V, total = torch.softmax(z_1V.detach(), dim=-1)[0], torch.zeros(1, V, dtype=torch.float64)
    for v in range(V):
        log_ratio = torch.log_softmax(z_1V, dim=-1)[0, v] - p_1V[0, v]
        total += q_V[v] * torch.autograd.grad(log_ratio, z_1V)[0]
    assert total.abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"k1.*cancels"):
        build(Divergence, "rkl_k1")


def test_sampled_forms_correct_for_another_sampling_temperature():
    """Tokens drawn from mu instead of q: the importance ratio q / mu keeps the expected gradients."""
    z_1V, p_1V = logits(7, 1, V).requires_grad_(), torch.log_softmax(logits(8, 1, V), dim=-1)
    mu_V = torch.softmax(z_1V.detach() / 1.7, dim=-1)[0]
    kinds = ("rkl", "rkl", "fkl")
    for config, kind in zip(SAMPLED, kinds, strict=True):
        total = torch.zeros(1, V, dtype=torch.float64)
        for v in range(V):
            scored = record(z_1V, p_1V, torch.tensor([v]))._replace(behaviour_N=mu_V[v].log()[None])
            total += mu_V[v] * torch.autograd.grad(config(scored).sum(), z_1V)[0]
        torch.testing.assert_close(total, gradient(build(Divergence, kind), z_1V, p_1V))


def test_sampled_values_are_the_reverse_kl_on_average():
    z_1V, p_1V = logits(7, 1, V), torch.log_softmax(logits(8, 1, V), dim=-1)
    q_V, wanted = torch.softmax(z_1V, dim=-1)[0], ReverseKL()(record(z_1V, p_1V))
    for config in (SAMPLED[0], SAMPLED[2]):
        values = [config(record(z_1V, p_1V, torch.tensor([v]))) for v in range(V)]
        torch.testing.assert_close(sum(q * value for q, value in zip(q_V, values, strict=True)), wanted)


@pytest.mark.parametrize("beta, kind", [(1e-5, "fkl"), (1.0 - 1e-5, "rkl")])
def test_scaled_jsd_tends_to_each_kl(beta, kind):
    z_NV, p_NV = pair(seed=11)
    scale = beta if kind == "fkl" else 1.0 - beta
    config, limit = JSD(beta=beta), build(Divergence, kind)
    scaled = gradient(config, z_NV, p_NV) / scale
    torch.testing.assert_close(scaled, gradient(limit, z_NV, p_NV), atol=1e-3, rtol=1e-3)
    at_the_end = JSD(beta=round(beta))
    torch.testing.assert_close(gradient(at_the_end, z_NV, p_NV), gradient(limit, z_NV, p_NV))


def test_skew_is_bounded_by_minus_log_alpha():
    far = torch.log_softmax(torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]], dtype=torch.float64), dim=-1)
    for kind in (SkewForwardKL, SkewReverseKL):
        value_N = kind(alpha=0.1)(record(far, far.flip(0)))
        assert (value_N <= -math.log(0.1) + 1e-9).all() and (value_N > 2.0).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, V - 1),
    kind=st.sampled_from([ForwardKL(), ReverseKL(), JSD(beta=0.4)]),
    support=st.sampled_from([StudentTopK, TeacherTopK]),
)
def test_tail_is_at_most_the_full_divergence_and_general_at_least_zero(seed, k, kind, support):
    z_NV, p_NV = pair(seed)
    full_N = kind(record(z_NV, p_NV))
    tail_N, general_N, renormalised_N = (
        replace(kind, support=support(k=k, rest=rest))(record(z_NV, p_NV)) for rest in ("tail", "general", "renorm")
    )
    assert (tail_N <= full_N + 1e-9).all() and (tail_N >= -1e-9).all()
    assert (general_N >= -1e-9).all() and (renormalised_N >= -1e-9).all()
    if k == V - 1:
        torch.testing.assert_close(tail_N, full_N)


def test_student_top_k_takes_the_student_s_tokens():
    z_1V = torch.tensor([[3.0, 2.0, -1.0, -2.0]], dtype=torch.float64)
    p_1V = torch.log_softmax(z_1V.flip(1), dim=-1)
    values = [
        ReverseKL(support=support(k=2, rest="general"))(record(z_1V, p_1V)) for support in (StudentTopK, TeacherTopK)
    ]
    q, p = torch.softmax(z_1V, -1)[0], p_1V.exp()[0]
    for value, kept in zip(values, ([0, 1], [2, 3]), strict=True):
        wanted = sum(q[v] * (q[v] / p[v]).log() - q[v] + p[v] for v in kept)
        torch.testing.assert_close(value[0], wanted)


def test_tail_keeps_its_digits_when_almost_all_mass_is_in_the_support():
    z_1V = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float32).requires_grad_()
    p_1V = torch.log_softmax(torch.tensor([[60.0, 0.0, 0.0]]), dim=-1)
    config = ReverseKL(support=StudentTopK(k=1, rest="tail"))
    value = config(record(z_1V, p_1V))
    assert torch.isfinite(value).all() and torch.isfinite(gradient(config, z_1V, p_1V)).all()
    torch.testing.assert_close(value.item(), 2 * math.exp(-40) * 20, rtol=0.2, atol=1e-12)


def test_clips():
    z_NV, p_NV = pair(seed=2)
    p, q = p_NV.exp(), torch.softmax(z_NV, dim=-1)
    clipped_N = ForwardKL(entry_clip=0.05)(record(z_NV, p_NV))
    torch.testing.assert_close(clipped_N, (p * (p / q).log()).clamp(max=0.05).sum(-1))
    token_N = torch.arange(5)
    config = PolicyGradient(adv_clip=0.3)
    advantage_N = (p_NV - q.log()).gather(-1, token_N[:, None]).squeeze(-1)
    assert (advantage_N.abs() > 0.3).any()
    torch.testing.assert_close(config(record(z_NV, p_NV, token_N)), -advantage_N.clamp(-0.3, 0.3))


def test_only_the_student_carries_gradient():
    z_NV, p_NV = pair(seed=9)
    p_NV = p_NV.requires_grad_()
    config = PolicyGradient()
    config(record(z_NV, p_NV)).sum().backward()
    assert z_NV.grad.abs().max() > 0 and p_NV.grad is None


@pytest.mark.parametrize(
    "settings_, message",
    [
        ({"kind": "kl"}, "divergence.kind=kl is not known .did you mean rkl.*accepted: none, nll, ranking, fkl, rkl"),
        ({"kind": "rkl_k1"}, "divergence.kind=rkl_k1: the teacher cancels.*accepted: "),
        ({"kind": "rkl", "support": "top"}, "divergence.support=top is not known.*student_topk"),
        ({"kind": "rkl_pg", "support": "full"}, "divergence.support=full: unknown setting.*divergence.adv_clip"),
        ({"kind": "jsd", "beta": 1.5}, "beta=1.5"),
        ({"kind": "jsd", "beta": None}, "divergence.beta=null: expected a number"),
        ({"kind": "rkl", "beta": 0.5}, "divergence.beta=0.5: unknown setting"),
        ({"kind": "skew_fkl", "alpha": 0.0}, "alpha=0.0"),
        ({"kind": "rkl", "support": {"kind": "teacher_topk", "k": 0}}, "support.k=0"),
        ({"kind": "rkl", "support": {"kind": "teacher_topk", "rest": "drop"}}, "no divergence"),
        ({"kind": "rkl", "support": {"kind": "teacher_topk", "rest": "half"}}, "one side only"),
        ({"kind": "veto", "support": {"kind": "teacher_topk", "rest": "general"}}, "rest=general"),
        ({"kind": "rkl", "support": {"kind": "full", "k": 4}}, "divergence.support.k=4: unknown setting.*nothing"),
        ({"kind": "rkl", "adv_clip": 1.0}, "divergence.adv_clip=1.0: unknown setting"),
        ({"kind": "rkl", "entry_clip": -1.0}, "entry_clip=-1.0"),
        ({"kind": "nll", "entry_clip": 1.0}, "divergence.entry_clip=1.0: unknown setting"),
        ({"kind": "ranking", "k": 1}, "k=1: accepted: 2 or more"),
        ({"kind": "rkl_pg", "gamma": 1.5}, "gamma=1.5"),
        ({"kind": "rkl_pg", "length_norm": True}, "without divergence.gamma"),
        ({"kind": "rkl_pg", "decompose": True}, "without divergence.gamma"),
        ({"kind": "rkl_pg", "baseline": "mean"}, "accepted: rkl"),
        ({"kind": "rkl_pg", "ratio": False, "clip": 0.2}, "clip=0.2 has no effect"),
        ({"kind": "rkl_pg", "clip": 1.2}, "clip=1.2: accepted: above 0, below 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings_, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(Divergence, merge(Divergence, None, settings_, "divergence"))
    assert "\n" not in str(caught.value)


def test_every_divergence_is_covered_here():
    covered = {*KLS, *(type(config) for config in SAMPLED), NLL, Ranking, NoDivergence}
    covered |= {TopKPolicyGradient, AdaptiveKL, TAID, Veto, SquaredGap}
    assert set(Divergence.options.values()) == covered
