"""Attention of one new token per row over the cache, on one CPU thread: each row reads as many columns as it holds.

A step of decoding is bound by the memory that attention reads. The kernel of torch reads every row up to the longest.
`make bench` has what rollouts gain.

The invariant that matters: equal to `F.scaled_dot_product_attention` under a mask, to float32 rounding.

Try it:  python -m pytest tests/unit/test_decode_attention.py

Legend: B rows in use, R rows of the cache, H heads, K columns, D channels of one head.
"""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

COMPILED = os.environ.get("GLASSHOUSE_JIT", "1") != "0"  # the generator's switch, too: without it torch's kernel serves
# Sums may be reordered and fused, which vector instructions need; infinities keep their meaning.
FAST = {"reassoc", "contract", "nsz"}


def applies(q_BHTD: Tensor, kv_2RHKD: Tensor) -> bool:
    """Whether `attend_one` can stand for torch's kernel: one token a row, float32, one CPU thread, no gradients."""
    return (
        COMPILED
        and q_BHTD.shape[2] == 1
        and q_BHTD.device.type == "cpu"
        and q_BHTD.dtype == kv_2RHKD.dtype == torch.float32
        and torch.get_num_threads() == 1
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def attend_one(q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, kv_2RHKD: Tensor, lengths_B: Tensor) -> Tensor:
    """Put the new keys and values behind the `lengths_B` columns of each row, and attend to these and all before.

    [B, H, D]. `kv_2RHKD` is contiguous and has room for one more column in every row.
    """
    n_rows, n_heads, width = q_BHD.shape
    k_RHKD, v_RHKD = kv_2RHKD.numpy()
    lengths = lengths_B.numpy()
    scores_BHK = torch.empty(n_rows, n_heads, int(lengths.max()) + 1)
    query = q_BHD.contiguous().numpy()
    _score(query, k_BHD.contiguous().numpy(), k_RHKD, lengths, np.float32(1 / math.sqrt(width)), scores_BHK.numpy())
    out_BHD = torch.empty(n_rows, n_heads, width)
    weights = torch.softmax(scores_BHK, dim=-1).numpy()
    _mix(weights, v_BHD.contiguous().numpy(), v_RHKD, lengths, out_BHD.numpy())
    return out_BHD


def _compiled(loops: Callable) -> Callable:
    """Machine code, cached in one place whatever else is compiled by numba in the process."""
    here, before = Path(__file__).parent, numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(here / "__pycache__" if os.access(here, os.W_OK) else Path(tempfile.gettempdir()))
    try:
        return numba.njit(fastmath=FAST, cache=True)(loops)
    finally:
        numba.config.CACHE_DIR = before


@_compiled
def _score(q_BHD, k_BHD, k_RHKD, lengths_B, scale, scores_BHK):
    n_rows, n_heads, width = q_BHD.shape
    for b in range(n_rows):
        end = lengths_B[b]
        for h in range(n_heads):
            for d in range(width):
                k_RHKD[b, h, end, d] = k_BHD[b, h, d]
            for j in range(end + 1):
                total = np.float32(0)
                for d in range(width):
                    total += q_BHD[b, h, d] * k_RHKD[b, h, j, d]
                scores_BHK[b, h, j] = total * scale
            for j in range(end + 1, scores_BHK.shape[2]):
                scores_BHK[b, h, j] = -np.inf


@_compiled
def _mix(weights_BHK, v_BHD, v_RHKD, lengths_B, out_BHD):
    n_rows, n_heads, width = out_BHD.shape
    for b in range(n_rows):
        end = lengths_B[b]
        for h in range(n_heads):
            for d in range(width):
                v_RHKD[b, h, end, d] = v_BHD[b, h, d]
                out_BHD[b, h, d] = 0
            for j in range(end + 1):
                weight = weights_BHK[b, h, j]
                for d in range(width):
                    out_BHD[b, h, d] += weight * v_RHKD[b, h, j, d]
