"""One new token per row: the loops of `models.decode_attention` beside torch's kernel under a mask."""

from pathlib import Path

import numba
import pytest
import torch
import torch.nn.functional as F

from models import GPT, GPTConfig, decode_attention
from models.cache import KVCache


@pytest.mark.parametrize("heads,width", [(1, 4), (2, 32), (3, 10), (4, 64)])
@torch.no_grad()
def test_equals_masked_attention_and_stores_the_new_columns(heads, width):
    generator = torch.Generator().manual_seed(heads)
    rows, used, columns = 7, 5, 12
    kv_2RHKD = torch.randn(2, rows, heads, columns, width, generator=generator)
    q, k, v = torch.randn(3, used, heads, width, generator=generator) * 3
    lengths = torch.tensor([0, 1, 4, 9, columns - 1])
    expected_kv = kv_2RHKD.clone()
    expected_kv[0][torch.arange(used), :, lengths], expected_kv[1][torch.arange(used), :, lengths] = k, v
    seen = torch.arange(columns) <= lengths[:, None]
    expected = F.scaled_dot_product_attention(
        q[:, :, None], expected_kv[0, :used], expected_kv[1, :used], attn_mask=seen[:, None, None]
    )
    found = decode_attention.attend_one(q, k, v, kv_2RHKD, lengths)
    torch.testing.assert_close(found, expected[:, :, 0], rtol=1e-5, atol=1e-6)
    assert torch.equal(kv_2RHKD, expected_kv)


@torch.no_grad()
def test_columns_that_a_row_does_not_hold_are_never_read():
    kv_2RHKD = torch.full((2, 2, 1, 6, 4), float("nan"))
    kv_2RHKD[:, :, :, :2] = 1.0
    ones = torch.ones(2, 1, 4)
    assert torch.equal(decode_attention.attend_one(ones, ones, ones, kv_2RHKD, torch.tensor([2, 1])), ones)


def test_applies_to_one_token_on_one_thread_without_gradients():
    q, kv = torch.zeros(2, 1, 1, 4), torch.zeros(2, 2, 1, 6, 4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert not decode_attention.applies(q, kv)  # gradients are on
        with torch.no_grad():
            assert decode_attention.applies(q, kv)
            assert not decode_attention.applies(q.expand(2, 1, 3, 4), kv)
            assert not decode_attention.applies(q.double(), kv.double())
            assert not decode_attention.applies(q, kv.bfloat16())
            torch.set_num_threads(2)
            assert not decode_attention.applies(q, kv)
    finally:
        torch.set_num_threads(threads)


def test_machine_code_is_cached_beside_the_file_and_leaves_the_generators_folder_alone():
    kernels, before = Path(decode_attention.__file__).parent / "__pycache__", numba.config.CACHE_DIR
    compiled = decode_attention._compiled(decode_attention._mix.py_func)
    for loops in (compiled, decode_attention._score, decode_attention._mix):
        assert Path(loops._cache.cache_path).is_relative_to(kernels)
    assert before == numba.config.CACHE_DIR, "the folder of the generator's kernels is put back"


@torch.no_grad()
def test_a_model_decodes_alike_with_and_without_it(monkeypatch):
    torch.set_num_threads(1)
    model = GPT(GPTConfig(23, 2, 2, 16, 40, conv=2, token_shift=1, qk_norm=True))
    tokens = torch.randint(0, 23, (5, 9), generator=torch.Generator().manual_seed(0))
    results = []
    for applies in (decode_attention.applies, lambda *_: False):
        monkeypatch.setattr(decode_attention, "applies", applies)
        cache = KVCache(model, 5, 20)
        model(tokens[:, :6], cache)
        cache.truncate(torch.tensor([1, 2, 3, 6, 6]))
        results.append(torch.stack([model(tokens[:, t : t + 1], cache) for t in range(6, 9)]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
