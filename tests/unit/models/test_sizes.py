"""The ladder of sizes: every file says how large it is, and says it rightly."""

import dataclasses

import pytest
import torch

from models.gpt import GPT
from models.sizes import FOLDER, main, non_embedding_params, read_size, size_comment

PATHS = sorted(FOLDER.glob("*.yaml"))
PUBLISHED = [(4, 21), (8, 15), (12, 12), (16, 10), (20, 9)]
PUBLISHED_DOUBLE = [(4, 30), (8, 21), (12, 17), (16, 15), (20, 13)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_file_says_its_parameters_and_flops(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert size_comment(read_size(path)) in lines
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_parts_of_a_size_are_those_of_the_model(path):
    config = read_size(path, vocab=11)
    with torch.device("meta"):
        counts = {name: p.numel() for name, p in GPT(config).named_parameters()}
    vocabulary = sum(counts.pop(name, 0) for name in ("embed.weight", "unembed.weight"))
    assert non_embedding_params(config) == sum(counts.values())
    assert vocabulary == 11 * config.n_embd * (1 if config.tied else 2)


@pytest.mark.parametrize(("n_layer", "n_head"), PUBLISHED + PUBLISHED_DOUBLE)
def test_the_published_sizes(n_layer, n_head):
    config = read_size(FOLDER / f"gpt2-{n_layer}-{n_head}.yaml")
    assert (config.n_layer, config.n_head, config.head_dim, config.n_embd) == (n_layer, n_head, 64, 64 * n_head)
    assert (config.norm, config.mlp, config.hidden, config.bias) == ("layernorm", "gelu", 4 * config.n_embd, True)
    assert (config.rope_fraction, config.rope_base, config.tied, config.init_std) == (1.0, 10000.0, True, 0.02)
    assert (config.qk_norm, config.token_shift, config.conv) == (False, 0, 0)
    low, high = (75e6, 90e6) if (n_layer, n_head) in PUBLISHED else (160e6, 180e6)
    assert low < non_embedding_params(config) < high


def test_gpt2_small_has_the_parameters_of_gpt2_less_its_positions():
    """GPT-2 small has 124,439,808 parameters, of which 1024 x 768 are learned positions (Radford et al. 2019)."""
    config = read_size(FOLDER / "gpt2-12-12.yaml")
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(config).parameters()) == 124_439_808 - 1024 * 768


def test_the_modern_shapes_have_the_size_of_the_published_one():
    published = non_embedding_params(read_size(FOLDER / "gpt2-12-12.yaml"))
    llama, qwen3 = (read_size(FOLDER / f"{name}-12-12.yaml") for name in ("llama", "qwen3"))
    assert non_embedding_params(llama) == pytest.approx(published, rel=0.01)
    assert dataclasses.replace(llama, qk_norm=True) == qwen3


def test_the_table_lists_every_size_smallest_first(capsys):
    assert main([]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(names) == [path.stem for path in PATHS] and names[0] == "smoke"
    assert main(["gpt2-12-12", "--vocab", "1751", "--context", "768"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "gpt2-12-12",
        "12",
        "12",
        "768",
        "768",
        "85.1M",
        "86.4M",
        "187M",
    ]


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["gpt2"], "size=gpt2: accepted: gpt2-12-12"),
        (["--vocab", "0"], "vocab_size=0: expected an integer of at least 1"),
        (["--context", "0"], "context=0: expected at least 1"),
    ],
)
def test_bad_input_is_one_line(words, say, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: {say}") and captured.err.count("\n") == 1
