"""Training steps and rollouts beside `transformers` at the same shape, weights, batch and dtype. Try: `make bench`.

The peer of training is the plain loop that its users write: model(input_ids, attention_mask, labels), backward, clip,
AdamW; that of rollouts is `generate` with its cache. Ours is what `train.pretrain` and evaluation run. Equal on both
sides: weights at the start, batches (right padded, loss on the solution), float32, AdamW, clip 1, one thread, and the
settings of `train.core.torch_setup` (denormals, allocator), which hold for the process. Nothing is asserted about time.
"""

import pytest

from tests.bench.model_peers import ROWS, SHAPES, Ours, Plain, Rollouts, batches, pair
from tests.bench.paired_timing import line, ratios
from train.core.torch_setup import set_up

FASTER = {"training": 1.3, "rollouts": 5.0}


@pytest.mark.parametrize("shape", SHAPES)
def test_training_step(shape):
    set_up()
    model, theirs = pair(shape)
    found = ratios(Ours(model, batches()), Plain(theirs, batches()))
    print("\n" + line(f"training step, {shape}", "tokens", *found, goal=FASTER["training"]))


@pytest.mark.parametrize("until_eos", [True, False], ids=["until the end", "fixed length"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rollouts(shape, until_eos):
    set_up()
    both = Rollouts(shape, until_eos)
    found = ratios(both.ours, both.generate, rounds=5)
    what = f"{4 * ROWS} prompts until the end token" if until_eos else f"{ROWS} prompts, {both.new} tokens each"
    print("\n" + line(f"rollouts, batch {ROWS}, {what}, {shape}", "tokens", *found, goal=FASTER["rollouts"]))


@pytest.mark.parametrize("shape", ["llama, nano"])
def test_loader(shape):
    """Batches made, beside batches trained on: what a trainer that waits for its loader loses is 1 / (1 + ratio)."""
    set_up()
    source, train = batches(), Ours(pair(shape)[0], batches())
    at = {"chunk": 0}

    def load() -> int:
        at["chunk"] += 1
        return sum(source.batch(k).tokens for k in range(at["chunk"] * 256, (at["chunk"] + 1) * 256))

    print("\n" + line(f"loader (peer: the training step it feeds), {shape}", "tokens", *ratios(load, train)))
