"""Beam search against greedy, exhaustive and sampled search; against `transformers`' own see test_gpt_parity."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from models.decode.beam import beam_search
from models.decode.sampling import sample
from models.gpt import GPT, GPTConfig
from tests.helpers.untrained_models import perturbed

VOCAB, EOS, PAD = 11, 1, 0
PROMPTS = [[5, 2, 9], [7], [3, 3, 8, 10, 4, 2, 6], [2, 4], [9, 9, 9, 9, 9], [6, 10]]
SETTINGS = {
    "quickstart": {"mlp": "relu2", "qk_norm": True, "rope_fraction": 0.5, "token_shift": 2, "conv": 3, "tied": False},
    "llama": {"mlp": "swiglu", "tied": False},
}


def lively(name: str = "quickstart", seed: int = 5) -> GPT:
    return perturbed(GPT(GPTConfig(VOCAB, 2, 2, 16, 40, **SETTINGS[name])), 0.3, seed).eval()


def rows(out) -> list[list[int]]:
    return [tokens[:n].tolist() for tokens, n in zip(out.tokens_BT, out.lengths_B, strict=True)]


def logprob(model: GPT, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    logp_TV = F.log_softmax(model(torch.tensor([prompt + list(tokens)])), -1)[0, len(prompt) - 1 : -1]
    return logp_TV.gather(1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize("name", SETTINGS)
def test_one_beam_is_greedy_and_logprobs_are_those_of_a_forward_pass(name):
    model = lively(name)
    out = beam_search(model, PROMPTS, 8, beams=1, eos=EOS, pad=PAD)
    assert rows(out) == rows(sample(model, PROMPTS, 8, temperature=0.0, eos=EOS, pad=PAD))
    for b, (prompt, tokens) in enumerate(zip(PROMPTS, rows(out), strict=True)):
        assert torch.allclose(out.logprobs_BT[b, : len(tokens)], logprob(model, prompt, tokens), atol=1e-5)
        assert out.finished_B[b] == (tokens[-1] == EOS)
        assert (out.tokens_BT[b, len(tokens) :] == PAD).all()


@torch.no_grad()
def test_with_beams_for_everything_the_best_of_all_texts_is_found():
    model = GPT(GPTConfig(6, 1, 1, 8, 16, mlp="swiglu"))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.4 * torch.randn(p.shape, generator=torch.Generator().manual_seed(int(p.numel())))
    prompt = [3, 2]
    out = beam_search(model, [prompt], 3, beams=3, length_penalty=0.0, eos=EOS, pad=PAD)
    texts = [t for n in (1, 2, 3) for t in itertools.product(range(6), repeat=n)]
    texts = [t for t in texts if EOS not in t[:-1] and (len(t) == 3 or t[-1] == EOS)]
    scores = sorted((float(logprob(model, prompt, list(t)).sum()) for t in texts), reverse=True)
    assert float(out.logprobs_BT.sum()) >= scores[2]  # three beams of six tokens: at worst a near best
    greedy = sample(model, [prompt], 3, temperature=0.0, eos=EOS, pad=PAD)
    assert float(out.logprobs_BT.sum()) >= float(greedy.logprobs_BT.sum()) - 1e-6


@pytest.mark.parametrize("max_rows", [4, 9, 128])
def test_rows_of_a_batch_change_nothing(max_rows):
    model = lively()
    whole = beam_search(model, PROMPTS, 10, beams=4, eos=EOS, pad=PAD)
    assert rows(beam_search(model, PROMPTS, 10, beams=4, eos=EOS, pad=PAD, max_rows=max_rows)) == rows(whole)


def test_beam_sampling_draws_by_probability():
    """With one token to draw and as many finished candidates as wanted, it is sampling without replacement."""
    model = lively()
    counts = torch.zeros(VOCAB)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        out = beam_search(model, [[5, 2, 9]] * 50, 1, beams=1, eos=EOS, pad=PAD, generator=generator)
        counts += torch.bincount(out.tokens_BT[:, 0], minlength=VOCAB)
    # of two draws without replacement the likelier is kept
    p = F.softmax(model(torch.tensor([[5, 2, 9]]))[0, -1], -1).double()
    kept = torch.zeros(VOCAB, dtype=torch.float64)
    for a, b in itertools.permutations(range(VOCAB), 2):
        kept[a if p[a] > p[b] else b] += p[a] * p[b] / (1 - p[a])
    assert (counts / counts.sum() - kept).abs().max() < 0.04


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams=0: expected 1 up to max_rows=128"),
        ({"beams": 6}, "beams=6: expected at most half the vocabulary of 11"),
        ({"beams": 5, "max_rows": 4}, "beams=5: expected 1 up to max_rows=4"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        beam_search(lively(), PROMPTS, 4, eos=EOS, pad=PAD, **settings)
