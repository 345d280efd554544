"""The compiled pass of one CPU thread beside the modules it stands for: values, gradients, and when it is taken."""

import pytest
import torch
from torch import nn

from models import GPT, GPTConfig, gpt
from models.decode import cpu_kernels
from models.fused import forward, kernels
from models.hooks import capture
from tests.unit.models.decode.test_cpu_step import SHAPES, VOCABULARY, model_of

pytestmark = pytest.mark.skipif(not cpu_kernels.COMPILED, reason="compiled loops are off")
ROWS, TOKENS = 3, 21
BOUND = 5e-6  # relative error of the whole gradient, and of the hidden states
CASES = {"all positions": {}, "some positions": {"at_N": torch.tensor([3, 20, 21, 50, 7])}}
CASES["packed"] = {"segments_BT": torch.tensor([[0] * 9 + [1] * 2 + [2] * 10, [0] * 21, [0] + [1] * 20])}
CASES["packed, some positions"] = CASES["packed"] | CASES["some positions"]


def tokens_of(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(seed))


def result(model: GPT, monkeypatch, shortcut, **arguments) -> list[torch.Tensor]:
    """Hidden states, and the gradient of a fixed sum of them and of their squares, end to end."""
    monkeypatch.setattr(gpt, "shortcut", shortcut)
    x = model.hidden(tokens_of(), **arguments)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    gradients = torch.autograd.grad((x * target + x * x).sum(), list(model.parameters()), allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients, strict=True)]
    return [x.detach(), torch.cat([g.flatten() for g in found])]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_modules(shape, case, monkeypatch):
    model = model_of(**SHAPES[shape])
    assert forward.is_implemented(model)
    expected = result(model.double(), monkeypatch, None, **CASES[case])
    plain = result(model.float(), monkeypatch, None, **CASES[case])
    found = result(model, monkeypatch, forward.hidden, **CASES[case])
    for exact, modules, fused in zip(expected, plain, found, strict=True):
        assert (fused - exact).norm() < max(BOUND, 2 * (modules - exact).norm() / exact.norm()) * exact.norm()
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(tokens_of(), **CASES[case]), found[0], rtol=1e-4, atol=1e-5)


def test_every_gradient_reaches_its_own_parameter(monkeypatch):
    """A small tensor with a wrong gradient would be lost in the norm of the whole."""
    model = model_of(**SHAPES["mixing"] | {"mlp": "relu2"})
    expected, found = (result(model, monkeypatch, way)[1] for way in (None, forward.hidden))
    sizes = [p.numel() for p in model.parameters()]
    for (name, _), a, b in zip(model.named_parameters(), expected.split(sizes), found.split(sizes), strict=True):
        assert (a - b).norm() < 1e-4 * a.norm(), name


def test_the_modules_do_it_where_the_loops_cannot(monkeypatch):
    calls = []
    monkeypatch.setattr(forward, "run", lambda *arguments: calls.append(arguments) or torch.zeros(ROWS * TOKENS, 16))
    model = model_of()
    model(tokens_of())
    assert len(calls) == 1
    with capture(model, ["hook_embed"]):
        model(tokens_of())
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens_of())
    torch.set_num_threads(2)
    model(tokens_of())
    torch.set_num_threads(1)
    model.blocks[0].mlp.up = nn.Sequential(model.blocks[0].mlp.up)  # as LoRA puts another module in its place
    model(tokens_of())
    model_of().double()(tokens_of())
    GPT(GPTConfig(VOCABULARY, 1, 4, forward.WIDEST + 32, TOKENS))(tokens_of())
    assert len(calls) == 1
    monkeypatch.setattr("models.decode.cpu_kernels.COMPILED", False)
    model_of()(tokens_of())
    assert len(calls) == 1


def test_bad_tokens_and_long_rows_are_refused():
    model = model_of()
    for token in (-1, VOCABULARY):
        with pytest.raises(IndexError, match=rf"expected 0 to {VOCABULARY - 1}"):
            model(torch.full((1, 4), token))
    with pytest.raises(ValueError, match="context=40"):
        model(torch.zeros(1, 41, dtype=torch.long))


def test_the_same_pass_twice_gives_the_same_bits(monkeypatch):
    model = GPT(GPTConfig(VOCABULARY, 2, 2, 32, 64, mlp="relu2", qk_norm=True, conv=3, token_shift=7))
    one, other = (result(model, monkeypatch, forward.hidden)[1] for _ in range(2))
    assert torch.equal(one, other)
    assert kernels.norm_mix.signatures and len(kernels.norm_mix.signatures) == 1  # one compiled form is enough
