"""A grown model computes what it did before, and its new parts can learn."""

import pytest
import torch

from models.gpt import GPT, GPTConfig
from train.grow import deeper, layer_sources, wider

CONFIG = GPTConfig(
    17, 3, 2, 16, 40, mlp="relu2", rope_fraction=0.5, qk_norm=True, tied=False, token_shift=3, conv=2, init_std=0.5
)
TOKENS = torch.randint(0, 17, (3, 20), generator=torch.Generator().manual_seed(0))


def trained():
    model = GPT(CONFIG, seed=1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1 or name.endswith("shift"):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    return model


def test_new_layers_stand_in_the_middle_and_change_nothing():
    assert layer_sources(4, 6) == [0, 1, 1, 2, 2, 3]
    assert layer_sources(4, 8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert layer_sources(2, 6) == [0, 0, 0, 1, 1, 1]
    model = trained()
    for n in (3, 4, 6, 7):
        grown = deeper(model, n)
        assert torch.equal(grown(TOKENS), model(TOKENS)) and len(grown.blocks) == n
    with pytest.raises(ValueError, match="at least"):
        deeper(model, 2)


def test_new_channels_heads_and_units_change_nothing_but_rounding():
    model = trained()
    grown = wider(model, 40, 5)
    torch.testing.assert_close(grown(TOKENS), model(TOKENS), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="heads of 8"):
        wider(model, 24, 2)


@pytest.mark.parametrize("grow", [lambda m: deeper(m, 5), lambda m: wider(m, 32, 4)])
def test_every_new_part_gets_a_gradient_within_two_steps(grow):
    model = grow(trained())
    for _ in range(2):
        model.zero_grad()
        model(TOKENS).sin().sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad, alpha=1e-3)
    for name, p in model.named_parameters():
        assert (p.grad != 0).float().mean() > 0.9 or "embed" in name, name
