"""Architectures of `transformers` that compute what a GPT does: settings and tensor names, both ways.

    layernorm, gelu, bias                 GPTNeoXForCausalLM, residuals in sequence; any rotary share
    rmsnorm, swiglu                       LlamaForCausalLM
    rmsnorm, swiglu, qk_norm, no bias     Qwen3ForCausalLM

The invariant that matters: a setting with no counterpart is refused by name. `read_config` converts a config to ours
and back again, and refuses every setting that does not come back unchanged.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from einops import rearrange
from torch import Tensor
from transformers import GPTNeoXForCausalLM, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen3ForCausalLM

from models.gpt import NORM_EPS, GPTConfig

_NEOX_BLOCK = {
    "norm_attn": ("input_layernorm",),
    "attn.qkv": ("attention.query_key_value",),
    "attn.out": ("attention.dense",),
    "norm_mlp": ("post_attention_layernorm",),
    "mlp.up": ("mlp.dense_h_to_4h",),
    "mlp.down": ("mlp.dense_4h_to_h",),
}
_LLAMA_BLOCK = {  # several names: concatenated in this order they are our tensor
    "norm_attn": ("input_layernorm",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.q_scale": ("self_attn.q_norm.weight",),
    "attn.k_scale": ("self_attn.k_norm.weight",),
    "attn.out": ("self_attn.o_proj",),
    "norm_mlp": ("post_attention_layernorm",),
    "mlp.up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}


class Family(NamedTuple):
    """An architecture of `transformers`: its class, the GPTConfig that it requires, and its names of our tensors."""

    model_type: str
    model: type[PreTrainedModel]
    requires: Mapping[str, Any]
    top: Mapping[str, str]
    block: Mapping[str, tuple[str, ...]]


_LLAMA_TOP = {"embed": "model.embed_tokens", "ln_final": "model.norm", "unembed": "lm_head", "blocks": "model.layers"}
_NEOX_TOP = {
    "embed": "gpt_neox.embed_in", "ln_final": "gpt_neox.final_layer_norm", "unembed": "lm_head",
    "blocks": "gpt_neox.layers",
}  # fmt: skip
_NO_MIX = {"token_shift": 0, "conv": 0}
FAMILIES = (
    Family(
        "gpt_neox", GPTNeoXForCausalLM,
        {**_NO_MIX, "norm": "layernorm", "mlp": "gelu", "qk_norm": False, "bias": True}, _NEOX_TOP, _NEOX_BLOCK,
    ),
    Family(
        "llama", LlamaForCausalLM,
        {**_NO_MIX, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": False, "rope_fraction": 1.0},
        _LLAMA_TOP, _LLAMA_BLOCK,
    ),
    Family(
        "qwen3", Qwen3ForCausalLM,
        {**_NO_MIX, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "rope_fraction": 1.0, "bias": False},
        _LLAMA_TOP, _LLAMA_BLOCK,
    ),
)  # fmt: skip

# Settings with the same meaning under another name.
_RENAMED = {
    "vocab_size": "vocab_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_embd": "hidden_size", "context": "max_position_embeddings", "init_std": "initializer_range",
    "tied": "tie_word_embeddings", "bias": "attention_bias",
}  # fmt: skip
# Settings that change no logit.
_IGNORED = {
    "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "use_cache", "return_dict",
    "output_hidden_states", "output_attentions", "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id",
    "problem_type", "chunk_size_feed_forward", "classifier_dropout", "is_decoder", "max_window_layers",
    "pretraining_tp",
}  # fmt: skip


def family(config: GPTConfig) -> Family:
    """The architecture that computes what this GPT does. ValueError names the setting that has no counterpart."""
    nearest = FAMILIES[0] if config.norm == "layernorm" else FAMILIES[2 if config.qk_norm else 1]
    for setting, value in nearest.requires.items():
        if (found := getattr(config, setting)) != value:
            raise ValueError(f"{setting}={found}: has no counterpart in {nearest.model.__name__}; accepted: {value}")
    if config.rotated == 0:
        fault = f"has no counterpart in {nearest.model.__name__}; accepted: above 0"
        raise ValueError(f"rope_fraction={config.rope_fraction}: {fault}")
    return nearest


def write_config(config: GPTConfig, eos: int | None = None, pad: int | None = None) -> PreTrainedConfig:
    """The config in `transformers`. Raises ValueError as `family` does."""
    target = family(config)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    settings: dict[str, Any] = {hf_name: getattr(config, name) for name, hf_name in _RENAMED.items()}
    settings |= {"intermediate_size": config.hidden, "rope_parameters": rope, "attention_dropout": 0.0}
    settings |= {"bos_token_id": None, "eos_token_id": eos, "pad_token_id": pad}
    if target.model_type == "gpt_neox":
        rope["partial_rotary_factor"] = config.rope_fraction
        settings |= {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS, "hidden_dropout": 0.0}
        settings |= {"use_parallel_residual": False}
    else:
        settings |= {"hidden_act": "silu", "rms_norm_eps": NORM_EPS, "head_dim": config.head_dim}
        settings |= {"num_key_value_heads": config.n_head}
        settings |= {"mlp_bias": config.bias} if target.model_type == "llama" else {"use_sliding_window": False}
    config_class: Any = target.model.config_class
    return config_class(**settings)


def read_config(hf_config: PreTrainedConfig) -> GPTConfig:
    """The GPTConfig of a config of `transformers`. ValueError names the setting that has no counterpart here."""
    families = {each.model_type: each for each in FAMILIES}
    source = families.get(hf_config.model_type)
    if source is None:
        raise ValueError(f"model_type={hf_config.model_type}: accepted: {', '.join(families)}")
    found = hf_config.to_dict()
    rope = found["rope_parameters"]
    settings = {name: found[hf_name] for name, hf_name in _RENAMED.items()}
    settings |= {name: value for name, value in source.requires.items() if name != "rope_fraction"}
    settings["mlp_ratio"] = found["intermediate_size"] / found["hidden_size"]
    settings["rope_base"] = rope.get("rope_theta", 10000.0)
    settings["rope_fraction"] = rope.get("partial_rotary_factor", 1.0)
    config = GPTConfig(**settings)
    expected = write_config(config).to_dict()
    for setting in (*expected, *found):
        value, accepted = found.get(setting), expected.get(setting)
        if setting not in _IGNORED and value != accepted:
            raise ValueError(f"{setting}={value}: has no counterpart in a GPT; accepted: {accepted}")
    return config


def names_of(name: str, target: Family) -> tuple[str, ...]:
    """The names of our tensor `name` in `target`; several: concatenated in this order they are our tensor."""
    module, _, last = name.rpartition(".")
    if not name.startswith("blocks."):
        return (f"{target.top[module]}.{last}",)
    _, layer, part = module.split(".", 2)
    prefix = f"{target.top['blocks']}.{layer}."
    if last in ("weight", "bias"):
        return tuple(f"{prefix}{path}.{last}" for path in target.block[part])
    return tuple(prefix + path for path in target.block[f"{part}.{last}"])


def qkv_to_neox(tensor: Tensor, n_head: int) -> Tensor:
    """Rows of queries, keys and values: from ours (all queries, all keys, all values) to GPT-NeoX's (head by head)."""
    return rearrange(tensor, "(qkv head d) ... -> (head qkv d) ...", qkv=3, head=n_head)


def qkv_from_neox(tensor: Tensor, n_head: int) -> Tensor:
    """The inverse of `qkv_to_neox`."""
    return rearrange(tensor, "(head qkv d) ... -> (qkv head d) ...", qkv=3, head=n_head)
