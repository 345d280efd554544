"""Muon on matrices in shards (FSDP2, two gloo processes) takes the steps of one process, to rounding."""

import copy
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.gpt import GPT, GPTConfig
from train.core.distributed import Group, full_model, shard, shard_like
from train.core.optimizer import MuonConfig, OptimConfig, Optimizer

pytestmark = pytest.mark.timeout(300)
# three rows of a mix and 33 of an MLP do not divide by two
CONFIG = GPTConfig(13, 2, 2, 12, 16, mlp_ratio=33 / 12, conv=3, qk_norm=True, tied=False)
OPTIM = OptimConfig(lr=0.01, muon=MuonConfig(lr=0.02, weight_decay=0.1), ema=0.9)


def learn(model, optimizer, steps):
    for step in steps:
        x = torch.randint(13, (4, 9), generator=torch.Generator().manual_seed(step))
        torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
        optimizer.clip()
        optimizer.step(1.0 - 0.1 * step)
        optimizer.zero_grad()


def everything(model, optimizer):
    """Whole weights and the optimiser's state, as a checkpoint has them."""
    with optimizer.averaged():
        weights = {name: tensor.clone() for name, tensor in full_model(model).state_dict().items()}
        return copy.deepcopy({"model": weights, "state": optimizer.state_dict()})


def process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = GPT(CONFIG)
    shard(model, Group(rank, 2))
    optimizer = Optimizer(model, OPTIM)
    learn(model, optimizer, range(3))
    found = {"three": everything(model, optimizer)}
    saved, own = torch.load(folder / "one.pt", weights_only=True), model.state_dict()
    model.load_state_dict({name: shard_like(tensor, own[name]) for name, tensor in saved["model"].items()})
    optimizer.load_state_dict(saved["state"])  # as one process left it
    learn(model, optimizer, range(3, 5))
    found["five"] = everything(model, optimizer)
    found["rows"] = {name: len(m.to_local()) for name, m in optimizer.muon.momentum.items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("muon")
    model = GPT(CONFIG)
    optimizer = Optimizer(model, OPTIM)
    learn(model, optimizer, range(3))
    alone = {"three": everything(model, optimizer)}
    torch.save(alone["three"], folder / "one.pt")
    learn(model, optimizer, range(3, 5))
    alone["five"] = everything(model, optimizer)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=process, args=(rank, folder)) for rank in range(2)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(250)
    assert [p.exitcode for p in processes] == [0, 0]
    return alone, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("when", ["three", "five"])
def test_weights_and_momentum_are_those_of_one_process(found, when):
    alone, shards = found
    first = GPT(CONFIG).state_dict()
    for rank in shards:
        for name, right in alone[when]["model"].items():
            torch.testing.assert_close(rank[when]["model"][name], right, rtol=1e-3, atol=2e-5, msg=name)
        muon = rank[when]["state"]["muon"]
        assert muon.keys() == alone[when]["state"]["muon"].keys() and "blocks.0.attn.qkv.weight:12" in muon
        for name, right in alone[when]["state"]["muon"].items():
            torch.testing.assert_close(muon[name], right, rtol=1e-3, atol=1e-5, msg=name)
    assert all((alone[when]["model"][n] - w).abs().max() > 1e-3 for n, w in first.items())


def test_each_process_holds_its_rows_of_the_momentum_only(found):
    rows = [rank["rows"] for rank in found[1]]
    assert rows[0]["blocks.0.attn.qkv.weight"] == 18 == rows[1]["blocks.0.attn.qkv.weight"]
    assert (rows[0]["blocks.1.mlp.up.weight"], rows[1]["blocks.1.mlp.up.weight"]) == (17, 16)
    assert (rows[0]["blocks.1.conv_mlp.shift"], rows[1]["blocks.1.conv_mlp.shift"]) == (2, 1)
