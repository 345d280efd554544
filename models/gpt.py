"""A decoder-only transformer with the parts that the experiments vary, fast on one CPU thread.

The invariant that matters: position t of the output depends on tokens 0..t only, and the same tokens give the same
logits at once, in pieces through a cache, or followed by right padding.

Legend: B batch, T tokens, C channels (n_embd), H heads, D channels of one head, R half of the rotated channels,
        S token shift, V vocabulary, N chosen positions, L layers.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NoReturn, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from models.ops import causal_conv, relu2, rms_norm, swiglu
from models.packing import Packing
from models.rope import Rope, apply_rope, rope_tables

ACTIVATIONS = {"gelu": F.gelu, "swiglu": swiglu, "relu2": relu2}
NORM_EPS = 1e-5
# What takes a pass without a cache in the modules' place, where it can (`models.fused.forward.hidden`; set by `models`)
shortcut: "Callable[[GPT, Tensor, Tensor | None, Tensor | None], Tensor | None] | None" = None


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model and the distribution of its initial weights; ValueError for a setting out of range."""

    vocab_size: int
    n_layer: int  # layers
    n_head: int  # heads of attention in a layer
    n_embd: int  # channels
    context: int  # the longest sequence, in tokens
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"  # of the channels
    mlp: Literal["gelu", "swiglu", "relu2"] = "gelu"  # its activation
    mlp_ratio: float = 4.0  # hidden width / n_embd; 8/3 gives a SwiGLU the parameters of a two-matrix MLP at 4
    rope_base: float = 10000.0  # of the rotary positions
    rope_fraction: float = 1.0  # share of each head's channels that RoPE rotates; 0 means no positions at all
    qk_norm: bool = False  # RMS norm of every query and key, with a learned scale per channel (Qwen3)
    tied: bool = True  # one matrix for embedding and unembedding
    token_shift: int = 0  # learned mix of the embeddings of this many previous tokens
    conv: int = 0  # learned mix of this many previous tokens in what attention and MLP read (Canon layers A and C)
    init_std: float = 0.02  # of the random weights
    bias: bool = False  # biases in the linear maps, as in GPT-2 and GPT-NeoX

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            least = 0 if name in ("token_shift", "conv") else 1
            finite = type(value) in (int, float) and math.isfinite(value)
            if field.type is int and (type(value) is not int or value < least):
                self._refuse(name, f"an integer of at least {least}")
            if field.type is bool and type(value) is not bool:
                self._refuse(name, "true or false")
            if field.type is float and not finite:
                self._refuse(name, "a number")
            if field.type is float and name != "rope_fraction" and value <= 0:
                self._refuse(name, "a number above 0")
        for name, accepted in (("norm", ("rmsnorm", "layernorm")), ("mlp", tuple(ACTIVATIONS))):
            if getattr(self, name) not in accepted:
                self._refuse(name, f"one of {', '.join(accepted)}")
        if self.n_embd % self.n_head:
            self._refuse("n_embd", f"a multiple of n_head={self.n_head}")
        if not 0 <= self.rope_fraction <= 1:
            self._refuse("rope_fraction", "a number from 0 to 1")
        if self.rotated % 2:
            turns = f"rotates {self.rotated} of {self.head_dim} channels of a head"
            raise ValueError(f"rope_fraction={self.rope_fraction!r}: {turns}, expected an even number of them")

    def _refuse(self, name: str, accepted: str) -> NoReturn:
        raise ValueError(f"{name}={getattr(self, name)!r}: expected {accepted}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def rotated(self) -> int:
        """Channels of each head that RoPE rotates."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def hidden(self) -> int:
        """Width of the MLP's hidden layer."""
        return max(1, round(self.mlp_ratio * self.n_embd))


class Cache(Protocol):
    """What a forward pass that continues stored tokens asks of their store (`models.decode.cache.KVCache`). The model
    calls `begin`, then `previous_tokens`, then `update_conv` and `attend` once for each layer, then `commit`."""

    def begin(self, tokens_BT: Tensor, /) -> slice | Tensor:
        """The positions of the new tokens: a slice, or int64[B, T]."""
        ...

    def previous_tokens(self, n: int, /) -> tuple[Tensor, Tensor]:
        """Ids [B, S] of the n tokens before the new ones, oldest first, and which of them exist."""
        ...

    def update_conv(self, layer: int, part: int, x_BTC: Tensor, /) -> Tensor | None:
        """Stores what a convolution reads at the new tokens; returns what it read at the S tokens before, [B, S, C]."""

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, /) -> Tensor:
        """Stores keys and values; attention [B, H, T, D] of each new token over all tokens up to itself."""
        ...

    def commit(self, tokens_BT: Tensor, /) -> None:
        """The pass is complete: the new tokens count as stored."""


class Linear(nn.Linear):
    """`nn.Linear` without initialisation (see `init_weights`): building a model draws from no global generator."""

    def reset_parameters(self) -> None:
        pass


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, NORM_EPS)


