"""Losses in blocks of positions: equal to one pass for every kind of loss, and far smaller at a large vocabulary."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.gpt import GPT, GPTConfig
from tests.helpers.opd_batches import FOUR, STUDENT, gradient, model, objective
from train.opd import log_probs
from train.opd.divergence.interface_and_topk import NLL, RESTS, Ranking, StudentTopK, TeacherTopK
from train.opd.divergence.kl_and_jsd import JSD, ForwardKL, ReverseKL, SkewForwardKL, SkewReverseKL, ToDi
from train.opd.divergence.sampled_kl import K2, K3, PolicyGradient
from train.opd.log_probs import BlockwiseLoss, Scored, blocks, next_token_log_probs
from train.opd.method import Method, Term
from train.opd.outcome.outcome import GRPO
from train.opd.regularizer import RegularizerConfig
from train.opd.teacher.external_and_oracle import ExternalTeacher, OracleTeacher, RouteByOps, RouteToLikeliest
from train.opd.teacher.self_teachers import TrustRegionTeacher
from train.opd.teacher.transforms import Power
from train.opd.weight.token_weights import Opener, Tip
from train.opd.weight.weight import WeightConfig

N, C, V = 11, 5, 40
LENGTHS = torch.tensor([4, 1, 6])


LOSSES = [
    ForwardKL(), ReverseKL(), JSD(beta=0.3), SkewForwardKL(), SkewReverseKL(), ToDi(),
    *(kind(support=support(k=3, rest=rest)) for kind in (ForwardKL, JSD) for support in (StudentTopK, TeacherTopK)
      for rest in RESTS),
    PolicyGradient(), K2(), K3(), PolicyGradient(baseline="rkl"),
    PolicyGradient(gamma=0.9, length_norm=True, decompose=True), ForwardKL(entry_clip=0.05), NLL(), Ranking(k=4),
]  # fmt: skip


@pytest.mark.parametrize("config", LOSSES, ids=str)
def test_a_loss_in_blocks_has_the_value_and_gradients_of_one_pass(config, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states_NC, weight_VC = (torch.randn(n, C, generator=generator).requires_grad_() for n in (N, V))
    teacher_NV = torch.randn(N, V, generator=generator).log_softmax(-1)
    token_N, count_N = torch.randint(V, (N,), generator=generator), torch.rand(N, generator=generator)
    behaviour_N = -torch.rand(N, generator=generator)
    row_N = torch.repeat_interleave(torch.arange(3), LENGTHS)
    time_N = torch.cat([torch.arange(int(n)) for n in LENGTHS])

    def loss_of(at, log_probs_nV):
        tracks = (track_N[at] for track_N in (token_N, behaviour_N, row_N, time_N))
        return (count_N[at] * config(Scored(log_probs_nV, teacher_NV[at], None, *tracks))).sum()

    whole = loss_of(slice(None), next_token_log_probs(states_NC, weight_VC))
    wanted = torch.autograd.grad(3.0 * whole, (states_NC, weight_VC))
    monkeypatch.setitem(log_probs.ENTRIES, "cpu", 2 * V)
    parts = blocks(LENGTHS, V, whole_rows=config.whole_responses)
    assert len(parts) == (3 if config.whole_responses else 6)
    total = BlockwiseLoss(states_NC, weight_VC, parts)
    for block in total:
        total.add(loss_of(block, total.log_probs()))
    cut = total.loss()
    torch.testing.assert_close(cut, whole)
    for found, right in zip(torch.autograd.grad(3.0 * cut, (states_NC, weight_VC)), wanted, strict=True):
        assert right.abs().max() > 1e-4
        torch.testing.assert_close(found, right, atol=1e-6, rtol=1e-4)


def test_blocks_cover_all_positions_once_and_hold_whole_responses_where_asked(monkeypatch):
    monkeypatch.setitem(log_probs.ENTRIES, "cpu", 5 * V)
    assert [(s.start, s.stop) for s in blocks(LENGTHS, V)] == [(0, 5), (5, 10), (10, 11)]
    assert [(s.start, s.stop) for s in blocks(LENGTHS, V, whole_rows=True)] == [(0, 5), (5, 11)]
    assert [(s.start, s.stop) for s in blocks(LENGTHS, 10 * V, whole_rows=True)] == [(0, 4), (4, 5), (5, 11)]
    assert blocks(LENGTHS, 1) == [slice(0, 11)]


METHODS = {
    "transformed": Method("m", STUDENT, ExternalTeacher(transform=Power(exponent=1.25)), ReverseKL(),
                          WeightConfig(token=[Tip(share=0.5)]), RegularizerConfig(ref_kl=0.1, gold_nll=0.1)),
    "future": Method("m", FOUR, divergence=PolicyGradient(gamma=1.0), outcome=GRPO()),
    "terms": Method("m", STUDENT, TrustRegionTeacher(rate=0.5, context="gold"), ForwardKL(),
                    also=[Term(NLL(), WeightConfig(token=[Opener(share=0.2)]))]),
    "oracle": Method("m", STUDENT, OracleTeacher(policy="continue"), ForwardKL()),
    "routed": Method("m", STUDENT, ExternalTeacher(route=RouteByOps(bounds=[1]))),
    "likeliest": Method("m", STUDENT, ExternalTeacher(route=RouteToLikeliest())),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_blocks_is_a_step_in_one_piece(name, source, prompts, monkeypatch):
    method, student = METHODS[name], model(source, 0)
    count = 0 if not method.needs_teacher else 2 if method.teacher.route else 1
    external = [model(source, 1), model(source, 2)][:count]
    with torch.no_grad():
        student.blocks[0].mlp.up.weight += 0.1  # no longer the student that `trust` starts from
    found = []
    for entries in (2**22, 3 * student.config.vocab_size):
        monkeypatch.setitem(log_probs.ENTRIES, "cpu", entries)
        o = objective(method, prompts, student, *external)
        found.append((*gradient(o, student), dict(o(student, 0).metrics)))
    assert found[0][1].norm() > 1e-4
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5, abs=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-3)
    assert found[0][2].pop("accuracy_by_ops") == found[1][2].pop("accuracy_by_ops")
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-4, abs=1e-6)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def freed(self, at: int, size: int) -> None:
        self.seen.discard(at)
        self.now -= size


@pytest.mark.parametrize("config", [JSD(), JSD(support=StudentTopK(k=20))], ids=["full", "tail"])
def test_at_gpt2_s_vocabulary_less_lives_than_one_copy_of_the_log_probabilities(config):
    size, positions = 50257, 1536
    model = GPT(GPTConfig(size, n_layer=1, n_head=1, n_embd=8, context=8))
    weight_VC = model.embed.weight
    states_NC = torch.randn(positions, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher_NC = states_NC.detach() + 1.0
    at_N = torch.zeros(positions, dtype=torch.long)

    def loss_of(at, log_probs_nV):
        with torch.no_grad():
            target_nV = next_token_log_probs(teacher_NC[at], weight_VC)
        return config(Scored(log_probs_nV, target_nV, None, at_N[at], at_N[at], at_N[at], at_N[at])).mean()

    with Peak() as peak:
        total = BlockwiseLoss(states_NC, weight_VC, blocks(torch.tensor([positions]), size))
        for block in total:
            total.add(loss_of(block, total.log_probs()))
        total.loss().backward()
    one_copy = 4 * positions * size
    print(f"peak {peak.most / 2**20:.0f} MB, one copy {one_copy / 2**20:.0f} MB")
    assert states_NC.grad.abs().max() > 0 and weight_VC.grad.abs().max() > 0
    assert 2 * 4 * log_probs.ENTRIES["cpu"] < peak.most < one_copy
