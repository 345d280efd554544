"""A decoder-only transformer with the parts that the experiments vary, fast on one CPU thread.

The invariant that matters: position t of the output depends on tokens 0..t only, and the same tokens give the same
logits whether they arrive at once, in pieces through a `KVCache`, or followed by right padding.

Try it:  python -c "from models import GPT, GPTConfig; print(GPT(GPTConfig(97, 2, 2, 32, 64)))"

Legend: B batch, T tokens, C channels (n_embd), H heads, D channels of one head, R half of the rotated channels,
        S token shift, V vocabulary, N chosen positions, L layers.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .cache import KVCache
from .elementwise import Rope, causal_mix, relu2, rms_norm, rope_tables, rotate, swiglu
from .packing import Packing

NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = {"gelu": F.gelu, "swiglu": swiglu, "relu2": relu2}
MLPS = tuple(ACTIVATIONS)
NORM_EPS = 1e-5


@dataclass(frozen=True)
class GPTConfig:
    """Everything that determines the shape of a model and the law of its initial weights.

    `ValueError` names the setting, its value and what is accepted.
    """

    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    context: int  # the longest sequence, in tokens
    norm: str = "rmsnorm"
    mlp: str = "gelu"
    mlp_ratio: float = 4.0  # hidden width / n_embd; 8/3 gives a SwiGLU the parameters of a two-matrix MLP at 4
    rope_base: float = 10000.0
    rope_fraction: float = 1.0  # share of each head's channels that rotate; 0 means no positions at all
    qk_norm: bool = False  # RMS norm of every query and key, with a learned scale per channel (Qwen3)
    tied: bool = True  # one matrix for embedding and unembedding
    token_shift: int = 0  # learned mix of the embeddings of this many previous tokens
    conv: int = 0  # learned mix of this many previous tokens in what attention and MLP read (Canon layers A and C)
    init_std: float = 0.02
    bias: bool = False  # biases in the linear maps, as in GPT-2 and GPT-NeoX

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layer", "n_head", "n_embd", "context", "token_shift", "conv"):
            least = 0 if name in ("token_shift", "conv") else 1
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
        for name in ("qk_norm", "tied", "bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected true or false")
        for name in ("mlp_ratio", "rope_base", "init_std", "rope_fraction"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{name}={value!r}: expected a number")
            if value <= 0 and name != "rope_fraction":
                raise ValueError(f"{name}={value!r}: expected a number above 0")
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r}: expected one of {', '.join(NORMS)}")
        if self.mlp not in MLPS:
            raise ValueError(f"mlp={self.mlp!r}: expected one of {', '.join(MLPS)}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd}: expected a multiple of n_head={self.n_head}")
        if not 0 <= self.rope_fraction <= 1:
            raise ValueError(f"rope_fraction={self.rope_fraction!r}: expected a number from 0 to 1")
        if self.rotated % 2:
            raise ValueError(
                f"rope_fraction={self.rope_fraction!r}: rotates {self.rotated} of {self.head_dim} channels of a head, "
                "expected an even number of them"
            )

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


class Linear(nn.Linear):
    """`nn.Linear` that leaves its weights to `init_weights`: building a model draws from no global generator."""

    def reset_parameters(self) -> None:
        pass


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, NORM_EPS)


def build_norm(config: GPTConfig) -> nn.Module:
    return RMSNorm(config.n_embd) if config.norm == "rmsnorm" else nn.LayerNorm(config.n_embd, eps=NORM_EPS)


class Embed(nn.Module):
    """Token embedding, optionally mixed with the embeddings of the previous S tokens.

    x[t] = E[t] + sum_j w_j * E[t-j], j = 1..S, w_j per channel, E[t] = 0 before the start (a causal depthwise
    convolution; ours, after RWKV's token shift, Peng et al. 2023).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.shift = nn.Parameter(torch.empty(config.token_shift, config.n_embd)) if config.token_shift else None

    def forward(self, tokens_BT: Tensor, cache: KVCache | None, packing: Packing | None = None) -> Tensor:
        x_BTC = F.embedding(tokens_BT, self.weight)
        if self.shift is None:
            return x_BTC
        if cache is None:
            return causal_mix(x_BTC, self.shift, None, None if packing is None else packing.position_BT)
        past_BS, real_BS = cache.previous(self.shift.shape[0])
        return causal_mix(x_BTC, self.shift, F.embedding(past_BS, self.weight) * real_BS[..., None])


class Conv(nn.Module):
    """Mixes what a part of block `layer` reads with what it read at the previous S tokens, per channel.

    y[t] = x[t] + sum_j w_j * x[t-j], j = 1..S (Canon layers, Allen-Zhu 2025, "Physics of Language Models" 4.1). `part`
    0 is the attention's, 1 the MLP's.
    """

    def __init__(self, config: GPTConfig, layer: int, part: int) -> None:
        super().__init__()
        self.layer, self.part = layer, part
        self.shift = nn.Parameter(torch.empty(config.conv, config.n_embd))

    def forward(self, x_BTC: Tensor, cache: KVCache | None, packing: Packing | None = None) -> Tensor:
        past_BSC = None if cache is None else cache.earlier(self.layer, self.part, x_BTC)
        return causal_mix(x_BTC, self.shift, past_BSC, None if packing is None else packing.position_BT)


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
        self,
        x_BTC: Tensor,
        rope: Rope,
        cache: KVCache | None,
        packing: Packing | None = None,
        at_N: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C], or [N, C] at the flat positions `at_N`."""
        c, (n_rows, n_tokens, _) = self.config, x_BTC.shape
        heads = (n_rows, n_tokens, c.n_head, c.head_dim)
        qk_BTE, v_BTC = self.qkv(x_BTC).split((2 * c.n_embd, c.n_embd), dim=-1)
        if self.q_scale is not None and self.k_scale is not None:
            scale_21D = torch.stack((self.q_scale, self.k_scale))[:, None]
            qk_BTE = rms_norm(qk_BTE.view(n_rows, n_tokens, 2, c.n_head, c.head_dim), scale_21D, NORM_EPS).flatten(2)
        if c.rotated:
            qk_BTE = rotate(qk_BTE, rope, c.rotated // 2).to(v_BTC.dtype)
        q_BTC, k_BTC = qk_BTE.split((c.n_embd, c.n_embd), dim=-1)
        q_BHTD, k_BHTD, v_BHTD = (a.view(heads).transpose(1, 2) for a in (q_BTC, k_BTC, v_BTC))
        if packing is not None:
            y_BHTD = packing.attend(q_BHTD, k_BHTD, v_BHTD)
        elif cache is None:
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        else:
            y_BHTD = cache.attend(self.layer, q_BHTD, k_BHTD, v_BHTD)
        return self.out(_at(y_BHTD.transpose(1, 2).reshape(x_BTC.shape), at_N))


class MLP(nn.Module):
    """gelu: erf GELU; relu2: squared ReLU (So et al. 2021); swiglu: silu(gate) * up in one matmul (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        gates = 2 if config.mlp == "swiglu" else 1  # swiglu rows: all gates, then all ups
        self.up = Linear(config.n_embd, gates * config.hidden, bias=config.bias)
        self.down = Linear(config.hidden, config.n_embd, bias=config.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(ACTIVATIONS[self.kind](self.up(x_BTC)))


class Block(nn.Module):
    """Pre-norm residual block: x + attn(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_attn, self.attn = build_norm(config), Attention(config, layer)
        self.norm_mlp, self.mlp = build_norm(config), MLP(config)
        self.conv_attn, self.conv_mlp = (Conv(config, layer, part) if config.conv else None for part in (0, 1))

    def forward(
        self,
        x_BTC: Tensor,
        rope: Rope,
        cache: KVCache | None,
        packing: Packing | None = None,
        at_N: Tensor | None = None,
    ) -> Tensor:
        """[B, T, C], or [N, C] at the flat positions `at_N`: what nobody reads at the others is not computed."""
        h_BTC = self.norm_attn(x_BTC)
        if self.conv_attn is not None:
            h_BTC = self.conv_attn(h_BTC, cache, packing)
        if self.conv_mlp is None:
            x = _at(x_BTC, at_N) + self.attn(h_BTC, rope, cache, packing, at_N)
            return x + self.mlp(self.norm_mlp(x))
        x_BTC = x_BTC + self.attn(h_BTC, rope, cache, packing)
        h_BTC = self.conv_mlp(self.norm_mlp(x_BTC), cache, packing)  # reads the positions before those wanted
        return _at(x_BTC, at_N) + self.mlp(_at(h_BTC, at_N))


def _at(x_BTC: Tensor, at_N: Tensor | None) -> Tensor:
    return x_BTC if at_N is None else x_BTC.flatten(0, 1).index_select(0, at_N)


def hooked(*modules: nn.Module) -> bool:
    """Whether anybody watches what passes these modules, or any of theirs, forward or backward."""
    return _has_any_global_hook() or any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for module in modules
        for m in module.modules()
    )


class GPT(nn.Module):
    """The model. `GPT(config, seed)` always has the same weights; a meta device gives shapes without memory."""

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_final = build_norm(config)
        self.unembed = None if config.tied else Linear(config.n_embd, config.vocab_size, bias=False)
        self.rope_tables: Tensor | None = None  # made when first needed; no buffer, for it must stay float32
        init_weights(self, seed)

    def forward(
        self,
        tokens_BT: Tensor,
        cache: KVCache | None = None,
        at_N: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits, float32: [B, T, V], or [N, V] at the flat positions `at_N` = b * T + t only.

        Without a cache the tokens start at position 0. With one, row b of `tokens_BT` continues row b of the cache,
        which afterwards holds it too. Right padding needs no mask here: it cannot reach the positions before it.
        `segments_BT` (without a cache) numbers the documents of each row, which then do not see each other
        (`models.packing`). Raises ValueError if a sequence would outgrow `config.context` or the cache.
        """
        x = self.hidden(tokens_BT, cache, segments_BT, at_N)
        return F.linear(x, self.unembedding).float()

    def hidden(
        self,
        tokens_BT: Tensor,
        cache: KVCache | None = None,
        segments_BT: Tensor | None = None,
        at_N: Tensor | None = None,
    ) -> Tensor:
        """What the unembedding reads: the residual stream after the final norm, [B, T, C], or [N, C] at `at_N`."""
        n_tokens = tokens_BT.shape[1]
        if n_tokens > self.config.context:
            raise ValueError(f"context={self.config.context}: too short for {n_tokens} tokens")
        packing = None if segments_BT is None else Packing(segments_BT, self.config.head_dim)
        if packing is not None:
            positions = packing.position_BT
        else:
            positions = slice(n_tokens) if cache is None else cache.begin(tokens_BT)
        rope = self.rope(positions, tokens_BT.device)
        x_BTC = self.embed(tokens_BT, cache, packing)
        *blocks, last = self.blocks
        for block in blocks:
            x_BTC = block(x_BTC, rope, cache, packing)
        narrow = at_N is not None and not hooked(last, self.ln_final)  # who watches sees all positions
        x = self.ln_final(last(x_BTC, rope, cache, packing, at_N if narrow else None))
        if cache is not None:
            cache.commit(tokens_BT)
        return x if narrow else _at(x, at_N)

    @property
    def unembedding(self) -> Tensor:
        """The matrix [V, C] that makes logits of the residual stream."""
        return self.embed.weight if self.unembed is None else self.unembed.weight

    def rope(self, positions: slice | Tensor, device: torch.device) -> Rope:
        """What `models.elementwise.rotate` needs at these positions."""
        c = self.config
        if self.rope_tables is None or self.rope_tables.device != device:
            self.rope_tables = rope_tables(c.context, c.head_dim, c.rotated, c.rope_base, 2 * c.n_head).to(device)
        keep, ahead, behind = self.rope_tables[:, positions]
        return keep, ahead, behind


@torch.no_grad()
def init_weights(model: GPT, seed: int) -> None:
    """Fill every tensor from (seed, its name), so that a new part never changes the initial weights of the others.

    embed.weight, unembed.weight, *.qkv.weight, *.up.weight   normal, std init_std
    *.out.weight, *.down.weight                               normal, std init_std / sqrt(2 n_layer)   (GPT-2)
    norm weights, q_scale, k_scale                            one
    biases, embed.shift, conv_*.shift                         zero (a mix starts as no mix)
    """
    config = model.config
    for name, tensor in model.named_parameters():
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if tensor.is_meta:
            continue
        if kind in ("bias", "shift"):
            tensor.zero_()
        elif tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            std = config.init_std / math.sqrt(2 * config.n_layer) if kind in ("out", "down") else config.init_std
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
