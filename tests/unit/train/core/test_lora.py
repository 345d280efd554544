"""LoRA: what trains, what a checkpoint holds, and that a killed run ends with the same weights to the bit."""

import json
import os

import pytest
import torch

from models.gpt import GPT, GPTConfig
from synth.store.files import read_json_lines
from train import pretrain
from train.config.compose import load, run_entry
from train.core import checkpoint
from train.core.lora import LoraConfig, add_lora, has_lora, merge_lora

TOKENS = torch.arange(40).view(2, 20) % 97
SMALL = [
    "data=smoke", "model=smoke", "optim=adamw", "budget.steps=6", "batch.documents=4", "batch.bucket=2",
    "evaluate.every=3", "evaluate.problems=4", "evaluate.documents=8", "evaluate.samples=2", "out.save_every=2",
]  # fmt: skip


def model(tied: bool = False) -> GPT:
    return GPT(GPTConfig(97, 2, 2, 32, 64, qk_norm=True, tied=tied, token_shift=3, conv=2))


def test_a_new_update_changes_nothing_and_only_updates_train():
    pytest.importorskip("peft")
    plain, tuned = model(), add_lora(model(), LoraConfig(4, 8.0, ["qkv", "up"], 8), seed=0)
    torch.testing.assert_close(plain(TOKENS), tuned(TOKENS))  # the plain one takes the compiled pass
    assert not has_lora(plain) and has_lora(tuned)
    trained = {name: p.numel() for name, p in tuned.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert sum(trained.values()) == 8 * (97 + 32) + 2 * (4 * (32 + 96) + 4 * (32 + 128))


@pytest.mark.parametrize(("tied", "embed"), [(False, 8), (True, 0)])
def test_the_merged_model_is_a_plain_one_of_the_same_function(tied, embed):
    pytest.importorskip("peft")
    tuned = add_lora(model(tied), LoraConfig(4, 8.0, ["qkv", "out", "up", "down"], embed), seed=0)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    plain = merge_lora(tuned)
    assert [*plain.state_dict()] == [*model(tied).state_dict()] and not has_lora(plain)
    assert not torch.allclose(plain(TOKENS), model(tied)(TOKENS), atol=0.1)
    torch.testing.assert_close(plain(TOKENS), tuned(TOKENS))
    if embed:
        assert not torch.equal(plain.embed.weight, model().embed.weight)
        assert torch.equal(plain.embed.shift, model().embed.shift)


def test_the_same_seed_draws_the_same_update_and_leaves_the_global_generator_alone():
    pytest.importorskip("peft")
    before = torch.get_rng_state()
    drawn = [add_lora(model(), LoraConfig(), seed).blocks[0].attn.qkv.lora_A["default"].weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(before, torch.get_rng_state())


def test_a_tied_embedding_is_refused():
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"lora\.embed=8: the embedding is also the unembedding; accepted: 0"):
        add_lora(model(tied=True), LoraConfig(embed=8), seed=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora=paper"], "lora: updates trained weights; accepted: init=RUN, or lora=null"),
        (["lora=paper", "init=x", "optim=muon"], "lora: Muon is for whole matrices; accepted: optim=adamw"),
        (["lora=paper", "init=x", "compile=true"], "lora: accepted: parallel=ddp, compile=false, init_vocabulary=same"),
        (["lora=paper", "lora.rank=0"], "lora.rank=0: accepted: 1 or more"),
        (["lora=paper", "lora.embed=-1"], "lora.embed=-1: accepted: 0 or more"),
        (["lora=paper", "lora.alpha=0"], "lora.alpha=0.0: accepted: above 0"),
        (["lora=paper", "lora.maps=[qkv,mlp]"], "lora.maps=['qkv', 'mlp']: accepted: a list with some of qkv, out"),
        (["lora=papers"], "lora=papers: no such option (did you mean paper?); accepted: paper"),
    ],
)
def test_bad_settings_are_one_line(words, said, tmp_path, capsys):
    words = [*SMALL, *words, f"out.root={tmp_path / 'runs'}"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match=r"the package peft is missing; accepted: pip install 'glasshouse\[lora\]'"):
        add_lora(model(), LoraConfig(), seed=0)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_killed_run_ends_with_the_same_weights_and_readers_get_plain_ones(tmp_path, ema):
    pytest.importorskip("peft")
    base = tmp_path / "base"
    pretrain.main(load("pretrain", pretrain.PretrainConfig, [*SMALL, f"out.folder={base}"]))
    words = [*SMALL, f"init={base}", "lora=paper", "lora.rank=2", "lora.embed=0", "optim.lr=0.01", f"optim.ema={ema}"]
    words += ["data.overrides.retry_rate=0.5"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    pretrain.main(load("pretrain", pretrain.PretrainConfig, [*words, f"out.folder={straight}"]))
    pid = os.fork()
    if not pid:
        whole = pretrain.NextToken.__call__
        pretrain.NextToken.__call__ = lambda self, m, step: os._exit(9) if step == 3 else whole(self, m, step)
        try:
            pretrain.main(load("pretrain", pretrain.PretrainConfig, [*words, f"out.folder={killed}"]))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert [line["step"] for line in read_json_lines(killed / "checkpoints.jsonl")] == [2]
    pretrain.main(load("pretrain", pretrain.PretrainConfig, [*words, f"out.folder={killed}"]))
    assert checkpoint.weights_digest(killed) == checkpoint.weights_digest(straight) != checkpoint.weights_digest(base)
    summary = json.loads((straight / "summary.json").read_text())
    read, start = checkpoint.load_model(straight), checkpoint.load_model(base)
    assert summary["trained"] < summary["parameters"] == sum(p.numel() for p in read.parameters())
    changed = {name for name, p in read.named_parameters() if not torch.equal(p, start.state_dict()[name])}
    assert changed == {f"blocks.{i}.attn.qkv.weight" for i in range(read.config.n_layer)}
    first, last = read_json_lines(straight / "metrics.jsonl")[0], read_json_lines(straight / "metrics.jsonl")[-1]
    assert first["step"] == 0 and last["held_out_loss"] < first["held_out_loss"]
