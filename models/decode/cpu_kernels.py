"""Compiled loops of `models.decode.cpu_step`: what lies between the matrix products of a decoding step.

Each is one pass over memory; every row appends one token. A loop reads the columns that a row uses and no others, so
the rest of the cache may hold anything. Nothing else in the house uses this file: read `models/gpt.py` for what the
model computes, and this only to make it faster.

The invariant that matters: each equals the modules of `models/gpt.py` on one token a row, to float32 rounding.

Legend: A rows in use, R rows of the cache, H heads, K columns, D channels of one head, C channels of the residual
        stream, S earlier tokens, V vocabulary, E channels of queries and keys and values, P rotated pairs of a head.
"""

import os
from collections.abc import Callable

import numba
import numpy as np
from numba.core import config

COMPILED = os.environ.get("GLASSHOUSE_JIT", "1") != "0"  # as in `synth.kernel.jit`; off: the model takes the step
FAST = {"reassoc", "contract", "nsz"}  # sums may be reordered and fused, as vector instructions do; infinities stay


def compiled(loops: Callable) -> Callable:
    """`numba.njit`, with the machine code where numba keeps it by itself (beside this file, else in a folder of this
    user), whatever `synth.kernel.jit` has set."""
    before = getattr(config, "CACHE_DIR", "")
    own = os.environ.get("NUMBA_CACHE_DIR", "")
    config.CACHE_DIR = own  # pyright: ignore[reportAttributeAccessIssue]  (numba sets them when it is imported)
    try:
        return numba.njit(fastmath=FAST, cache=True)(loops)
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


@compiled
def embed(token_A, embed_VC, shift_SC, tokens_RK, lengths_A, x_AC):
    """x = E[token] + sum_j shift[j - 1] E[j tokens before]; stores the tokens. An empty `shift_SC` mixes nothing."""
    n_rows, width = x_AC.shape
    for a in range(n_rows):
        end = lengths_A[a]
        tokens_RK[a, end] = token_A[a]
        for c in range(width):
            x_AC[a, c] = embed_VC[token_A[a], c]
        for j in range(1, min(len(shift_SC), end) + 1):
            before = tokens_RK[a, end - j]
            for c in range(width):
                x_AC[a, c] += shift_SC[j - 1, c] * embed_VC[before, c]


@compiled
def add_norm_mix(x_AC, add_AC, weight_C, bias_C, centred, eps, shift_SC, inputs_RKC, lengths_A, h_AC):
    """x += add (if any); h = norm(x), layer norm if `centred`, else RMS norm; then, where `shift_SC` is not empty, the
    convolution: h is stored in `inputs_RKC`, and the stored rows of the S tokens before are added under `shift_SC`."""
    n_rows, width = x_AC.shape
    for a in range(n_rows):
        if len(add_AC):
            for c in range(width):
                x_AC[a, c] += add_AC[a, c]
        mean = np.float32(0)
        if centred:
            for c in range(width):
                mean += x_AC[a, c]
            mean /= np.float32(width)
        square = np.float32(0)
        for c in range(width):
            square += (x_AC[a, c] - mean) * (x_AC[a, c] - mean)
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + eps)
        for c in range(width):
            h_AC[a, c] = (x_AC[a, c] - mean) * inverse * weight_C[c]
        if len(bias_C):
            for c in range(width):
                h_AC[a, c] += bias_C[c]
        if len(shift_SC):
            end = lengths_A[a]
            for c in range(width):
                inputs_RKC[a, end, c] = h_AC[a, c]
            for j in range(1, min(len(shift_SC), end) + 1):
                for c in range(width):
                    h_AC[a, c] += shift_SC[j - 1, c] * inputs_RKC[a, end - j, c]


