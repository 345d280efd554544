"""The model on documents laid end to end, for training and scoring on one CPU thread: matrix products of torch,
compiled loops (`kernels`) in between.

Why it is here: a small model's training step is some six hundred short torch operations, and between the matrix
products memory is read and written many times over ("training step" in tests/bench/README.md). It is a second
implementation of `GPT.hidden` behind one door: the model uses it where `is_supported` allows, GLASSHOUSE_JIT=0 turns it
off, and tests/unit/models/fused compares values and gradients with the modules. A change of `models/gpt.py` must be
made here as well, or be refused by `is_supported`.

The invariant that matters: hidden states and gradients are those of the modules, to float32 rounding.

Legend: B rows, T tokens, N tokens that are computed, C channels.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import gpt
from models.decode import cpu_kernels
from models.decode.cpu_step import is_implemented
from models.fused import functions
from models.fused.functions import Angles, Layout
from models.gpt import ACTIVATIONS, GPT, Conv, RMSNorm
from models.packing import Packing

WIDEST = 256  # channels: above, products are all of the time, and the modules are as fast (models/README.md)
ACTIVATION = ACTIVATIONS | {"relu2": functions.relu2}
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # of queries, keys, values [N, H, D]; gives [N, C]


def is_on() -> bool:
    """Whether models of at most `WIDEST` channels, in float32 on the CPU, take this pass in this process."""
    return cpu_kernels.COMPILED and torch.get_num_threads() == 1 and gpt.shortcut is hidden


def hidden(model: GPT, tokens_BT: Tensor, segments_BT: Tensor | None, at_N: Tensor | None) -> Tensor | None:
    """`GPT.hidden` without a cache; None where the modules have to do it."""
    nothing = tokens_BT.numel() == 0 or (at_N is not None and len(at_N) == 0)
    if nothing or model.config.n_embd > WIDEST or not is_implemented(model):
        return None
    n_rows, n_tokens = tokens_BT.shape
    packing = None if segments_BT is None else Packing(segments_BT, model.config.head_dim)
    if packing is None:
        position_BT = np.broadcast_to(np.arange(n_tokens), (n_rows, n_tokens))
    else:
        position_BT = packing.position_BT.numpy()
    position_N = np.ascontiguousarray(position_BT).reshape(-1)
    before_N = np.where(position_N == 0, -1, np.arange(-1, len(position_N) - 1))

    def attend(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        q_BHTD, k_BHTD, v_BHTD = (a.unflatten(0, tokens_BT.shape).transpose(1, 2) for a in (q_NHD, k_NHD, v_NHD))
        if packing is None:
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        else:
            y_BHTD = packing.attend(q_BHTD, k_BHTD, v_BHTD)
        return y_BHTD.transpose(1, 2).flatten(2).flatten(0, 1)

    x = run(model, tokens_BT.reshape(-1), Layout(before_N, position_N), attend, at_N)
    return x.view(*tokens_BT.shape, -1) if at_N is None else x


def run(model: GPT, tokens_N: Tensor, layout: Layout, attend: Attend, at_N: Tensor | None) -> Tensor:
    """Final hidden states [N, C], of all tokens or at the places `at_N` only. Raises IndexError for an id outside the
    vocabulary."""
    low, high = int(tokens_N.min()), int(tokens_N.max())
    if not 0 <= low <= high < model.config.vocab_size:
        raise IndexError(f"tokens {low} to {high}: expected 0 to {model.config.vocab_size - 1}")
    heads, angles = (model.config.n_head, model.config.head_dim), _angles(model)
    x, add = functions.embed(model.embed.weight, model.embed.shift, tokens_N, layout), None
    for block in model.blocks:
        attn, mlp, at = block.attn, block.mlp, at_N if block is model.blocks[-1] else None
        x, h = _norm_mix(x, add, block.norm_attn, block.conv_attn, layout)
        qkv = F.linear(h, attn.qkv.weight, attn.qkv.bias)
        q, k, v = functions.prepare(qkv, attn.q_scale, attn.k_scale, heads, angles, layout)
        y = attend(q, k, v)
        if at is not None and block.conv_mlp is None:  # a convolution needs the tokens before
            x, y = x.index_select(0, at), y.index_select(0, at)
        add = F.linear(y, attn.out.weight, attn.out.bias)
        x, h = _norm_mix(x, add, block.norm_mlp, block.conv_mlp, layout)
        if at is not None and block.conv_mlp is not None:
            x, h = x.index_select(0, at), h.index_select(0, at)
        inner = ACTIVATION[mlp.activation](F.linear(h, mlp.up.weight, mlp.up.bias))
        add = F.linear(inner, mlp.down.weight, mlp.down.bias)
    return _norm_mix(x, add, model.ln_final, None, layout)[1]


def _angles(model: GPT) -> Angles:
    pairs = model.config.rotated // 2
    keep_KE, _, behind_KE = model.rope(slice(model.config.context), torch.device("cpu"))
    cos, sin = keep_KE[:, :pairs].numpy(), behind_KE[:, pairs : 2 * pairs].numpy()
    return Angles(np.ascontiguousarray(cos), np.ascontiguousarray(sin))


def _norm_mix(
    x: Tensor, add: Tensor | None, norm: RMSNorm | nn.LayerNorm, conv: Conv | None, layout: Layout
) -> tuple[Tensor, Tensor]:
    bias, centred = (norm.bias, True) if isinstance(norm, nn.LayerNorm) else (None, False)
    return functions.norm_mix(x, add, norm.weight, bias, None if conv is None else conv.shift, centred, layout)
