"""Architectures of `transformers` that compute what a GPT does: settings and tensor names, both ways.

    layernorm, gelu, bias                 GPTNeoXForCausalLM, residuals in sequence; any rotary share
    rmsnorm, swiglu                       LlamaForCausalLM
    rmsnorm, swiglu, qk_norm, no bias     Qwen3ForCausalLM

The invariant that matters: a setting with no counterpart is refused by name. Reading turns their settings into ours and
back: whatever does not return as it was is such a setting.

Try it:  read_config(write_config(GPTConfig(97, 2, 2, 32, 64, mlp="swiglu")))
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from models.gpt import NORM_EPS, GPTConfig

_NEOX_BLOCK = {
    "norm_attn": ("input_layernorm",),
    "attn.qkv": ("attention.query_key_value",),
    "attn.out": ("attention.dense",),
    "norm_mlp": ("post_attention_layernorm",),
    "mlp.up": ("mlp.dense_h_to_4h",),
    "mlp.down": ("mlp.dense_4h_to_h",),
}
_LLAMA_BLOCK = {  # several names: together they are our rows, in this order
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
    """An architecture of `transformers`: its classes, what it asks of a GPTConfig, and its names of our tensors."""

    model_type: str
    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    asks: Mapping[str, Any]
    top: Mapping[str, str]
    block: Mapping[str, tuple[str, ...]]


_LLAMA_TOP = {"embed": "model.embed_tokens", "ln_final": "model.norm", "unembed": "lm_head", "blocks": "model.layers"}
_NEOX_TOP = {
    "embed": "gpt_neox.embed_in",
    "ln_final": "gpt_neox.final_layer_norm",
    "unembed": "lm_head",
    "blocks": "gpt_neox.layers",
}
_NO_MIX = {"token_shift": 0, "conv": 0}
FAMILIES = (
    Family(
        "gpt_neox", GPTNeoXConfig, GPTNeoXForCausalLM,
        {**_NO_MIX, "norm": "layernorm", "mlp": "gelu", "qk_norm": False, "bias": True}, _NEOX_TOP, _NEOX_BLOCK,
    ),
    Family(
        "llama", LlamaConfig, LlamaForCausalLM,
        {**_NO_MIX, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": False, "rope_fraction": 1.0},
        _LLAMA_TOP, _LLAMA_BLOCK,
    ),
    Family(
        "qwen3", Qwen3Config, Qwen3ForCausalLM,
        {**_NO_MIX, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "rope_fraction": 1.0, "bias": False},
        _LLAMA_TOP, _LLAMA_BLOCK,
    ),
)  # fmt: skip

# Settings of theirs that change no logit, or that are ours to choose.
_FREE = {
    "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "use_cache", "return_dict",
    "output_hidden_states", "output_attentions", "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id",
    "problem_type", "chunk_size_feed_forward", "classifier_dropout", "is_decoder", "max_window_layers",
    "pretraining_tp",
}  # fmt: skip


def family(config: GPTConfig) -> Family:
    """The architecture that computes what a GPT of this config does; ValueError names the setting that none has."""
    nearest = FAMILIES[0] if config.norm == "layernorm" else FAMILIES[2 if config.qk_norm else 1]
    for setting, value in nearest.asks.items():
        if (found := getattr(config, setting)) != value:
            raise ValueError(f"{setting}={found}: has no counterpart in {nearest.model.__name__}; accepted: {value}")
    if config.rotated == 0:
        raise ValueError(
            f"rope_fraction={config.rope_fraction}: {nearest.model.__name__} must rotate; accepted: above 0"
        )
    return nearest


def write_config(config: GPTConfig, eos: int | None = None, pad: int | None = None) -> PreTrainedConfig:
    """Our settings as theirs. Raises ValueError as `family` does."""
    kind = family(config)
    rope = {"rope_type": "default", "rope_theta": config.rope_base}
    settings: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "attention_bias": config.bias,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    if kind.model_type == "gpt_neox":
        rope["partial_rotary_factor"] = config.rope_fraction
        settings |= {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS, "hidden_dropout": 0.0}
        settings |= {"use_parallel_residual": False}
    else:
        settings |= {"hidden_act": "silu", "rms_norm_eps": NORM_EPS, "head_dim": config.head_dim}
        settings |= {"num_key_value_heads": config.n_head}
        settings |= {"mlp_bias": config.bias} if kind.model_type == "llama" else {"use_sliding_window": False}
    return kind.config(rope_parameters=rope, **settings)


def read_config(theirs: PreTrainedConfig) -> GPTConfig:
    """Their settings as ours. Raises ValueError, with setting, value and what is accepted, for one that we lack."""
    kinds = {kind.model_type: kind for kind in FAMILIES}
    kind = kinds.get(theirs.model_type)
    if kind is None:
        raise ValueError(f"model_type={theirs.model_type}: accepted: {', '.join(kinds)}")
    found = theirs.to_dict()
    rope = found["rope_parameters"]
    config = GPTConfig(
        vocab_size=found["vocab_size"],
        n_layer=found["num_hidden_layers"],
        n_head=found["num_attention_heads"],
        n_embd=found["hidden_size"],
        context=found["max_position_embeddings"],
        norm=kind.asks["norm"],
        mlp=kind.asks["mlp"],
        mlp_ratio=found["intermediate_size"] / found["hidden_size"],
        rope_base=rope.get("rope_theta", 10000.0),
        rope_fraction=rope.get("partial_rotary_factor", 1.0),
        qk_norm=kind.asks["qk_norm"],
        tied=found["tie_word_embeddings"],
        init_std=found["initializer_range"],
        bias=kind.asks.get("bias", found["attention_bias"]),
    )
    expected = write_config(config).to_dict()
    for setting in (*expected, *found):
        value, accepted = found.get(setting), expected.get(setting)
        if setting not in _FREE and value != accepted:
            raise ValueError(f"{setting}={value}: has no counterpart in a GPT; accepted: {accepted}")
    return config


def names_of(name: str, kind: Family) -> tuple[str, ...]:
    """Their names of our tensor `name`; several: the rows of ours in this order."""
    module, _, last = name.rpartition(".")
    if not name.startswith("blocks."):
        return (f"{kind.top[module]}.{last}",)
    _, layer, part = module.split(".", 2)
    prefix = f"{kind.top['blocks']}.{layer}."
    if last in ("weight", "bias"):
        return tuple(f"{prefix}{theirs}.{last}" for theirs in kind.block[part])
    return tuple(prefix + theirs for theirs in kind.block[f"{part}.{last}"])


def by_head(tensor: Tensor, groups: tuple[int, int]) -> Tensor:
    """Rows sorted by the second of two groups, then the first: (3, H) gives NeoX's order of ours, (H, 3) ours back."""
    return tensor.unflatten(0, (*groups, -1)).transpose(0, 1).flatten(0, 2)
