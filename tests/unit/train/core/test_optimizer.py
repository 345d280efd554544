"""Optimisers against torch's own and against linear algebra, and the shape of the schedules."""

import math

import pytest
import torch
from torch import nn

from models.gpt import GPT, GPTConfig
from train.core.optimizer import Muon, MuonConfig, OptimConfig, Optimizer, Schedule, orthogonalise


class Net(nn.Module):
    """Two 'blocks' with a stacked qkv, a tall and a wide matrix, and an embedding outside."""

    def __init__(self, seed=0):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"qkv": nn.Linear(8, 24), "up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}) for _ in range(2)
        )
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.3

    def forward(self, x):
        x = self.embed(x)
        for b in self.blocks:
            q, k, v = b["qkv"](x).chunk(3, -1)
            x = x + b["down"](torch.relu(b["up"](x + q * k.sigmoid() + v)))
        return x.square().mean()


def gradients(net, step):
    tokens = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(step))
    net(tokens).backward()


def test_the_adamw_part_is_torchs_adamw():
    ours, theirs = Net(), Net()
    schedule = Schedule("wsd", warmup_steps=3, decay=0.5)
    config = OptimConfig(lr=0.01, weight_decay=0.1, muon=None)
    optimizer = Optimizer(ours, config)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01, betas=(0.9, 0.99), eps=1e-8, foreach=False, fused=False,
    )  # fmt: skip
    for step in range(10):
        gradients(ours, step)
        gradients(theirs, step)
        scale = schedule(step / 10, step)
        optimizer.step(scale)
        for group in reference.param_groups:
            group["lr"] = 0.01 * scale
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 16), (1, 1, 5)])
def test_orthogonalise_keeps_directions_and_flattens_singular_values(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    x = orthogonalise(g)
    inner = u.mT @ x @ vh.mT  # diagonal, entries near one
    diagonal = torch.diagonal(inner, dim1=1, dim2=2)
    assert torch.allclose(inner, torch.diag_embed(diagonal), atol=1e-4)
    assert diagonal.min() > 0.5 and diagonal.max() < 1.3
    assert torch.allclose(orthogonalise(1000 * g), x, atol=1e-4)


def reference_muon(p, momentum, lr, beta, decay):
    """One matrix at a time, as the algorithm is written down (Jordan et al. 2024)."""
    momentum.mul_(beta).add_(p.grad, alpha=1 - beta)
    x = (1 - beta) * p.grad + beta * momentum
    x = x / x.norm()
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    p.data = p.data * (1 - lr * decay) - lr * max(1, p.shape[0] / p.shape[1]) ** 0.5 * x


def test_batched_muon_is_muon_one_by_one_and_close_to_torchs():
    ours, plain, torchs = Net(), Net(), Net()

    def matrices(net):
        return [(n, p) for n, p in net.named_parameters() if n.startswith("blocks") and p.ndim == 2 and "qkv" not in n]

    muon = Muon(matrices(ours), MuonConfig(lr=0.02, momentum=0.9, weight_decay=0.1))
    reference = torch.optim.Muon([p for _, p in matrices(torchs)], lr=0.02, momentum=0.9, weight_decay=0.1)
    momenta = [torch.zeros_like(p) for _, p in matrices(plain)]
    for step in range(4):
        ours.zero_grad()
        gradients(ours, step)
        for (_, a), (_, b), (_, c) in zip(matrices(ours), matrices(plain), matrices(torchs), strict=True):
            b.grad, c.grad = a.grad.clone(), a.grad.clone()
        scale = 1.0 - 0.2 * step
        muon.step(scale)
        for (_, p), momentum in zip(matrices(plain), momenta, strict=True):
            reference_muon(p, momentum, 0.02 * scale, 0.9, 0.1)
        reference.param_groups[0]["lr"] = 0.02 * scale
        reference.step()
    start = dict(Net().named_parameters())
    for (name, a), (_, b), (_, c) in zip(matrices(ours), matrices(plain), matrices(torchs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
        moved, expected = (a - start[name]).detach().flatten(), (c - start[name]).detach().flatten()
        assert torch.cosine_similarity(moved, expected, dim=0) > 0.95, name  # torch iterates in bfloat16


@pytest.mark.parametrize("shape", [(16, 64), (24, 24), (16, 48)])
@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("decades", [1, 4, 8])
def test_orthogonalise_is_the_plain_iteration_also_for_small_singular_values(shape, iterations, decades):
    """Keeping only the square of the matrix would lose every singular value below 1e-4 of the largest."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(2, *shape, generator=generator).double(), full_matrices=False)
    g = u * torch.logspace(0, -decades, shape[0], dtype=torch.float64) @ v
    x = g / g.flatten(1).norm(dim=1)[:, None, None]
    for _ in range(iterations):
        s = x @ x.mT
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    assert (orthogonalise(g.float(), iterations) - x).norm() < 2e-5 * x.norm()


def test_each_of_the_stacked_maps_is_orthogonalised_alone():
    net = Net()
    before = net.blocks[0]["qkv"].weight.detach().clone()
    gradients(net, 0)
    net.blocks[0]["qkv"].weight.grad[:8] *= 1e6  # huge queries must not drown keys and values
    Muon([("blocks.0.qkv.weight", net.blocks[0]["qkv"].weight)], MuonConfig(lr=1.0, weight_decay=0.0)).step(1.0)
    change = (net.blocks[0]["qkv"].weight.detach() - before).unflatten(0, (3, 8))
    for part in change:
        assert torch.linalg.svdvals(part)[0] == pytest.approx(1.0, abs=0.3)


def test_muon_takes_the_matrices_in_blocks_and_adamw_all_else():
    optimizer = Optimizer(Net(), OptimConfig(muon=MuonConfig()))
    assert {n for group in optimizer.muon.groups.values() for n, _ in group} == {
        f"blocks.{i}.{part}.weight" for i in range(2) for part in ("qkv", "up", "down")
    }
    assert sum(len(g["params"]) for g in optimizer.adamw.param_groups) == 1 + 2 * 3
    decays = {p.ndim: g["weight_decay"] for g in optimizer.adamw.param_groups for p in g["params"]}
    assert decays == {2: 0.0, 1: 0.0}


def test_which_weights_of_a_gpt_go_where():
    model = GPT(GPTConfig(20, 1, 2, 16, 32, conv=2, token_shift=2, qk_norm=True, tied=False))
    optimizer = Optimizer(model, OptimConfig(muon=MuonConfig()))
    assert {n.removeprefix("blocks.0.") for group in optimizer.muon.groups.values() for n, _ in group} == {
        "attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight", "conv_attn.shift", "conv_mlp.shift",
    }  # fmt: skip
    outside = {id(p) for g in optimizer.adamw.param_groups for p in g["params"]}
    assert {n for n, p in model.named_parameters() if id(p) in outside and "blocks" not in n} == {
        "embed.weight", "embed.shift", "ln_final.weight", "unembed.weight",
    }  # fmt: skip


@pytest.mark.parametrize("muon", [None, MuonConfig()])
def test_state_round_trip_continues_to_the_bit(tmp_path, muon):
    config = OptimConfig(muon=muon, weight_decay=0.01)
    straight = Net()
    optimizer = Optimizer(straight, config)
    for step in range(6):
        if step == 3:
            torch.save({"model": straight.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
        gradients(straight, step)
        optimizer.step(0.5)
        optimizer.zero_grad()
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    resumed = Net(seed=1)
    resumed.load_state_dict(saved["model"])
    optimizer = Optimizer(resumed, config)
    optimizer.load_state_dict(saved["optimizer"])
    for step in range(3, 6):
        gradients(resumed, step)
        optimizer.step(0.5)
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_clip_bounds_the_norm_and_zero_means_no_bound():
    def norm(net):
        return math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))

    net = Net()
    gradients(net, 0)
    whole = norm(net)
    assert Optimizer(net, OptimConfig(clip=0.0)).clip().item() == pytest.approx(whole)
    assert norm(net) == pytest.approx(whole)
    assert Optimizer(net, OptimConfig(clip=1e-3)).clip().item() == pytest.approx(whole)
    assert norm(net) == pytest.approx(1e-3, rel=1e-3)


def test_schedules():
    wsd = Schedule("wsd", warmup_steps=4, decay=0.5)
    assert [wsd(0.0, s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [wsd(p, 100) for p in (0.25, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0]
    cosine = Schedule("cosine", warmup_steps=0, floor=0.1)
    assert [cosine(p, 0) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1])
    linear = Schedule("linear", warmup_steps=0)
    assert [linear(p, 0) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    fraction = Schedule("constant", warmup_steps=0, warmup=0.1)
    assert [fraction(p, 50) for p in (0.0, 0.05, 0.1, 0.9)] == pytest.approx([0.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule("step"), r"shape=step: accepted: wsd"),
        (lambda: Schedule(decay=1.5), r"decay=1\.5"),
        (lambda: Schedule(warmup_steps=-1), "warmup_steps=-1"),
        (lambda: OptimConfig(lr=0.0), r"lr=0\.0"),
        (lambda: OptimConfig(beta2=1.0), r"beta2=1\.0"),
        (lambda: OptimConfig(clip=-1.0), r"clip=-1\.0"),
        (lambda: MuonConfig(momentum=1.0), r"momentum=1\.0"),
        (lambda: MuonConfig(iterations=0), r"iterations=0"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
