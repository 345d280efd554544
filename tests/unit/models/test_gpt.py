"""The model: its settings, its first weights, its causality, and that a cache changes nothing."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from models import gpt
from models.decode.cache import KVCache
from models.flops import matmul_params, n_params
from models.gpt import GPT, GPTConfig
from tests.helpers.paths import CONFIGS
from tests.helpers.untrained_models import perturbed

MODELS = CONFIGS / "model"
BASE = {"vocab_size": 23, "n_layer": 2, "n_head": 2, "n_embd": 16, "context": 48}
VARIANTS = {
    "plain": {},
    "gpt2": {"norm": "layernorm", "bias": True},
    "gpt2_untied": {"norm": "layernorm", "bias": True, "tied": False},
    "llama": {"mlp": "swiglu", "mlp_ratio": 8 / 3, "tied": False},
    "relu2": {"mlp": "relu2", "rope_base": 1000.0},
    "qk_norm": {"qk_norm": True},
    "half_rope": {"rope_fraction": 0.5},
    "quarter_rope": {"rope_fraction": 0.25, "n_head": 1},
    "no_positions": {"rope_fraction": 0.0, "token_shift": 1},
    "shift": {"token_shift": 3},
    "conv": {"conv": 3, "token_shift": 1},
    "mix_beyond_prompts": {"conv": 9, "token_shift": 9},
    "quickstart": {
        "mlp": "relu2",
        "qk_norm": True,
        "rope_fraction": 0.5,
        "token_shift": 4,
        "conv": 3,
        "tied": False,
    },
    "biased_swiglu": {"mlp": "swiglu", "bias": True, "norm": "layernorm", "qk_norm": True},
}
variants = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def lively(settings: dict, seed: int = 1) -> GPT:
    """A model in which every tensor matters: all weights are far from their quiet initial values."""
    return perturbed(GPT(GPTConfig(**{**BASE, **settings})), 0.3, seed)


def random_tokens(*shape: int, seed: int = 0, vocab: int = 23) -> Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("setting", "value", "accepted"),
    [
        ("vocab_size", 0, "at least 1"),
        ("n_layer", 2.0, "integer"),
        ("n_head", True, "integer"),
        ("n_embd", 15, "multiple of n_head=2"),
        ("context", -1, "at least 1"),
        ("norm", "batch", "rmsnorm, layernorm"),
        ("mlp", "relu", "gelu, swiglu, relu2"),
        ("mlp_ratio", 0.0, "above 0"),
        ("rope_base", -1.0, "above 0"),
        ("rope_fraction", 1.5, "from 0 to 1"),
        ("rope_fraction", 0.4, "even number"),
        ("qk_norm", "yes", "true or false"),
        ("tied", 1, "true or false"),
        ("token_shift", -1, "at least 0"),
        ("conv", -1, "at least 0"),
        ("conv", 1.5, "at least 0"),
        ("init_std", float("nan"), "a number"),
        ("bias", None, "true or false"),
    ],
)
def test_errors_name_the_setting_its_value_and_what_is_accepted(setting, value, accepted):
    with pytest.raises(ValueError, match=f"{setting}={value!r}.*{accepted}"):
        GPTConfig(**{**BASE, setting: value})


def test_weights_depend_on_the_seed_and_on_nothing_else():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = GPT(GPTConfig(**BASE), seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state), "building a model drew from the global generator"
    torch.manual_seed(1)
    again = GPT(GPTConfig(**BASE), seed=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = GPT(GPTConfig(**BASE), seed=4).state_dict()
    assert not torch.equal(first["embed.weight"], other["embed.weight"])
    richer = GPT(GPTConfig(**{**BASE, "qk_norm": True, "token_shift": 2, "conv": 1, "bias": True}), 3).state_dict()
    assert all(torch.equal(first[name], richer[name]) for name in first), "a new part changed another tensor"


def test_initial_law_of_every_tensor():
    config = GPTConfig(64, 2, 2, 64, 16, norm="layernorm", qk_norm=True, tied=False, token_shift=2, conv=2, bias=True)
    for name, p in GPT(config).named_parameters():
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if kind in ("bias", "shift"):
            assert not p.any(), name
        elif kind in ("embed", "unembed", "qkv", "up"):
            assert p.std().item() == pytest.approx(0.02, rel=0.05), name
        elif kind in ("out", "down"):
            assert p.std().item() == pytest.approx(0.02 / 2, rel=0.05), name
        else:
            assert p.ndim == 1, name
            assert (p == 1).all(), name


@variants
def test_counts_of_parameters(settings):
    config = GPTConfig(**{**BASE, **settings})
    assert n_params(config) == sum(p.numel() for p in GPT(config).parameters())
    matrices = {
        n: p
        for n, p in GPT(config).named_parameters()
        if n.startswith("blocks") and n.endswith(".weight") and p.ndim == 2
    }
    assert matmul_params(config) == sum(map(Tensor.numel, matrices.values())) + config.vocab_size * config.n_embd


@variants
def test_every_parameter_learns(settings):
    model = lively(settings)
    F.cross_entropy(model(random_tokens(2, 9)).flatten(0, 1), random_tokens(18, seed=1)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-5]
    assert silent == []


@variants
def test_the_future_does_not_reach_the_past(settings):
    model, tokens = lively(settings), random_tokens(2, 12)
    changed = tokens.clone()
    changed[:, 7:] = random_tokens(2, 5, seed=9)
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-2)


@variants
def test_right_padding_changes_nothing(settings):
    model, tokens = lively(settings), random_tokens(3, 20)
    with torch.no_grad():
        assert torch.allclose(model(F.pad(tokens, (0, 9)))[:, :20], model(tokens), atol=1e-5)


@variants
def test_cached_logits_equal_a_full_forward(settings):
    model, tokens, lengths = lively(settings), random_tokens(5, 30), torch.tensor([4, 11, 1, 10, 7])
    with torch.no_grad():
        full = model(tokens)
        cache = KVCache(model, 5, 40)
        read = model(tokens[:, :11], cache)  # the prompts, right-padded with tokens that must not matter
        cache.truncate(lengths)
        for b, length in enumerate(lengths):
            assert torch.allclose(read[b, :length], full[b, :length], atol=1e-5)
        for n_tokens in (1, 1, 3, 1, 5, 1):  # one at a time and several at once
            at = cache.lengths_B[:, None] + torch.arange(n_tokens)
            piece = model(tokens.gather(1, at), cache)
            expected = full.gather(1, at[..., None].expand(-1, -1, full.shape[-1]))
            assert torch.allclose(piece, expected, atol=1e-5)
    assert cache.lengths_B.tolist() == [16, 23, 13, 22, 19]


def test_rows_leave_and_join_a_cache():
    model, tokens = lively(VARIANTS["quickstart"]), random_tokens(6, 30)
    with torch.no_grad():
        full = model(tokens)
        read = KVCache(model, 3, 12)
        model(tokens[:3, :12], read)
        read.truncate(torch.tensor([12, 5, 8]))
        cache = KVCache(model, 8, 40, empty=True)
        cache.append_rows(read, torch.tensor([2, 0, 0, 1]))
        source = torch.tensor([2, 0, 0, 1])
        model(tokens[source].gather(1, cache.lengths_B[:, None]), cache)
        old = cache.keep_rows(torch.tensor([False, True, False, True]))
        source = source[old]
        assert sorted(source.tolist()) == [0, 1]
        cache.append_rows(read, torch.tensor([2]))
        source = torch.cat((source, torch.tensor([2])))
        for _ in range(4):
            at = cache.lengths_B.clone()
            logits = model(tokens[source].gather(1, at[:, None]), cache)[:, 0]
            assert torch.allclose(logits, full[source, at], atol=1e-5)


def test_a_rejected_ending_is_forgotten():
    model, tokens = lively(VARIANTS["quickstart"]), random_tokens(2, 12)
    with torch.no_grad():
        cache = KVCache(model, 2, 20)
        model(random_tokens(2, 9, seed=5), cache)
        cache.truncate(torch.tensor([0, 0]))
        assert torch.allclose(model(tokens, cache), model(tokens), atol=1e-5)


def test_cache_errors_name_the_setting():
    model = lively({})
    with pytest.raises(ValueError, match=r"capacity=49: .*context=48"):
        KVCache(model, 2, 49)
    cache = KVCache(model, 2, 8)
    with torch.no_grad():
        model(random_tokens(2, 6), cache)
        with pytest.raises(ValueError, match=r"capacity=8: .*6 \+ 3"):
            model(random_tokens(2, 3), cache)
        with pytest.raises(ValueError, match="expected the cache's 2"):
            model(random_tokens(3, 1), cache)
    with pytest.raises(ValueError, match="context=48: too short for 49"):
        model(random_tokens(1, 49))


@variants
@pytest.mark.parametrize("packed", [False, True])
def test_logits_and_gradients_at_chosen_positions_only(settings, packed):
    """The last block leaves out what is not read; where somebody watches it, it does not."""
    model, tokens = lively(settings), random_tokens(3, 10)
    segments = torch.tensor([[0] * 4 + [1] * 6] * 3) if packed else None
    at_N, target_N = torch.tensor([29, 0, 13, 13, 7]), torch.tensor([1, 2, 3, 4, 5])
    expected = model(tokens, segments_BT=segments).flatten(0, 1)[at_N]
    F.cross_entropy(expected, target_N).backward()
    slopes = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    rows = []
    handle = model.blocks[-1].mlp.up.register_forward_pre_hook(lambda _module, inputs: rows.append(inputs[0].shape))
    watched = model(tokens, at_N=at_N, segments_BT=segments)
    handle.remove()
    model.blocks[0].mlp.up.register_forward_pre_hook(lambda _module, inputs: rows.append(inputs[0].shape))
    found = model(tokens, at_N=at_N, segments_BT=segments)
    F.cross_entropy(found, target_N).backward()
    assert rows == [(3, 10, BASE["n_embd"])] * 2, "all positions where watched, and in the blocks before the last"
    for other in (found, watched):
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5)
    for p, slope in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(p.grad, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_last_block_is_computed_where_it_is_read(monkeypatch, compiled):
    model, tokens, rows, plain = lively({"n_layer": 2}), random_tokens(3, 10), {}, F.linear
    if not compiled:
        monkeypatch.setattr(gpt, "shortcut", None)
    monkeypatch.setattr(F, "linear", lambda x, w, b=None: rows.update({w: x.numel() // x.shape[-1]}) or plain(x, w, b))
    model(tokens, at_N=torch.tensor([29, 0, 13, 13, 7]))
    assert [rows[block.mlp.up.weight] for block in model.blocks] == [30, 5]


def test_token_shift_mixes_the_embeddings_of_earlier_tokens():
    model, tokens = lively({"token_shift": 2}), random_tokens(1, 6)
    weight, shift = model.embed.weight, model.embed.shift
    for t in range(6):
        expected = weight[tokens[0, t]].clone()
        for j in (1, 2):
            if t >= j:
                expected += shift[j - 1] * weight[tokens[0, t - j]]
        assert torch.allclose(model.embed(tokens, None)[0, t], expected, atol=1e-6)


def test_logits_are_float32_also_in_low_precision():
    model, tokens = lively(VARIANTS["quickstart"]), random_tokens(2, 20)
    exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(tokens)
        with torch.no_grad():
            cached = model(tokens, KVCache(model, 2, 20))
    low = model.bfloat16()(tokens)
    for logits in (mixed, cached, low):
        assert logits.dtype == torch.float32
        assert (logits - exact).abs().mean() < 0.15 * exact.abs().mean()


def test_the_same_step_twice_gives_the_same_bits():
    tokens, gradients = random_tokens(4, 30), []
    for _ in range(2):
        model = lively(VARIANTS["quickstart"])
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_sizes_name_every_setting_but_the_vocabulary(path):
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(settings) == [f.name for f in dataclasses.fields(GPTConfig) if f.name != "vocab_size"]
    config = GPTConfig(vocab_size=100, **settings)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == n_params(config)
