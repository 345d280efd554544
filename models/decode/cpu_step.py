"""The decoding step on one CPU thread: matrix products of torch, compiled loops (`cpu_kernels`) in between.

Why it is here: a small model's step is a hundred short torch operations, each of which costs its dispatch; here a layer
is four products, three loops, a softmax and the MLP's activation ("rollouts" in tests/bench/README.md). It is a second
implementation of `GPT.forward` behind one door: `Decoder` uses it where `is_supported` allows, GLASSHOUSE_JIT=0 turns
it off, and tests/unit/models/decode/test_cpu_step.py compares it with the model. A change of `models/gpt.py` must be
made here as well, or be refused by `is_supported`.

The invariant that matters: logits and cache are those of `model.forward(token_A1, cache)`, to float32 rounding.

Legend: A rows in use, C channels of the residual stream, V vocabulary, H heads, K columns, E queries, keys and values.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from models.decode import cpu_kernels as kernels
from models.decode.cache import KVCache
from models.gpt import ACTIVATIONS, GPT, MLP, NORM_EPS, Attention, Block, Conv, Embed, Linear, RMSNorm, hooks_of

# The modules that are implemented below; any other (LoRA's, say) goes through the model.
IMPLEMENTED = (GPT, Embed, Block, Attention, MLP, Conv, RMSNorm, nn.LayerNorm, Linear, nn.ModuleList)
NONE = np.empty(0, np.float32)
NONE_2 = np.empty((0, 0), np.float32)


def is_supported(model: GPT, cache: KVCache) -> bool:
    """Whether `CPUStep` computes what the model does: without gradients, and `is_implemented`."""
    return cache.kv_L2RHKD.dtype == torch.float32 and not torch.is_grad_enabled() and is_implemented(model)


def is_implemented(model: GPT) -> bool:
    """Whether compiled loops may take the modules' place: float32 on one CPU thread, no hooks, and no module but those
    implemented here and in `models.fused`."""
    return (
        kernels.COMPILED
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() == 1
        and not torch.is_autocast_enabled("cpu")
        and all(map(_is_known, model.modules()))
        and not _has_any_global_hook()
        and [block.attn.layer for block in model.blocks] == list(range(model.config.n_layer))
    )


def _is_plain(parameter: Tensor) -> bool:
    """A float32 tensor in the memory of the CPU, and no shard of one."""
    plain = type(parameter) in (nn.Parameter, Tensor) and parameter.is_contiguous()
    return plain and parameter.dtype == torch.float32 and parameter.device.type == "cpu"


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, nn.LayerNorm) and (module.eps != NORM_EPS or module.weight is None):
        return False
    own = vars(module)
    known = type(module) in IMPLEMENTED and "forward" not in own and "hidden" not in own and not hooks_of(module)
    return known and all(p is None or _is_plain(p) for p in own["_parameters"].values())


class CPUStep:
    """Decoding steps of one model on one cache, under `torch.no_grad()`. The weights must not change meanwhile."""

    def __init__(self, model: GPT, cache: KVCache) -> None:
        config = model.config
        self.model, self.cache, self.eps = model, cache, np.float32(NORM_EPS)
        self.scale = np.float32(1 / math.sqrt(config.head_dim))
        self.embed, self.embed_shift = _array(model.embed.weight), _array(model.embed.shift, NONE_2)
        self.tokens_RK, self.lengths_R = cache.tokens_RK.numpy(), cache.lengths_R.numpy()
        kv_L2RHKD, inputs_L2RKC = cache.kv_L2RHKD.numpy(), cache.inputs_L2RKC.numpy()
        self.k, self.v = kv_L2RHKD[:, 0], kv_L2RHKD[:, 1]
        self.scales = [(_array(b.attn.q_scale), _array(b.attn.k_scale)) for b in model.blocks]
        self.norms = [
            (_norm(b.norm_attn, b.conv_attn, inputs_2RKC[0]), _norm(b.norm_mlp, b.conv_mlp, inputs_2RKC[1]))
            for b, inputs_2RKC in zip(model.blocks, inputs_L2RKC, strict=True)
        ]
        self.norm_final = _norm(model.ln_final, None, np.empty((0, 0, 0), np.float32))
        pairs = config.rotated // 2
        keep_KE, _, behind_KE = model.rope(slice(config.context), torch.device("cpu"))
        self.cos = np.ascontiguousarray(keep_KE[:, :pairs])
        self.sin = np.ascontiguousarray(behind_KE[:, pairs : 2 * pairs])

    def __call__(self, token_A1: Tensor) -> Tensor:
        """Logits [A, V] of the token after `token_A1`. Raises ValueError if the cache has other rows or no free column;
        IndexError for an id outside the vocabulary."""
        model, cache, n = self.model, self.cache, len(token_A1)
        if token_A1.shape != (cache.n_rows, 1):
            raise ValueError(f"tokens of {n} rows: expected the cache's {cache.n_rows}")
        if cache.longest + 1 > cache.capacity:
            raise ValueError(f"capacity={cache.capacity}: too small for {cache.longest} + 1 tokens")
        lengths, token = self.lengths_R[:n], token_A1[:, 0].contiguous().numpy()
        if n and not 0 <= token.min() <= token.max() < len(self.embed):
            raise IndexError(f"tokens {token.min()} to {token.max()}: expected 0 to {len(self.embed) - 1}")
        x_AC, h_AC = torch.empty(2, n, model.config.n_embd, dtype=torch.float32)
        x, h, add = x_AC.numpy(), h_AC.numpy(), NONE_2
        scores_AHK = torch.empty(n, model.config.n_head, cache.longest + 1, dtype=torch.float32)
        kernels.embed(token, self.embed, self.embed_shift, self.tokens_RK, lengths, x)
        for layer, block in enumerate(model.blocks):
            before_attn, before_mlp = self.norms[layer]
            kernels.add_norm_mix(x, add, *before_attn, lengths, h)
            add = self._attend(layer, block.attn, h_AC, scores_AHK, lengths)
            kernels.add_norm_mix(x, add, *before_mlp, lengths, h)
            up, down, activation = block.mlp.up, block.mlp.down, ACTIVATIONS[block.mlp.activation]
            add = F.linear(activation(F.linear(h_AC, up.weight, up.bias)), down.weight, down.bias).numpy()
        kernels.add_norm_mix(x, add, *self.norm_final, lengths, h)
        cache.lengths_R[:n] += 1
        cache.longest += 1
        return F.linear(h_AC, model.unembedding)

    def _attend(self, layer: int, attn: Attention, h_AC: Tensor, scores_AHK: Tensor, lengths: np.ndarray) -> np.ndarray:
        qkv = F.linear(h_AC, attn.qkv.weight, attn.qkv.bias).numpy()
        k, v = self.k[layer], self.v[layer]
        angles = self.cos, self.sin, self.eps, self.scale
        kernels.score(qkv, *self.scales[layer], *angles, k, v, lengths, scores_AHK.numpy())
        y_AC = torch.empty_like(h_AC)
        kernels.mix(torch.softmax(scores_AHK, dim=-1).numpy(), v, lengths, y_AC.numpy())
        return F.linear(y_AC, attn.out.weight, attn.out.bias).numpy()


def _array(tensor: Tensor | None, none: np.ndarray = NONE) -> np.ndarray:
    return none if tensor is None else tensor.detach().numpy()


def _norm(norm: RMSNorm | nn.LayerNorm, conv: Conv | None, inputs_RKC: np.ndarray) -> tuple:
    """A norm and the convolution behind it, as arguments of `add_norm_mix`."""
    centred, bias = isinstance(norm, nn.LayerNorm), norm.bias if isinstance(norm, nn.LayerNorm) else None
    shift = NONE_2 if conv is None else _array(conv.shift)
    return _array(norm.weight), _array(bias), centred, np.float32(NORM_EPS), shift, inputs_RKC
