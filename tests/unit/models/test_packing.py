"""Documents packed into one row read and learn as if each stood alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from models.gpt import GPT, GPTConfig
from models.packing import Packing

SHAPES = {
    "plain": {"norm": "layernorm", "bias": True},
    "house": {"token_shift": 3, "conv": 2, "qk_norm": True, "mlp": "relu2", "rope_fraction": 0.5, "tied": False},
}
MODELS = {name: GPT(GPTConfig(13, 2, 2, 16, 40, **more), seed=1) for name, more in SHAPES.items()}
for _model in MODELS.values():  # mixes and scales start as nothing, which would hide a leak
    with torch.no_grad():
        for _name, _p in _model.named_parameters():
            if _p.ndim == 1 or _name.endswith("shift"):
                _p.add_(torch.randn(_p.shape, generator=torch.Generator().manual_seed(len(_name))))


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("name", MODELS)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_packed_row_gives_every_document_its_own_logits_and_gradients(name, lengths, seed):
    model, generator = MODELS[name], torch.Generator().manual_seed(seed)
    documents = [torch.randint(0, 13, (1, n), generator=generator) for n in lengths]
    segments = torch.cat([torch.full((1, n), i) for i, n in enumerate(lengths)], 1)
    alone = torch.cat([model(d) for d in documents], 1)
    packed = model(torch.cat(documents, 1), segments_BT=segments)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(model, packed.sin().sum()), gradients(model, alone.sin().sum()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    with torch.no_grad():  # the other branch of every part written by hand
        torch.testing.assert_close(model(torch.cat(documents, 1), segments_BT=segments), packed, rtol=1e-4, atol=1e-5)


def test_one_document_in_a_row_is_the_model_without_packing():
    tokens = torch.randint(0, 13, (3, 12), generator=torch.Generator().manual_seed(0))
    for model in MODELS.values():
        torch.testing.assert_close(model(tokens, segments_BT=torch.zeros(3, 12, dtype=torch.long)), model(tokens))


def test_positions_start_again_and_the_mask_is_block_diagonal():
    packing = Packing(torch.tensor([[0, 0, 0, 1, 2, 2], [4, 4, 4, 4, 4, 4]]), 8)
    assert packing.position_BT.tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert packing.mask_B1TT[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1],
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_blocked_kernel_of_a_gpu_means_the_same_mask():
    """Its forward pass also runs, uncompiled, on a CPU."""
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1, 2, 3]])
    packing = Packing(segments, 16)
    q, k, v = torch.randn(3, 2, 2, 8, 16, generator=torch.Generator().manual_seed(0)).unbind(0)

    def inside(b, h, q, k):
        return (q >= k) & (segments[b, q] == segments[b, k])

    blocks = create_block_mask(inside, 2, None, 8, 8, device="cpu")
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=blocks), packing.attend(q, k, v))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_too():
    model = GPT(GPTConfig(13, 2, 2, 64, 512, conv=2), seed=1)
    segments = torch.arange(256).div(37, rounding_mode="floor").repeat(2, 1)
    tokens = torch.randint(0, 13, (2, 256), generator=torch.Generator().manual_seed(0))
    expected = model(tokens, segments_BT=segments)
    model.cuda()
    found = model(tokens.cuda(), segments_BT=segments.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)
    found.sin().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
