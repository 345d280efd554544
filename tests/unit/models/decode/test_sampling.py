"""Sampling: the law that tokens are drawn from, the log-probabilities that come with them, and what may not matter."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from models.decode.sampling import Samples, inverse_cdf_sample, sample, sampling_logprobs, token_logprobs
from models.gpt import GPT, GPTConfig
from tests.helpers.untrained_models import perturbed

VOCAB, EOS, PAD = 11, 1, 0
SETTINGS = {
    "quickstart": {"mlp": "relu2", "qk_norm": True, "rope_fraction": 0.5, "token_shift": 2, "conv": 3, "tied": False},
    "gpt2": {"norm": "layernorm", "bias": True},
    "llama": {"mlp": "swiglu"},
}
PROMPTS = [[5, 2, 9], [7], [3, 3, 8, 10, 4, 2, 6], [2, 4], [9, 9, 9, 9, 9], [7], [5, 2, 9], [6, 10]]


def lively(name: str = "quickstart") -> GPT:
    return perturbed(GPT(GPTConfig(VOCAB, 2, 2, 16, 40, **SETTINGS[name])), 0.2, 5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(model: GPT, prompts=PROMPTS, n: int = 12, seed: int = 0, **settings) -> Samples:
    return sample(model, prompts, n, eos=EOS, pad=PAD, generator=seeded(seed), **settings)


def rows(samples: Samples) -> list[list[int]]:
    return [tokens[:length].tolist() for tokens, length in zip(samples.tokens_BT, samples.lengths_B, strict=True)]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("law", [{}, {"temperature": 0.7, "top_k": 6, "top_p": 0.9}, {"temperature": 0.0}])
def test_logprobs_are_those_of_a_forward_pass(name, law):
    model = lively(name)
    out = run(model, **law)
    for b, (prompt, tokens) in enumerate(zip(PROMPTS, rows(out), strict=True)):
        text_1T = torch.tensor([prompt + tokens])
        expected = token_logprobs(model, text_1T)[0, len(prompt) - 1 :]
        assert torch.allclose(out.logprobs_BT[b, : len(tokens)], expected, atol=1e-5)
        if law.get("temperature") == 0.0:
            assert not out.sampling_logprobs_BT.any()
            continue
        logits_TV = model(text_1T)[0, len(prompt) - 1 : -1]
        expected = sampling_logprobs(logits_TV, law.get("temperature", 1), law.get("top_k", 0), law.get("top_p", 1.0))
        expected = expected.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert torch.allclose(out.sampling_logprobs_BT[b, : len(tokens)], expected, atol=1e-5)


def test_unfiltered_sampling_is_exactly_on_policy():
    out = run(lively())
    assert torch.equal(out.logprobs_BT, out.sampling_logprobs_BT)


@pytest.mark.parametrize("name", SETTINGS)
def test_greedy_equals_recomputation_token_by_token(name):
    model = lively(name)
    out = run(model, temperature=0.0, n=15)
    for prompt, tokens in zip(PROMPTS, rows(out), strict=True):
        text = list(prompt)
        while len(text) < len(prompt) + 15 and (text[-1] != EOS or len(text) == len(prompt)):
            with torch.no_grad():
                text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        assert tokens == text[len(prompt) :]


def test_ends_lengths_and_padding():
    out = run(lively(), PROMPTS * 8, n=12)
    assert out.finished_B.any()
    assert not out.finished_B.all()
    assert out.tokens_BT.shape == out.logprobs_BT.shape == out.sampling_logprobs_BT.shape == (64, 12)
    for b, tokens in enumerate(rows(out)):
        n = len(tokens)
        assert bool(out.finished_B[b]) == (tokens[-1] == EOS)
        assert out.finish_reasons[b] == ("stop" if tokens[-1] == EOS else "length")
        assert EOS not in tokens[:-1]
        assert out.finished_B[b] or n == 12
        assert (out.tokens_BT[b, n:] == PAD).all()
        assert not out.logprobs_BT[b, n:].any()
        assert not out.sampling_logprobs_BT[b, n:].any()
        assert (out.logprobs_BT[b, :n] < 0).all()


def test_width_is_that_of_the_longest_row():
    model = lively()
    with torch.no_grad():
        model.unembed.weight.zero_()  # uniform over the vocabulary
    out = sample(model, [[3]] * 3, 39, eos=EOS, pad=PAD, generator=seeded(2))
    assert out.tokens_BT.shape[1] == out.lengths_B.max() < 39
    assert out.finished_B.all()


@pytest.mark.parametrize("max_rows", [1, 3, 5, 128])
def test_the_batch_does_not_matter(max_rows):
    """Rows that leave and come in, and how many fit at once, change nothing; and a repeated prompt is sampled anew."""
    model, prompts = lively(), PROMPTS * 5
    out, alone = run(model, prompts), run(model, prompts, max_rows=max_rows)
    assert torch.equal(out.tokens_BT, alone.tokens_BT)
    assert torch.equal(out.finished_B, alone.finished_B)
    assert torch.allclose(out.logprobs_BT, alone.logprobs_BT, atol=1e-5)
    assert len({tuple(tokens) for tokens in rows(out)[1::8]}) > 1


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("max_rows", [3, 40])
def test_steps_of_fixed_shapes_change_nothing(name, max_rows, monkeypatch):
    """What a GPU records as graphs, run step by step: rows and columns rounded up, here to small multiples."""
    model, prompts = lively(name), PROMPTS * 5
    plain = run(model, prompts, max_rows=max_rows)
    monkeypatch.setattr("models.decode.decoder.STATIC_ON", ("cpu",))
    monkeypatch.setattr("models.decode.decoder.ROWS", 4)
    monkeypatch.setattr("models.decode.decoder.COLUMNS", 8)
    fixed = run(model, prompts, max_rows=max_rows)
    assert torch.equal(plain.tokens_BT, fixed.tokens_BT)
    assert torch.allclose(plain.logprobs_BT, fixed.logprobs_BT, atol=1e-5)


def test_other_prompts_do_not_matter():
    model = lively()
    other = [*PROMPTS[:3], [8, 8], *PROMPTS[4:]]
    assert [r for i, r in enumerate(rows(run(model))) if i != 3] == [
        r for i, r in enumerate(rows(run(model, other))) if i != 3
    ]


def test_only_the_generator_decides():
    model = lively()
    torch.manual_seed(1)
    first, state = run(model), torch.get_rng_state()
    torch.manual_seed(2)
    second = run(model)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.tokens_BT, run(model, seed=1).tokens_BT)
    torch.manual_seed(1)
    run(model)
    assert torch.equal(torch.get_rng_state(), state), "sampling drew from the global generator"


def test_the_generator_advances_by_the_same_amount_whatever_is_drawn():
    generators = seeded(), seeded()
    sample(lively(), PROMPTS, 12, eos=EOS, pad=PAD, generator=generators[0])
    sample(lively("gpt2"), PROMPTS, 12, eos=3, pad=PAD, temperature=0.5, generator=generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("law", [{}, {"temperature": 2.0}, {"top_k": 4}, {"temperature": 1.5, "top_p": 0.8}])
def test_one_token_follows_its_law(law):
    model, n, prompt = lively(), 4000, [5, 2, 9]
    out = run(model, [prompt] * n, n=1, max_rows=n, **law)
    count_V = torch.bincount(out.tokens_BT[:, 0], minlength=VOCAB).double()
    with torch.no_grad():
        p_V = sampling_logprobs(model(torch.tensor([prompt]))[:, -1], law.get("temperature", 1.0), **_filters(law))[
            0
        ].exp()
    kept = p_V > 0
    assert not count_V[~kept].any()
    assert kept.sum() == (4 if "top_k" in law else kept.sum())
    p_V = p_V.double() / p_V.double().sum()
    assert chisquare(count_V[kept].numpy(), (n * p_V)[kept].numpy()).pvalue > 1e-3


def _filters(law: dict) -> dict:
    return {key: law[key] for key in ("top_k", "top_p") if key in law}


def test_two_tokens_follow_the_joint_law():
    model, n = lively("llama"), 6000
    out = run(model, [[4, 2]] * n, n=2, max_rows=n)
    count_VV = torch.bincount(out.tokens_BT[:, 0] * VOCAB + out.tokens_BT[:, -1], minlength=VOCAB**2).view(VOCAB, VOCAB)
    with torch.no_grad():
        first_V = model(torch.tensor([[4, 2]]))[0, -1].softmax(-1)
        texts = torch.tensor([[4, 2, v] for v in range(VOCAB)])
        joint_VV = first_V[:, None] * model(texts)[:, -1].softmax(-1)
    joint_VV[EOS] = 0.0
    joint_VV[EOS, PAD] = first_V[EOS]  # nothing follows eos
    kept = joint_VV > 0
    expected = joint_VV[kept].double() * n
    expected *= n / expected.sum()
    assert not count_VV[~kept].any()
    large = expected > 4
    observed = torch.cat((count_VV[kept][large], count_VV[kept][~large].sum()[None])).double()
    expected = torch.cat((expected[large], expected[~large].sum()[None] + 1e-9))
    assert chisquare(observed.numpy(), (expected * observed.sum() / expected.sum()).numpy()).pvalue > 1e-3


@given(
    logits=st.lists(st.floats(-8, 8, width=32, allow_subnormal=False), min_size=2, max_size=12),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.integers(0, 13),
    top_p=st.floats(0.05, 1.0),
)
def test_filters_keep_the_fewest_most_likely_tokens(logits, temperature, top_k, top_p):
    logits_1V = torch.tensor([logits])
    p = (logits_1V / temperature).softmax(-1, dtype=torch.float64)[0]
    law = sampling_logprobs(logits_1V, temperature, top_k, top_p)[0]
    kept = law > -math.inf
    assert law.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert kept.any()
    if top_k:
        kth = p.sort(descending=True).values[min(top_k, len(p)) - 1]
        assert (kept <= (p >= kth - 1e-12)).all()
        p = torch.where(p >= kth - 1e-12, p, 0.0)
        p = p / p.sum()
    if (~kept & (p > 0)).any():
        assert p[kept].min() >= p[~kept].max() - 1e-6, "a token was removed that is likelier than one that was kept"
    assert p[kept].sum() >= top_p - 1e-6, "too few tokens are left"
    assert p[kept].sum() - p[kept].min() <= top_p + 1e-6, "the least likely token could have gone, too"
    assert torch.allclose(law[kept].exp().double(), p[kept] / p[kept].sum(), atol=1e-5)


def test_drawing_inverts_the_cumulative_distribution():
    logp_BV = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).log().expand(5, -1)
    uniform_B = torch.tensor([0.0, 0.2499, 0.2501, 0.9, 1 - 2**-24])
    assert inverse_cdf_sample(logp_BV, uniform_B)[:, 0].tolist() == [1, 1, 3, 3, 3]


def test_token_logprobs_can_be_learned_from():
    model, tokens = lively(), torch.tensor([[5, 2, 9, 3]])
    logp = token_logprobs(model, tokens)
    expected = F.log_softmax(model(tokens), -1)[0, torch.arange(3), tokens[0, 1:]]
    assert torch.allclose(logp[0], expected, atol=1e-6)
    logp.sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0: expected 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1: expected 0"),
        ({"top_p": 0.0}, "top_p=0.0: expected a number above 0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"generator": None}, "generator=None: expected a torch.Generator unless temperature=0"),
        ({"max_rows": 0}, "max_rows=0: expected at least 1"),
        ({"prompts": []}, "expected at least one prompt"),
        ({"prompts": [[1], []]}, "at least one token in every prompt"),
        ({"prompts": [[2] * 30], "max_new_tokens": 12}, "max_new_tokens=12: a prompt of 30 tokens leaves at most 11"),
    ],
)
def test_errors_name_the_setting(settings, message):
    settings = {"prompts": [[2]], "max_new_tokens": 3, "generator": seeded(), **settings}
    with pytest.raises(ValueError, match=message):
        sample(lively(), eos=EOS, pad=PAD, **settings)


def test_a_diverged_model_is_named_as_such():
    model = lively()
    with torch.no_grad():
        model.ln_final.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        run(model)


def test_a_repeated_prompt_is_read_once(monkeypatch):
    model, read = lively(), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, *a, **k: read.append(x.shape) or forward(x, *a, **k))
    run(model, [[5, 2, 9]] * 50 + [[7, 3]] * 50, n=1)
    assert read == [(2, 3)]


def test_the_context_can_be_filled_to_the_last_token():
    out = sample(lively(), [[2] * 30, [3]], 11, eos=99, pad=PAD, generator=seeded())
    assert out.lengths_B.tolist() == [11, 11]
    assert not out.finished_B.any()
