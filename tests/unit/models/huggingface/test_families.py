"""Settings of other architectures: what has a counterpart returns as it was, and what has none is named."""

import dataclasses

import pytest
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, Qwen3Config

from models.gpt import GPTConfig
from models.huggingface.families import family, read_config, write_config
from models.sizes import FOLDER, read_size

BASE = {"vocab_size": 29, "n_layer": 2, "n_head": 2, "n_embd": 16, "context": 40}
NEOX = {"norm": "layernorm", "bias": True}
LLAMA = {"mlp": "swiglu", "mlp_ratio": 2.5, "tied": False}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (NEOX, "gpt_neox"),
        ({**NEOX, "tied": False, "rope_fraction": 0.5, "rope_base": 500.0, "init_std": 0.01}, "gpt_neox"),
        (LLAMA, "llama"),
        ({**LLAMA, "bias": True, "tied": True, "rope_base": 500.0}, "llama"),
        ({**LLAMA, "qk_norm": True}, "qwen3"),
    ],
)
def test_settings_return_as_they_were(settings, name):
    config = GPTConfig(**BASE, **settings)
    assert family(config).model_type == name
    assert read_config(write_config(config, eos=1, pad=0)) == config


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*-*.yaml")), ids=lambda path: path.stem)
def test_the_sizes_of_the_papers_and_the_modern_ones_have_a_counterpart(path):
    config = read_size(path)
    again = read_config(write_config(config))
    assert again.hidden == config.hidden
    assert dataclasses.replace(again, mlp_ratio=config.mlp_ratio) == config
    assert family(config).model_type == {"gpt2": "gpt_neox"}.get(path.stem.split("-")[0], path.stem.split("-")[0])


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        ({**LLAMA, "conv": 3}, "conv=3: has no counterpart in LlamaForCausalLM; accepted: 0"),
        ({**NEOX, "token_shift": 2}, "token_shift=2: has no counterpart in GPTNeoXForCausalLM; accepted: 0"),
        ({**LLAMA, "mlp": "relu2"}, "mlp=relu2: has no counterpart in LlamaForCausalLM; accepted: swiglu"),
        ({**NEOX, "bias": False}, "bias=False: has no counterpart in GPTNeoXForCausalLM; accepted: True"),
        ({**NEOX, "qk_norm": True}, "qk_norm=True: has no counterpart in GPTNeoXForCausalLM; accepted: False"),
        ({**LLAMA, "qk_norm": True, "bias": True}, "bias=True: has no counterpart in Qwen3ForCausalLM"),
        ({**LLAMA, "rope_fraction": 0.5}, "rope_fraction=0.5: has no counterpart in LlamaForCausalLM; accepted: 1.0"),
        (
            {**NEOX, "rope_fraction": 0.0},
            "rope_fraction=0.0: has no counterpart in GPTNeoXForCausalLM; accepted: above 0",
        ),
    ],
)
def test_a_gpt_without_counterpart_is_refused(settings, say):
    with pytest.raises(ValueError, match="^" + say):
        write_config(GPTConfig(**BASE, **settings))


def theirs(kind: type[PreTrainedConfig], **settings) -> PreTrainedConfig:
    eps = {"layer_norm_eps": 1e-5} if kind is GPTNeoXConfig else {"rms_norm_eps": 1e-5}
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 40, **eps}
    if kind is GPTNeoXConfig:
        small["use_parallel_residual"] = False
    if kind is Qwen3Config:
        small |= {"head_dim": 8, "num_key_value_heads": 2}
    return kind(**{**small, **settings})


@pytest.mark.parametrize(
    ("config", "say"),
    [
        (GPT2Config(n_layer=1), "model_type=gpt2: accepted: gpt_neox, llama, qwen3"),
        (theirs(GPTNeoXConfig, use_parallel_residual=True), "use_parallel_residual=True: .* accepted: False"),
        (theirs(GPTNeoXConfig, hidden_act="gelu_new"), "hidden_act=gelu_new: .* accepted: gelu"),
        (theirs(GPTNeoXConfig, attention_bias=False), "attention_bias=False: .* accepted: True"),
        (theirs(GPTNeoXConfig, hidden_dropout=0.1), "hidden_dropout=0.1: .* accepted: 0.0"),
        (theirs(LlamaConfig, num_key_value_heads=1), "num_key_value_heads=1: .* accepted: 2"),
        (theirs(LlamaConfig, head_dim=16), "head_dim=16: .* accepted: 8"),
        (theirs(LlamaConfig, rms_norm_eps=1e-6), "rms_norm_eps=1e-06: .* accepted: 1e-05"),
        (theirs(LlamaConfig, attention_bias=True), "mlp_bias=False: .* accepted: True"),
        (
            theirs(LlamaConfig, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
            "rope_parameters=.*linear.* accepted: .*default",
        ),
        (theirs(Qwen3Config, num_key_value_heads=1), "num_key_value_heads=1: .* accepted: 2"),
        (theirs(Qwen3Config, use_sliding_window=True, max_window_layers=0), "use_sliding_window=True: .* False"),
        (theirs(Qwen3Config, quantization_config={"quant_method": "gptq"}), "quantization_config=.* accepted: None"),
        (theirs(Qwen3Config, hidden_size=18), "head_dim=8: .* accepted: 9|rope_fraction"),
    ],
)  # fmt: skip
def test_their_settings_that_a_gpt_lacks_are_refused(config, say):
    with pytest.raises(ValueError, match=say):
        read_config(config)


@pytest.mark.parametrize("kind", [GPTNeoXConfig, LlamaConfig, Qwen3Config])
def test_theirs_that_fit_are_read(kind):
    config = read_config(theirs(kind, eos_token_id=3, use_cache=False))
    assert (config.n_layer, config.n_head, config.n_embd, config.hidden, config.tied) == (2, 2, 16, 40, False)
    assert config.rope_fraction == (0.25 if kind is GPTNeoXConfig else 1.0)
