"""Training steps and rollouts beside `transformers` at the same shape, weights, batch and dtype. Try: `make bench`.

The peer of training is the plain loop that its users write: model(input_ids, attention_mask, labels), backward, clip,
AdamW; that of rollouts is `generate` with its cache. Ours is what `train.pretrain` and evaluation run. Equal on both
sides: weights at the start, batches (right padded, loss on the solution), float32, AdamW, clip 1, one thread, and the
settings of `train.core.torch_setup` (denormals, allocator), which hold for the process. Nothing is asserted about time.
"""

import pytest
import torch
from torch import Tensor

from models import GPT
from models.branches import repeated_prompts
from models.gpt import GPTConfig
from tests.bench.model_peers import ROWS, SHAPES, Ours, Plain, Rollouts, batches, pair
from tests.bench.paired_timing import line, ratios
from train.core.torch_setup import set_up
from train.opd.log_probs import positions
from train.opd.teacher.teacher import HiddenStates

FASTER = {"training": 1.3, "rollouts": 5.0}
QUICKSTART = {"mlp": "relu2", "qk_norm": True, "rope_fraction": 0.5, "token_shift": 7, "conv": 3, "tied": False}
SIZES = {"nano": {"n_layer": 4, "n_head": 4, "n_embd": 64}, "mini": {"n_layer": 8, "n_head": 4, "n_embd": 128}}
PROMPTS, RESPONSES = 8, 8  # of a step, and to each prompt


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


def grouped_rows(prompt: int, response: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts of 0.8 to 1 times `prompt` tokens with their responses, of half to all of `response` tokens."""
    draw = torch.Generator().manual_seed(0)
    longest = torch.randint(prompt * 4 // 5, prompt + 1, (PROMPTS,), generator=draw).repeat_interleave(RESPONSES)
    length = torch.randint(response // 2, response + 1, longest.shape, generator=draw)
    texts = torch.randint(2, 200, (PROMPTS, prompt), generator=draw).repeat_interleave(RESPONSES, 0)
    made = []
    for text, start, n in zip(texts, longest, length, strict=True):
        made.append(torch.cat((text[:start], torch.randint(2, 200, (int(n),), generator=draw))))
    return torch.nn.utils.rnn.pad_sequence(made, batch_first=True), longest, length


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prompt, response", [(50, 25), (110, 40), (250, 80)])
def test_responses_of_a_group(size, prompt, response):
    """The pass of training, forward and backward: prompts read once for all responses, or with each."""
    set_up()
    model = GPT(GPTConfig(vocab_size=200, context=512, **SIZES[size], **QUICKSTART))
    given = grouped_rows(prompt, response)
    read, (row_N, time_N) = HiddenStates(model), positions(given[2])
    at_N = row_N * (given[0].shape[1] - 1) + given[1][row_N] - 1 + time_N
    assert repeated_prompts(model, *given) is not None

    def work(hidden_NC: Tensor) -> int:
        model.zero_grad()
        hidden_NC.square().sum().backward()
        return len(hidden_NC)

    what = f"training pass, {PROMPTS} prompts of {prompt} tokens x {RESPONSES} responses of {response}, {size}"
    found = ratios(lambda: work(read(*given)), lambda: work(model.hidden(given[0][:, :-1], at_N=at_N)), rounds=5)
    print(line(f"{what} (peer: row by row)", "response tokens", *found))
