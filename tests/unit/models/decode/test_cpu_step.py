"""The fused step of one CPU thread beside the modules it stands for."""

from pathlib import Path

import numba
import pytest
import torch
from torch import nn

from models import GPT, GPTConfig, KVCache
from models.decode import cache as cache_module
from models.decode import cpu_kernels, cpu_step
from models.decode.decoder import Decoder
from models.decode.sampling import sample, token_logprobs
from models.hooks import capture, edit

VOCABULARY, ROWS, CAPACITY = 23, 5, 20
SHAPES = {
    "plain": {},
    "gpt2": {"norm": "layernorm", "bias": True, "n_head": 3, "n_embd": 18},
    "swiglu, qk norm, half rotated": {"mlp": "swiglu", "qk_norm": True, "rope_fraction": 0.5, "tied": False},
    "no positions": {"mlp": "relu2", "rope_fraction": 0.0},
    "mixing": {"conv": 3, "token_shift": 7, "qk_norm": True, "norm": "layernorm"},
    "wide heads": {"n_head": 1, "n_embd": 64, "mlp_ratio": 8 / 3, "mlp": "swiglu", "rope_base": 100.0},
}


def model_of(**settings) -> GPT:
    """All parameters random, those too that start at 0 or 1."""
    small = {"vocab_size": VOCABULARY, "n_layer": 2, "n_head": 2, "n_embd": 16, "context": 40}
    model = GPT(GPTConfig(**small | settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def begun(model: GPT, poison: float | None = None) -> KVCache:
    """A cache of rows with 1, 2, 3, 9 and 9 tokens of 9; `poison` is put wherever no row holds anything."""
    tokens = torch.randint(0, VOCABULARY, (ROWS, 9), generator=torch.Generator().manual_seed(1))
    cache = KVCache(model, ROWS, CAPACITY)
    model(tokens, cache)
    cache.truncate(torch.tensor([1, 2, 3, 9, 9]))
    if poison is not None:
        beyond_RK = torch.arange(CAPACITY) >= cache.lengths_R[:, None]
        cache.kv_L2RHKD.masked_fill_(beyond_RK[None, None, :, None, :, None], poison)
        cache.inputs_L2RKC.masked_fill_(beyond_RK[None, None, :, : cache.inputs_L2RKC.shape[3], None], poison)
        cache.tokens_RK[beyond_RK] = VOCABULARY + 10**6
    return cache


def held(cache: KVCache) -> list[torch.Tensor]:
    """What the rows hold: keys and values, and what convolutions read."""
    held_RK = torch.arange(CAPACITY) < cache.lengths_R[:, None]
    found = [cache.kv_L2RHKD.permute(2, 4, 0, 1, 3, 5)[held_RK]]
    return [*found, cache.inputs_L2RKC.permute(2, 3, 0, 1, 4)[held_RK]] if cache.n_conv else found


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_logits_and_cache_are_those_of_the_modules(shape):
    model, steps = model_of(**SHAPES[shape]), 11
    tokens = torch.randint(0, VOCABULARY, (steps, ROWS, 1), generator=torch.Generator().manual_seed(2))
    expected, found = begun(model), begun(model)
    assert cpu_step.is_supported(model, found)
    fused = cpu_step.CPUStep(model, found)
    for token_B1 in tokens:
        torch.testing.assert_close(fused(token_B1), model(token_B1, expected)[:, 0], rtol=1e-4, atol=2e-5)
    for name in ("lengths_R", "tokens_RK", "longest"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
    for one, other in zip(held(found), held(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
    with pytest.raises(ValueError, match=f"capacity={CAPACITY}: too small for {CAPACITY} \\+ 1 tokens"):
        fused(tokens[0])


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_columns_that_a_row_does_not_hold_are_never_read(shape):
    model = model_of(**SHAPES[shape])
    token_B1 = torch.arange(ROWS)[:, None]
    clean, poisoned = (cpu_step.CPUStep(model, begun(model, poison)) for poison in (None, float("nan")))
    for _ in range(3):
        assert torch.equal(clean(token_B1), poisoned(token_B1))


@torch.no_grad()
def test_fewer_rows_than_the_cache_has():
    model = model_of(conv=2)
    caches = [begun(model) for _ in range(2)]
    for cache in caches:
        cache.keep_rows(torch.tensor([True, False, True, True, False]))
    token_B1 = torch.tensor([[1], [2], [3]])
    expected = model(token_B1, caches[0])[:, 0]
    torch.testing.assert_close(cpu_step.CPUStep(model, caches[1])(token_B1), expected, rtol=1e-4, atol=2e-5)


SPOILT = {
    "a forward of its own": lambda model: setattr(model.blocks[0].mlp, "forward", lambda x: x),
    "hidden of its own": lambda model: setattr(model, "hidden", model.hidden),
    "another eps": lambda model: setattr(model.ln_final, "eps", 0.1),
    "a norm without weights": lambda model: setattr(model, "ln_final", nn.LayerNorm(16, elementwise_affine=False)),
    "blocks in another order": lambda model: setattr(model, "blocks", nn.ModuleList(reversed(list(model.blocks)))),
    "a block less": lambda model: setattr(model, "blocks", model.blocks[:1]),
    "a part in bf16": lambda model: model.ln_final.bfloat16(),
    "a backward hook": lambda model: model.blocks[1].register_full_backward_hook(lambda *_: None),
}


def test_what_modules_refuse_is_refused():
    model = model_of()
    with torch.no_grad():
        cache = begun(model)
        fused = cpu_step.CPUStep(model, cache)
        for rows in (ROWS - 1, ROWS + 1):
            with pytest.raises(ValueError, match=f"tokens of {rows} rows: expected the cache's {ROWS}"):
                fused(torch.zeros(rows, 1, dtype=torch.long))
        for token in (-1, VOCABULARY):
            with pytest.raises(IndexError, match=f"expected 0 to {VOCABULARY - 1}"):
                fused(torch.full((ROWS, 1), token))
        assert cache.longest == 9, "nothing was written"


def test_applies_to_plain_modules_on_one_thread_without_gradients():
    model = model_of()
    cache = KVCache(model, 2, 4)
    assert not cpu_step.is_supported(model, cache)  # gradients are on
    with torch.no_grad():
        assert cpu_step.is_supported(model, cache)
        with torch.autocast("cpu", torch.bfloat16):
            assert not cpu_step.is_supported(model, cache)
        torch.set_num_threads(2)
        assert not cpu_step.is_supported(model, cache)
        torch.set_num_threads(1)
        model.blocks[0].mlp.up = nn.Sequential(model.blocks[0].mlp.up)  # as LoRA wraps it
        assert not cpu_step.is_supported(model, cache)
        for spoil in SPOILT.values():
            other = model_of(norm="layernorm")
            assert cpu_step.is_supported(other, cache)
            spoil(other)
            assert not cpu_step.is_supported(other, cache)
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        assert not cpu_step.is_supported(model_of(), cache)
        handle.remove()
        bf16 = model_of().bfloat16()
        assert not cpu_step.is_supported(bf16, KVCache(bf16, 2, 4))


def test_sites_are_seen_and_edited_while_sampling():
    model = model_of()
    options = {"eos": 0, "pad": 0, "temperature": 0.0}
    prompts = [[5, 6], [7, 8]]
    with capture(model, ["blocks.1.hook_resid_post"]) as store:
        sample(model, prompts, 6, **options)
    assert store["blocks.1.hook_resid_post"].shape[1] == 1, "the last pass was a step of decoding"
    with edit(model, "blocks.0.hook_resid_post", lambda x_BTC: x_BTC.flip(-1)), torch.no_grad():
        found = sample(model, prompts, 6, **options)
        text_BT = torch.cat((torch.tensor(prompts), found.tokens_BT), 1)
        expected = token_logprobs(model, text_BT)[:, 1:]
    written = torch.arange(expected.shape[1]) < found.lengths_B[:, None]
    assert found.lengths_B.max() > 3
    torch.testing.assert_close(found.logprobs_BT * written, expected * written, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_memory_that_nobody_wrote_has_no_effect(fused, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "COMPILED", fused)
    model = model_of(conv=2, token_shift=2)
    prompts = [[1] * (1 + n % 5) for n in range(12)]  # rows leave and others come in
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    found = []
    try:
        torch.use_deterministic_algorithms(True)
        for fill in (False, True):  # with NaN
            torch.utils.deterministic.fill_uninitialized_memory = fill
            generator = torch.Generator().manual_seed(0)
            found.append(sample(model, prompts, 20, eos=0, pad=0, generator=generator, max_rows=4))
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
    assert found[0].lengths_B.unique().numel() > 3
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_elsewhere_than_on_a_cpu_all_memory_is_filled_at_once(monkeypatch):
    model = model_of(conv=2)
    assert KVCache(model, 3, CAPACITY).finite == 0
    monkeypatch.setattr(cache_module, "LAZY_ON", ())
    cache = KVCache(model, 3, CAPACITY)
    assert cache.finite == CAPACITY and not cache.kv_L2RHKD.any()


@torch.no_grad()
def test_a_decoder_takes_it_or_the_modules(monkeypatch):
    model = model_of()
    assert Decoder(model, KVCache(model, 2, 4)).cpu_step is not None
    monkeypatch.setattr(cpu_kernels, "COMPILED", False)
    assert Decoder(model, KVCache(model, 2, 4)).cpu_step is None


def test_machine_code_is_cached_beside_the_file_and_leaves_the_generators_folder_alone():
    folder, before = Path(cpu_kernels.__file__).parent / "__pycache__", numba.config.CACHE_DIR
    compiled = cpu_kernels.compiled(cpu_kernels.mix.py_func)
    kernels = (cpu_kernels.embed, cpu_kernels.add_norm_mix, cpu_kernels.score, cpu_kernels.mix)
    for loops in (compiled, *kernels):
        assert Path(loops._cache.cache_path).is_relative_to(folder)
    assert before == numba.config.CACHE_DIR, "the folder of the generator's kernels is put back"