@compiled
def _prepare(row_E, start, scale_D, cos_KP, sin_KP, at, eps, out_D):
    """One head of queries or keys: normalised if there is a scale, rotated by the angles of position `at`."""
    width, pairs = len(out_D), cos_KP.shape[1]
    for d in range(width):
        out_D[d] = row_E[start + d]
    if len(scale_D):
        square = np.float32(0)
        for d in range(width):
            square += out_D[d] * out_D[d]
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + eps)
        for d in range(width):
            out_D[d] *= inverse * scale_D[d]
    for p in range(pairs):
        one, two = out_D[p], out_D[pairs + p]
        out_D[p] = one * cos_KP[at, p] - two * sin_KP[at, p]
        out_D[pairs + p] = two * cos_KP[at, p] + one * sin_KP[at, p]


@compiled
def score(qkv_AE, q_scale_D, k_scale_D, cos_KP, sin_KP, eps, scale, k_RHKD, v_RHKD, lengths_A, scores_AHK):
    """Append each row's new key and value; the scores of its query with all its columns, -inf behind them. Eight
    columns at a time, because the additions of a single sum would wait for each other."""
    n_rows, n_heads, most = scores_AHK.shape
    width = k_RHKD.shape[3]
    channels = n_heads * width
    q_D = np.empty(width, np.float32)
    for a in range(n_rows):
        end = lengths_A[a]
        for h in range(n_heads):
            k_KD = k_RHKD[a, h]
            _prepare(qkv_AE[a], h * width, q_scale_D, cos_KP, sin_KP, end, eps, q_D)
            _prepare(qkv_AE[a], channels + h * width, k_scale_D, cos_KP, sin_KP, end, eps, k_KD[end])
            for d in range(width):
                q_D[d] *= scale
                v_RHKD[a, h, end, d] = qkv_AE[a, 2 * channels + h * width + d]
            full = (end + 1) // 8 * 8
            for j in range(0, full, 8):
                s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
                for d in range(width):
                    q = q_D[d]
                    s0 += q * k_KD[j, d]
                    s1 += q * k_KD[j + 1, d]
                    s2 += q * k_KD[j + 2, d]
                    s3 += q * k_KD[j + 3, d]
                    s4 += q * k_KD[j + 4, d]
                    s5 += q * k_KD[j + 5, d]
                    s6 += q * k_KD[j + 6, d]
                    s7 += q * k_KD[j + 7, d]
                scores_AHK[a, h, j] = s0
                scores_AHK[a, h, j + 1] = s1
                scores_AHK[a, h, j + 2] = s2
                scores_AHK[a, h, j + 3] = s3
                scores_AHK[a, h, j + 4] = s4
                scores_AHK[a, h, j + 5] = s5
                scores_AHK[a, h, j + 6] = s6
                scores_AHK[a, h, j + 7] = s7
            for j in range(full, end + 1):
                total = np.float32(0)
                for d in range(width):
                    total += q_D[d] * k_KD[j, d]
                scores_AHK[a, h, j] = total
            for j in range(end + 1, most):
                scores_AHK[a, h, j] = -np.inf


@compiled
def mix(weights_AHK, v_RHKD, lengths_A, out_AC):
    """Each row's values, the new one included, summed under the attention weights; eight columns at a time."""
    n_rows, n_heads, _ = weights_AHK.shape
    width = v_RHKD.shape[3]
    for a in range(n_rows):
        columns = lengths_A[a] + 1
        for h in range(n_heads):
            v_KD, weight_K, out_D = v_RHKD[a, h], weights_AHK[a, h], out_AC[a, h * width : (h + 1) * width]
            out_D[:] = 0
            full = columns // 8 * 8
            for j in range(0, full, 8):
                w0, w1, w2, w3 = weight_K[j], weight_K[j + 1], weight_K[j + 2], weight_K[j + 3]
                w4, w5, w6, w7 = weight_K[j + 4], weight_K[j + 5], weight_K[j + 6], weight_K[j + 7]
                for d in range(width):
                    out_D[d] += (w0 * v_KD[j, d] + w1 * v_KD[j + 1, d] + w2 * v_KD[j + 2, d] + w3 * v_KD[j + 3, d]) + (
                        w4 * v_KD[j + 4, d] + w5 * v_KD[j + 5, d] + w6 * v_KD[j + 6, d] + w7 * v_KD[j + 7, d]
                    )
            for j in range(full, columns):
                for d in range(width):
                    out_D[d] += weight_K[j] * v_KD[j, d]
