"""The V-probe: what it trains, that the model stays as it was, a planted signal, the order of texts."""

import copy
import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.gpt import GPT, GPTConfig
from probes.queries.labels import TASKS
from probes.queries.table import draw
from probes.readout import vprobe
from probes.readout.activations import names_between_markers
from probes.readout.controls import majority
from probes.readout.vprobe import VProbe, VProbeConfig
from synth.dataset import Source
from synth.spec import preset


def tiny_model(source):
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": 256, "qk_norm": True, "token_shift": 2, "conv": 2}
    return GPT(GPTConfig(vocab_size=source.world.size, **shape), 0)


@pytest.fixture(scope="module")
def source():
    return Source(preset("tiny", retry_rate=0.3), 0, "train", "probe")


SMALL = VProbeConfig(("nece",), rank=2, steps=3, texts=4)


def test_the_vprobe_trains_u_v_and_head_and_nothing_else(source):
    model = tiny_model(source)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = draw(TASKS["nece"], source, range(10), most=3, seed=0)
    start = VProbe(model, 2, SMALL, 0)
    assert list(start.updated(model)) == ["embed.weight"]
    torch.testing.assert_close(start.updated(model)["embed.weight"], model.embed.weight, rtol=0, atol=0)
    trained = vprobe.train(model, table, 2, SMALL, 0, lambda step, loss: None)
    vprobe.predict(model, trained, table)
    used = {name: parameter for name, parameter in trained.named_parameters() if parameter.numel()}
    assert set(used) == {"u_VR", "v_RC", "head_KC", "bias_K"}
    for name, parameter in used.items():
        assert not torch.equal(parameter, start.get_parameter(name)), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    update = trained.updated(model)["embed.weight"] - model.embed.weight
    assert torch.linalg.matrix_rank(update.detach()) == 2


def test_the_second_version_also_updates_query_and_value_maps_and_no_keys(source):
    model, table = tiny_model(source), draw(TASKS["nece"], source, range(10), most=3, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = dataclasses.replace(SMALL, attention_rank=2)
    start = VProbe(model, 2, config, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in start.updated(model).items())
    trained = vprobe.train(model, table, 2, config, 0, lambda step, loss: None)
    changed = trained.updated(model)
    assert set(changed) == {"embed.weight", *(f"blocks.{i}.attn.qkv.weight" for i in range(model.config.n_layer))}
    for name in set(changed) - {"embed.weight"}:
        queries, keys, values = (changed[name] - before[name]).detach().chunk(3)
        assert torch.linalg.matrix_rank(queries) == torch.linalg.matrix_rank(values) == 2 and not keys.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # what it answers is read from the model with these weights in it, one text with one question at a time
    asking = copy.deepcopy(model)
    for name, weight in changed.items():
        asking.get_parameter(name).data.copy_(weight)
    names = names_between_markers(table)
    with torch.no_grad():
        for q, answer in enumerate(vprobe.predict(model, trained, table)):
            row = torch.tensor([[*table.text(q).tolist(), *names[q].tolist()]])
            assert trained(asking.hidden(row)[:, -1]).argmax() == answer


def test_rank_zero_in_attention_is_the_first_version(source):
    """The same random start, so that results of the first version stay what they were."""
    model = tiny_model(source)
    first, second = (VProbe(model, 2, dataclasses.replace(SMALL, attention_rank=rank), 0) for rank in (0, 2))
    assert torch.equal(first.v_RC, second.v_RC) and torch.equal(first.head_KC, second.head_KC)


def test_the_vprobe_is_a_function_of_its_seed(source):
    model, table = tiny_model(source), draw(TASKS["nece"], source, range(10), most=3, seed=0)
    first, same, other = (vprobe.train(model, table, 2, SMALL, seed, lambda step, loss: None) for seed in (0, 0, 1))
    assert torch.equal(first.u_VR, same.u_VR) and not torch.equal(first.u_VR, other.u_VR)


@pytest.mark.parametrize("planted", [True, False])
def test_the_vprobe_reads_what_is_there_and_no_more(source, planted):
    """Whether the thing is a category: the shift brings the name to the last state; without it, nothing does here."""
    model = tiny_model(source)
    with torch.no_grad():
        model.embed.shift.fill_(float(planted))
        for block in model.blocks:
            block.attn.out.weight.zero_()
    table = draw(TASKS["value"], source, range(80), most=4, seed=0)  # which asks about categories, too
    table = replace(table, label=(table.slot >= 48).astype(np.int64))
    config = VProbeConfig(("nece",), rank=4, steps=50, texts=10, lr=2e-2)
    probe = vprobe.train(model, table, 2, config, 0, lambda step, loss: None)
    right = vprobe.predict(model, probe, table) == table.label
    if planted:
        assert right.all()
    else:
        assert min(majority(table, table).mean(), 1 - majority(table, table).mean()) <= right.mean() < 0.65


def test_every_epoch_shows_each_text_at_most_once():
    lengths = np.random.default_rng(0).integers(10, 60, 103)
    batches = vprobe.order(lengths, 10, 0)
    epoch = [next(batches) for _ in range(10)]
    assert all(len(batch) == 10 for batch in epoch) and len(np.unique(np.concatenate(epoch))) == 100
    spread = np.mean([np.ptp(lengths[batch]) for batch in epoch])
    assert spread < 0.6 * np.mean([np.ptp(lengths[k : k + 10]) for k in range(0, 100, 10)])
    assert not np.array_equal(np.concatenate([next(batches) for _ in range(10)]), np.concatenate(epoch))
    assert len(next(vprobe.order(lengths[:4], 10, 0))) == 4
