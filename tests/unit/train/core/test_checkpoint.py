"""Checkpoints: what comes back is what went in, and damage is noticed and passed over."""

import os
import resource
import shutil
import signal

import pytest
import torch
from torch import nn

from models.gpt import GPT, GPTConfig
from synth.store.files import read_json_lines
from train.core import checkpoint
from train.core.budget_and_ledger import TrainState
from train.core.optimizer import MuonConfig, OptimConfig, Optimizer

CONFIG = GPTConfig(vocab_size=11, n_layer=1, n_head=2, n_embd=8, context=12)


def trained(seed=0, tied=True):
    model = GPT(GPTConfig(**{**vars(CONFIG), "tied": tied}), seed)
    optimizer = Optimizer(model, OptimConfig(muon=MuonConfig()))
    model(torch.arange(6)[None]).square().mean().backward()
    optimizer.step(1.0)
    return model, optimizer, TrainState(step=3, tokens=18, smooth_loss=0.5)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_all_of_it_comes_back(tmp_path, tied):
    model, optimizer, state = trained(tied=tied)
    folder = checkpoint.save(tmp_path, model, optimizer, state, {"data": "x"}, {"ema": torch.ones(2)})
    assert folder == tmp_path / "checkpoints" / "step-3" and checkpoint.latest(tmp_path) == folder
    other, other_optimizer, other_state = trained(seed=1, tied=tied)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read the record may read the rest
    memory = checkpoint.restore(folder, other, other_optimizer, other_state)
    assert same(model, other) and other_state == state and torch.equal(memory["ema"], torch.ones(2))
    for net, opt in ((model, optimizer), (other, other_optimizer)):
        opt.zero_grad()
        net(torch.arange(6)[None]).square().mean().backward()
        opt.step(0.5)
    assert same(model, other)


def test_load_model_takes_a_run_or_a_step(tmp_path):
    model, optimizer, state = trained()
    folder = checkpoint.save(tmp_path, model, optimizer, state, {"vocabulary": "v"})
    for path in (tmp_path, folder, str(folder)):
        loaded = checkpoint.load_model(path)
        assert loaded.config == CONFIG and same(loaded, model) and not loaded.training
    assert checkpoint.notes(tmp_path) == {"vocabulary": "v"}
    assert (
        checkpoint.weights_digest(tmp_path)
        == read_json_lines(tmp_path / checkpoint.INDEX)[0]["sha256"]["model.safetensors"]
    )


def test_a_path_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"init=.*nowhere: does not exist; accepted: a run folder"):
        checkpoint.load_model(tmp_path / "nowhere", "init")
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        checkpoint.load_model(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        checkpoint.load_model(tmp_path / "file")


def test_a_damaged_step_folder_is_refused_when_asked_for_by_name(tmp_path):
    model, optimizer, state = trained()
    folder = checkpoint.save(tmp_path, model, optimizer, state)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint=.*step-3: its files are not the ones that were saved"):
        checkpoint.load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_step_folder_copied_by_itself_and_cut_is_one_line(tmp_path, name):
    model, optimizer, state = trained()
    (tmp_path / "run").mkdir()
    folder = shutil.copytree(checkpoint.save(tmp_path / "run", model, optimizer, state), tmp_path / "alone" / "x")
    (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.raises(
        ValueError, match=rf"init=.*x: its {name} cannot be read \(.*\); accepted: a checkpoint that is"
    ):
        checkpoint.load_model(folder, "init")


def test_weights_of_another_kind_of_model_are_refused(tmp_path):
    model = nn.Linear(2, 2)
    checkpoint.save(tmp_path, model, Optimizer(model, OptimConfig()), TrainState(step=1))
    with pytest.raises(ValueError, match="not written by a GPT"):
        checkpoint.load_model(tmp_path)


def steps(tmp_path, *numbers, keep=0):
    model, optimizer, state = trained()
    for n in numbers:
        state.step = n
        checkpoint.save(tmp_path, model, optimizer, state, keep=keep)


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, capsys, name, damage):
    steps(tmp_path, 1, 2)
    victim = tmp_path / "checkpoints" / "step-2" / name
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "cut":
        victim.write_bytes(content[:-1])
    else:
        victim.unlink()
    assert checkpoint.latest(tmp_path).name == "step-1"
    assert f"step-2: {name} is damaged" in capsys.readouterr().err
    steps(tmp_path, 2)  # the run comes by again and replaces it
    assert checkpoint.latest(tmp_path).name == "step-2"


def test_a_checkpoint_that_was_not_entered_does_not_count(tmp_path):
    steps(tmp_path, 1, 2)
    lines = (tmp_path / checkpoint.INDEX).read_text().splitlines()
    (tmp_path / checkpoint.INDEX).write_text(lines[0] + "\n" + lines[1][:40])
    (tmp_path / "checkpoints" / ".step-3.tmp").mkdir()
    assert checkpoint.latest(tmp_path).name == "step-1"
    steps(tmp_path, 2)
    assert [line["step"] for line in read_json_lines(tmp_path / checkpoint.INDEX)] == [1, 2]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-1", "step-2"]


def test_only_the_newest_are_kept_and_the_index_remembers_all(tmp_path, capsys):
    steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-4"]
    assert [line["step"] for line in read_json_lines(tmp_path / checkpoint.INDEX)] == [1, 2, 3, 4]
    shutil.rmtree(tmp_path / "checkpoints" / "step-4")
    assert checkpoint.latest(tmp_path).name == "step-3" and capsys.readouterr().err == ""


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path):
    """A child whose files may not grow beyond a size stands for the disk."""
    model, optimizer, state = trained()
    before = checkpoint.save(tmp_path, model, optimizer, state)
    for room in (100, before.joinpath("model.safetensors").stat().st_size + 100):
        state.step += 1
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            try:
                checkpoint.save(tmp_path, model, optimizer, state)
            except ValueError as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        said = os.read(read, 10_000).decode()
        assert f"step-{state.step}: cannot be written" in said and "MB free); accepted: a disk with room" in said
        assert "\n" not in said
        assert checkpoint.latest(tmp_path) == before and [p.name for p in before.parent.iterdir()] == ["step-3"]
