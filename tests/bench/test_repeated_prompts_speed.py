"""The student's pass in training, forward and backward, over groups of responses: prompts read once, or with each."""

import pytest
import torch
from torch import Tensor

from models import GPT, GPTConfig
from models.branches import repeated_prompts
from tests.bench.paired_timing import line, ratios
from train.opd.log_probs import positions
from train.opd.teacher.teacher import HiddenStates

QUICKSTART = {"mlp": "relu2", "qk_norm": True, "rope_fraction": 0.5, "token_shift": 7, "conv": 3, "tied": False}
SIZES = {"nano": {"n_layer": 4, "n_head": 4, "n_embd": 64}, "mini": {"n_layer": 8, "n_head": 4, "n_embd": 128}}
PROMPTS, RESPONSES = 8, 8  # of a step, and to each prompt


def rows(prompt: int, response: int) -> tuple[Tensor, Tensor, Tensor]:
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
def test_the_students_pass(size, prompt, response):
    model, given = GPT(GPTConfig(vocab_size=200, context=512, **SIZES[size], **QUICKSTART)), rows(prompt, response)
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
