"""The model against models of `transformers` with the same weights, and its cost against torch's own count.

GPT-NeoX (sequential residual) has layer norm, GELU, biases and partial rotary positions; Llama has RMS norm and SwiGLU;
Qwen3 adds normalised queries and keys. Their code is independent of ours.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from models.decode.beam import beam_search
from models.decode.sampling import sample, token_logprobs
from models.flops import flops_per_token
from models.gpt import GPT, GPTConfig
from models.hooks import capture

VOCAB, LAYERS, HEADS, WIDTH, CONTEXT = 29, 3, 2, 16, 40


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3 + (p.ndim == 1))
    return model


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def neox(fraction: float, tied: bool) -> tuple[GPT, nn.Module]:
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": fraction},
            use_parallel_residual=False,
            tie_word_embeddings=tied,
            hidden_act="gelu",
            layer_norm_eps=1e-5,
            attention_dropout=0.0,
            hidden_dropout=0.0,
        )
    )
    randomised(theirs)
    ours = GPT(
        GPTConfig(
            VOCAB, LAYERS, HEADS, WIDTH, CONTEXT,
            norm="layernorm", rope_base=1000.0, rope_fraction=fraction, tied=tied, bias=True,
        )
    )  # fmt: skip
    state = {"embed.weight": theirs.gpt_neox.embed_in.weight}
    if not tied:
        state["unembed.weight"] = theirs.get_output_embeddings().weight
    for kind in ("weight", "bias"):
        state[f"ln_final.{kind}"] = getattr(theirs.gpt_neox.final_layer_norm, kind)
        for i, layer in enumerate(theirs.gpt_neox.layers):
            # theirs: for each head its query, key and value rows; ours: all queries, all keys, all values
            fused = getattr(layer.attention.query_key_value, kind).unflatten(0, (HEADS, 3, WIDTH // HEADS))
            state[f"blocks.{i}.attn.qkv.{kind}"] = fused.transpose(0, 1).flatten(0, 2)
            state[f"blocks.{i}.attn.out.{kind}"] = getattr(layer.attention.dense, kind)
            state[f"blocks.{i}.norm_attn.{kind}"] = getattr(layer.input_layernorm, kind)
            state[f"blocks.{i}.norm_mlp.{kind}"] = getattr(layer.post_attention_layernorm, kind)
            state[f"blocks.{i}.mlp.up.{kind}"] = getattr(layer.mlp.dense_h_to_4h, kind)
            state[f"blocks.{i}.mlp.down.{kind}"] = getattr(layer.mlp.dense_4h_to_h, kind)
    ours.load_state_dict(state)
    return ours, theirs.eval()


def llama(qk_norm: bool) -> tuple[GPT, nn.Module]:
    config, model = (Qwen3Config, Qwen3ForCausalLM) if qk_norm else (LlamaConfig, LlamaForCausalLM)
    theirs = model(
        config(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=WIDTH // HEADS,
            intermediate_size=3 * WIDTH,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            attention_bias=False,
        )
    )
    randomised(theirs)
    ours = GPT(
        GPTConfig(VOCAB, LAYERS, HEADS, WIDTH, CONTEXT, mlp="swiglu", mlp_ratio=3.0, tied=False, qk_norm=qk_norm)
    )
    state = {
        "embed.weight": theirs.model.embed_tokens.weight,
        "unembed.weight": theirs.lm_head.weight,
        "ln_final.weight": theirs.model.norm.weight,
    }
    for i, layer in enumerate(theirs.model.layers):
        a, m = layer.self_attn, layer.mlp
        state[f"blocks.{i}.attn.qkv.weight"] = torch.cat((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight))
        state[f"blocks.{i}.attn.out.weight"] = a.o_proj.weight
        state[f"blocks.{i}.norm_attn.weight"] = layer.input_layernorm.weight
        state[f"blocks.{i}.norm_mlp.weight"] = layer.post_attention_layernorm.weight
        state[f"blocks.{i}.mlp.up.weight"] = torch.cat((m.gate_proj.weight, m.up_proj.weight))
        state[f"blocks.{i}.mlp.down.weight"] = m.down_proj.weight
        if qk_norm:
            state[f"blocks.{i}.attn.q_scale"] = a.q_norm.weight
            state[f"blocks.{i}.attn.k_scale"] = a.k_norm.weight
    ours.load_state_dict(state)
    return ours, theirs.eval()


PAIRS = {
    "neox": lambda: neox(1.0, tied=False),
    "neox_tied": lambda: neox(1.0, tied=True),
    "neox_half_rope": lambda: neox(0.5, tied=False),
    "llama": lambda: llama(qk_norm=False),
    "qwen3": lambda: llama(qk_norm=True),
}


@pytest.fixture(params=PAIRS.values(), ids=PAIRS.keys(), scope="module")
def pair(request) -> tuple[GPT, nn.Module]:
    return request.param()


def test_same_logits(pair):
    ours, theirs = pair
    x = tokens(3, 31)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x).logits, atol=1e-5, rtol=1e-5)


def test_same_gradients(pair):
    """By way of the embedding, which every gradient on its way back passes."""
    ours, theirs = pair
    x, y = tokens(3, 31), tokens(3, 31, seed=1)
    gradients = []
    for model, logits, embed in (
        (ours, ours(x), ours.embed.weight),
        (theirs, theirs(x).logits, theirs.get_input_embeddings().weight),
    ):
        model.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        gradients.append(embed.grad)
    assert torch.allclose(*gradients, atol=1e-6, rtol=1e-4)


def test_same_greedy_continuations_and_logprobs(pair):
    ours, theirs = pair
    prompts = [tokens(n, seed=n).tolist() for n in (3, 9, 1)]
    out = sample(ours, prompts, 12, temperature=0.0, eos=VOCAB, pad=0)
    for b, prompt in enumerate(prompts):
        text = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert out.tokens_BT[b].tolist() == text[0, len(prompt) :].tolist()
        with torch.no_grad():
            logp = theirs(text).logits.log_softmax(-1)[0, :-1].gather(1, text[0, 1:, None])[:, 0]
            assert torch.allclose(out.logprobs_BT[b], logp[len(prompt) - 1 :], atol=1e-5)
            assert torch.allclose(token_logprobs(ours, text)[0], logp, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"mlp": "swiglu", "mlp_ratio": 2.5}, {"conv": 2, "token_shift": 3, "bias": True}]
)
def test_flops_equal_those_of_the_flop_counter(settings):
    model = GPT(GPTConfig(VOCAB, LAYERS, HEADS, WIDTH, CONTEXT, **settings))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it does not know the CPU's kernel
        model(tokens(3, 10))
    assert counter.get_total_flops() == pytest.approx(3 * 10 * flops_per_token(model.config, context=10))


def test_a_compiled_model_refuses_to_be_looked_into():
    """Compiled code would pass the hooks by without a word."""
    model, _ = llama(qk_norm=False)
    with pytest.raises(ValueError, match="_orig_mod"):
        capture(torch.compile(model), ["hook_embed"]).__enter__()
    model.compile()
    with pytest.raises(ValueError, match="compiled in place"):
        capture(model, ["hook_embed"]).__enter__()


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 1.0), (4, 0.0), (3, 2.0)])
def test_beam_search_finds_the_same_texts(pair, beams, penalty):
    ours, theirs = pair
    prompts = tokens(6, 5, seed=7)
    eos = 3
    found = beam_search(ours, prompts.tolist(), 12, beams=beams, length_penalty=penalty, eos=eos, pad=5)
    expected = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), num_beams=beams, do_sample=False, max_new_tokens=12,
        length_penalty=penalty, early_stopping=False, eos_token_id=eos, pad_token_id=5,
    )[:, 5:]  # fmt: skip
    for row, length, theirs_T in zip(found.tokens_BT, found.lengths_B, expected, strict=True):
        assert row[:length].tolist() == theirs_T[:length].tolist()
        assert (theirs_T[length:] == 5).all()