def build_norm(config: GPTConfig) -> RMSNorm | nn.LayerNorm:
    return RMSNorm(config.n_embd) if config.norm == "rmsnorm" else nn.LayerNorm(config.n_embd, eps=NORM_EPS)


class Embed(nn.Module):
    """Token embedding, optionally with a causal depthwise convolution over the embeddings of the previous S tokens.
    x[t] = E[t] + sum_j w_j * E[t-j], j = 1..S, w_j per channel, E[t] = 0 before the start (ours, after RWKV's token
    shift, Peng et al. 2023)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.shift = nn.Parameter(torch.empty(config.token_shift, config.n_embd)) if config.token_shift else None

    def forward(self, tokens_BT: Tensor, cache: Cache | None, packing: Packing | None = None) -> Tensor:
        x_BTC = F.embedding(tokens_BT, self.weight)
        if self.shift is None:
            return x_BTC
        if cache is None:
            return causal_conv(x_BTC, self.shift, None, None if packing is None else packing.position_BT)
        past_BS, real_BS = cache.previous_tokens(self.shift.shape[0])
        return causal_conv(x_BTC, self.shift, F.embedding(past_BS, self.weight) * real_BS[..., None])


class Conv(nn.Module):
    """Causal depthwise convolution with a residual, on what attention (`part` 0) or the MLP (`part` 1) reads. y[t] =
    x[t] + sum_j w_j * x[t-j], j = 1..S (Canon layers, Allen-Zhu 2025, "Physics of Language Models" 4.1)."""

    def __init__(self, config: GPTConfig, layer: int, part: int) -> None:
        super().__init__()
        self.layer, self.part = layer, part
        self.shift = nn.Parameter(torch.empty(config.conv, config.n_embd))

    def forward(self, x_BTC: Tensor, cache: Cache | None, packing: Packing | None = None) -> Tensor:
        past_BSC = None if cache is None else cache.update_conv(self.layer, self.part, x_BTC)
        return causal_conv(x_BTC, self.shift, past_BSC, None if packing is None else packing.position_BT)


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions and, optionally, normalised queries and keys."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.qkv = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)  # rows: all queries, all keys, all values
        self.out = Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.q_scale = nn.Parameter(torch.empty(config.head_dim)) if config.qk_norm else None
        self.k_scale = nn.Parameter(torch.empty(config.head_dim)) if config.qk_norm else None

    def forward(
        self, x_BTC: Tensor, rope: Rope, cache: Cache | None, packing: Packing | None = None, at_N: Tensor | None = None
    ) -> Tensor:
        """[B, T, C], or [N, C] at the flat positions `at_N`."""
        c, (n_rows, n_tokens, _) = self.config, x_BTC.shape
        heads = (n_rows, n_tokens, c.n_head, c.head_dim)
        qk_BTE, v_BTC = self.qkv(x_BTC).split((2 * c.n_embd, c.n_embd), dim=-1)
        if self.q_scale is not None and self.k_scale is not None:
            scale_21D = torch.stack((self.q_scale, self.k_scale))[:, None]
            qk_BTE = rms_norm(qk_BTE.view(n_rows, n_tokens, 2, c.n_head, c.head_dim), scale_21D, NORM_EPS).flatten(2)
        if c.rotated:
            qk_BTE = apply_rope(qk_BTE, rope, c.rotated // 2).to(v_BTC.dtype)
        q_BTC, k_BTC = qk_BTE.split((c.n_embd, c.n_embd), dim=-1)
        q_BHTD, k_BHTD, v_BHTD = (a.view(heads).transpose(1, 2) for a in (q_BTC, k_BTC, v_BTC))
        if packing is not None:
            y_BHTD = packing.attend(q_BHTD, k_BHTD, v_BHTD)
        elif cache is None:
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        else:
            y_BHTD = cache.attend(self.layer, q_BHTD, k_BHTD, v_BHTD)
        return self.out(_select(y_BHTD.transpose(1, 2).reshape(x_BTC.shape), at_N))


class MLP(nn.Module):
    """gelu: erf GELU; relu2: squared ReLU (So et al. 2021); swiglu: silu(gate) * up in one matmul (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.mlp
        gates = 2 if config.mlp == "swiglu" else 1  # swiglu rows: all gates, then all ups
        self.up = Linear(config.n_embd, gates * config.hidden, bias=config.bias)
        self.down = Linear(config.hidden, config.n_embd, bias=config.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(ACTIVATIONS[self.activation](self.up(x_BTC)))


class Block(nn.Module):
    """Pre-norm residual block: x + attn(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_attn, self.attn = build_norm(config), Attention(config, layer)
        self.norm_mlp, self.mlp = build_norm(config), MLP(config)
        self.conv_attn, self.conv_mlp = (Conv(config, layer, part) if config.conv else None for part in (0, 1))

    def forward(
        self, x_BTC: Tensor, rope: Rope, cache: Cache | None, packing: Packing | None = None, at_N: Tensor | None = None
    ) -> Tensor:
        """[B, T, C], or [N, C] at the flat positions `at_N` only: the others are skipped where possible."""
        h_BTC = self.norm_attn(x_BTC)
        if self.conv_attn is not None:
            h_BTC = self.conv_attn(h_BTC, cache, packing)
        if self.conv_mlp is None:
            x = _select(x_BTC, at_N) + self.attn(h_BTC, rope, cache, packing, at_N)
            return x + self.mlp(self.norm_mlp(x))
        x_BTC = x_BTC + self.attn(h_BTC, rope, cache, packing)
        h_BTC = self.conv_mlp(self.norm_mlp(x_BTC), cache, packing)  # a convolution needs the positions before `at_N`
        return _select(x_BTC, at_N) + self.mlp(_select(h_BTC, at_N))


def _select(x_BTC: Tensor, at_N: Tensor | None) -> Tensor:
    return x_BTC if at_N is None else x_BTC.flatten(0, 1).index_select(0, at_N)


def has_hooks(*modules: nn.Module) -> bool:
    """Whether these modules, or modules inside them, have forward or backward hooks, or global hooks are on."""
    return bool(_has_any_global_hook()) or any(hooks_of(m) for module in modules for m in module.modules())


def hooks_of(module: nn.Module) -> bool:
    """Whether this module itself has hooks."""
    m = module
    return bool(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)


class GPT(nn.Module):
    """The model. `GPT(config, seed)` always has the same weights; a meta device gives shapes without memory."""

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)))
        self.ln_final = build_norm(config)
        self.unembed = None if config.tied else Linear(config.n_embd, config.vocab_size, bias=False)
        self.rope_tables: Tensor | None = None  # built on first use; not a buffer, because it must stay float32
        init_weights(self, seed)

    def forward(
        self, tokens_BT: Tensor, cache: Cache | None = None, at_N: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Next-token logits, float32: [B, T, V], or [N, V] at the flat positions `at_N` = b * T + t only.

        Without a cache the tokens start at position 0. With one, row b of `tokens_BT` continues row b of the cache and
        is stored there. Right padding needs no mask: attention is causal. `segments_BT` (without a cache) numbers the
        documents of each row, which then do not attend to each other (`models.packing`). Raises ValueError if a
        sequence would be longer than `config.context` or the cache.
        """
        x = self.hidden(tokens_BT, cache, segments_BT, at_N)
        return F.linear(x, self.unembedding).float()

    def hidden(
        self, tokens_BT: Tensor, cache: Cache | None = None, segments_BT: Tensor | None = None,
        at_N: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Final hidden states, the input of the unembedding, [B, T, C], or [N, C]; arguments as in `forward`."""
        n_tokens = tokens_BT.shape[1]
        if n_tokens > self.config.context:
            raise ValueError(f"context={self.config.context}: too short for {n_tokens} tokens")
        if cache is None and shortcut is not None:
            found = shortcut(self, tokens_BT, segments_BT, at_N)
            if found is not None:
                return found
        packing, positions = None, slice(n_tokens)
        if segments_BT is not None:
            packing = Packing(segments_BT, self.config.head_dim)
            positions = packing.position_BT
        elif cache is not None:
            positions = cache.begin(tokens_BT)
        rope = self.rope(positions, tokens_BT.device)
        x_BTC = self.embed(tokens_BT, cache, packing)
        *blocks, last = self.blocks
        for block in blocks:
            x_BTC = block(x_BTC, rope, cache, packing)
        narrow = at_N is not None and not has_hooks(last, self.ln_final)  # hooks must see every position
        x = self.ln_final(last(x_BTC, rope, cache, packing, at_N if narrow else None))
        if cache is not None:
            cache.commit(tokens_BT)
        return x if narrow else _select(x, at_N)

    @property
    def unembedding(self) -> Tensor:
        """The matrix [V, C] from final hidden states to logits."""
        return self.embed.weight if self.unembed is None else self.unembed.weight

    def rope(self, positions: slice | Tensor, device: torch.device) -> Rope:
        """The tables of `models.rope.apply_rope` at these positions."""
        c = self.config
        if self.rope_tables is None or self.rope_tables.device != device:
            self.rope_tables = rope_tables(c.context, c.head_dim, c.rotated, c.rope_base, 2 * c.n_head).to(device)
        keep, ahead, behind = self.rope_tables[:, positions]
        return keep, ahead, behind


@torch.no_grad()
def init_weights(model: GPT, seed: int) -> None:
    """Fill every parameter from (seed, its name), so that adding a part never changes the initial weights of others.

    embed.weight, unembed.weight, *.qkv.weight, *.up.weight   normal, std init_std
    *.out.weight, *.down.weight                               normal, std init_std / sqrt(2 n_layer)   (GPT-2)
    norm weights, q_scale, k_scale                            one
    biases, embed.shift, conv_*.shift                         zero (a convolution starts as the identity)
    """
    config = model.config
    for name, tensor in model.named_parameters():
        part = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if tensor.is_meta:
            continue
        if part in ("bias", "shift"):
            tensor.zero_()
        elif tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            std = config.init_std / math.sqrt(2 * config.n_layer) if part in ("out", "down") else config.init_std
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
