"""Rows that begin alike are read as branches of one text: the same hidden states and gradients as row by row."""

import pytest
import torch
from torch import Tensor

from models import GPT, GPTConfig
from models.branches import branched_hidden, repeated_prompts
from tests.helpers.untrained_models import perturbed
from train.opd.log_probs import positions
from train.opd.teacher.teacher import HiddenStates

BASE = {"vocab_size": 29, "n_layer": 3, "n_head": 2, "n_embd": 24, "context": 64}
SHAPES = {
    "papers": {"norm": "layernorm", "bias": True},
    "llama": {"mlp": "swiglu", "tied": False},
    "quickstart": {"mlp": "relu2", "qk_norm": True, "rope_fraction": 0.5, "token_shift": 4, "conv": 3, "tied": False},
    "one convolution": {"conv": 2},
}
PROMPTS = [14, 20, 9]  # tokens of each
LENGTHS = [[3, 9, 1, 5, 2, 6], [7, 2, 8, 8, 3, 1], [4, 4, 6, 1, 5, 9]]  # of the responses to each


def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Prompts and responses, the responses of a prompt apart from each other."""
    draw = torch.Generator().manual_seed(3)
    prompts = [torch.randint(2, 29, (n,), generator=draw) for n in PROMPTS]
    pairs = [(p, LENGTHS[i][k]) for k in range(6) for i, p in enumerate(prompts)]
    made = [(p, torch.randint(2, 29, (n,), generator=draw)) for p, n in pairs]
    tokens = torch.nn.utils.rnn.pad_sequence([torch.cat(row) for row in made], batch_first=True)
    return tokens, *(torch.tensor([len(row[k]) for row in made]) for k in range(2))


def one_by_one(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Tensor:
    """What is predicted of each response, every row in a pass of its own."""
    found = []
    for row, prompt, length in zip(tokens_BT, prompt_B.tolist(), length_B.tolist(), strict=True):
        found.append(model.hidden(row[None, : prompt + length])[0, prompt - 1 : prompt + length - 1])
    return torch.cat(found)


def measured(model: GPT, hidden_NC: Tensor) -> tuple[Tensor, Tensor]:
    weight = torch.linspace(-1, 1, hidden_NC.numel()).view_as(hidden_NC)
    model.zero_grad()
    (hidden_NC * weight).sum().backward()
    return hidden_NC.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_hidden_states_and_gradients(shape):
    model, given = perturbed(GPT(GPTConfig(**BASE, **SHAPES[shape]))), rows()
    branches = repeated_prompts(model, *given)
    assert branches is not None and len(branches.text_BP) == len(PROMPTS)
    plain, plain_grad = measured(model, one_by_one(model, *given))
    for hidden in (branched_hidden(model, branches), HiddenStates(model)(*given)):
        found, grad = measured(model, hidden)
        assert torch.allclose(found, plain, atol=2e-5 * float(plain.abs().max()))
        assert (grad - plain_grad).norm() <= 2e-5 * plain_grad.norm()


def test_a_prompt_is_read_once():
    """A repeated prompt costs no tokens but those in reach of a convolution."""
    model, given = GPT(GPTConfig(**BASE, conv=2)), rows()
    branches = repeated_prompts(model, *given)
    assert branches.text_BP.shape == (3, max(PROMPTS) - 1 - 2)
    assert branches.groups[0].tokens_MQ.shape == (18, 2 + 9) and len(branches.groups[0].at_N) == int(given[2].sum())


def test_rows_are_read_whole_where_nothing_is_won_or_a_text_does_not_fit():
    tokens, prompt, length = rows()
    model = GPT(GPTConfig(**BASE))
    different = tokens.clone()
    different[:, 0] = torch.arange(len(tokens))
    assert repeated_prompts(model, different, prompt, length) is None
    assert repeated_prompts(model, tokens[:1], prompt[:1], length[:1]) is None
    assert repeated_prompts(GPT(GPTConfig(**BASE | {"context": 28})), tokens, prompt, length) is not None
    assert repeated_prompts(GPT(GPTConfig(**BASE | {"context": 27})), tokens, prompt, length) is None
    assert repeated_prompts(GPT(GPTConfig(**BASE, token_shift=8)), tokens, prompt, length) is None  # a prompt of 9
    seen = []
    handle = model.blocks[0].register_forward_hook(lambda *args: seen.append(args[2].shape[:2]))
    whole = HiddenStates(model)(tokens, prompt, length)
    handle.remove()
    assert seen == [(len(tokens), tokens.shape[1] - 1)]  # hooks see every position of every row
    row_N, _ = positions(length)
    assert len(whole) == len(row_N)
