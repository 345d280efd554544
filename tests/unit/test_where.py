"""The parts of the KL add up to the whole, and the kinds are what they say."""

import pytest

from models.gpt import GPT, GPTConfig
from synth.dataset import Source
from synth.spec import preset
from train.evaluation import held_out_loss
from train.where import KINDS, kl_by_kind


def test_the_parts_add_up():
    source = Source(preset("tiny", letters=52, letter_order="random"), 3, "test")
    model = GPT(GPTConfig(source.world.size, 1, 1, 8, 300), seed=0).eval()
    found = kl_by_kind(model, source, range(60))
    whole = held_out_loss(model, source, range(60))["kl"]
    total = found["all"]
    assert sum(total[k] for k in KINDS) * 60 / total["tokens"] == pytest.approx(whole, rel=1e-4)
    parts = [row for name, row in found.items() if name != "all"]
    assert sum(row["documents"] for row in parts) == 60
    for k in KINDS:
        assert sum(row[k] * row["documents"] for row in parts) == pytest.approx(60 * total[k], rel=1e-6)
        assert total[k] > 0
