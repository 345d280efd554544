"""Compiled loops of `models.fused.functions`, forward and backward: embedding, norms with convolutions, norm and
rotation of queries and keys, squared ReLU.

Tokens of all documents lie end to end. `before_N` gives the token before each one, -1 at the beginning of a document;
it is always an earlier one, so the loops can work in place.

The invariant that matters: each equals the modules of `models/gpt.py`, value and gradient, to float32 rounding.

Legend: N tokens, C channels, S earlier tokens, V vocabulary, F channels of the hidden layer, H heads, D channels of
        one head, Q heads of queries, keys and values (3 H), P rotated pairs of a head, K positions.
"""

import numpy as np

from models.decode.cpu_kernels import compiled


@compiled
def embed(token_N, before_N, embed_VC, shift_SC, x_NC):
    """x = E[token] + sum_j shift[j - 1] E[j tokens before]."""
    n_tokens, width = x_NC.shape
    for n in range(n_tokens):
        x_C, e_C = x_NC[n], embed_VC[token_N[n]]
        for c in range(width):
            x_C[c] = e_C[c]
        p = n
        for j in range(len(shift_SC)):
            p = before_N[p]
            if p < 0:
                break
            e_C, s_C = embed_VC[token_N[p]], shift_SC[j]
            for c in range(width):
                x_C[c] += s_C[c] * e_C[c]


@compiled
def embed_back(token_N, before_N, embed_VC, shift_SC, grad_NC, d_embed_VC, d_shift_SC):
    """Adds the gradients of `embed` to `d_embed_VC` and `d_shift_SC`."""
    n_tokens, width = grad_NC.shape
    for n in range(n_tokens):
        g_C, d_C = grad_NC[n], d_embed_VC[token_N[n]]
        for c in range(width):
            d_C[c] += g_C[c]
        p = n
        for j in range(len(shift_SC)):
            p = before_N[p]
            if p < 0:
                break
            e_C, d_C, s_C, ds_C = embed_VC[token_N[p]], d_embed_VC[token_N[p]], shift_SC[j], d_shift_SC[j]
            for c in range(width):
                ds_C[c] += g_C[c] * e_C[c]
            for c in range(width):
                d_C[c] += g_C[c] * s_C[c]


@compiled
def norm_mix(x_NC, add_NC, weight_C, bias_C, centred, eps, shift_SC, before_N, sum_NC, mean_N, inverse_N, h_NC):
    """sum = x + add (if any); h = norm(sum), layer norm if `centred`, else RMS norm; then h[n] += sum_j shift[j - 1]
    h[j tokens before]. Keeps each token's mean and 1 / deviation."""
    n_tokens, width = x_NC.shape
    for n in range(n_tokens):
        x_C, h_C = x_NC[n], h_NC[n]
        if len(add_NC):
            x_C = sum_NC[n]
            for c in range(width):
                x_C[c] = x_NC[n, c] + add_NC[n, c]
        mean = np.float32(0)
        if centred:
            for c in range(width):
                mean += x_C[c]
            mean /= np.float32(width)
        square = np.float32(0)
        for c in range(width):
            square += (x_C[c] - mean) * (x_C[c] - mean)
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + eps)
        mean_N[n], inverse_N[n] = mean, inverse
        for c in range(width):
            h_C[c] = (x_C[c] - mean) * inverse * weight_C[c]
        if len(bias_C):
            for c in range(width):
                h_C[c] += bias_C[c]
    if len(shift_SC):
        for n in range(n_tokens - 1, -1, -1):  # backwards: the tokens before are not mixed yet
            h_C, p = h_NC[n], n
            for j in range(len(shift_SC)):
                p = before_N[p]
                if p < 0:
                    break
                b_C, s_C = h_NC[p], shift_SC[j]
                for c in range(width):
                    h_C[c] += s_C[c] * b_C[c]


@compiled
def norm_mix_back(
    x_NC, weight_C, bias_C, centred, shift_SC, before_N, mean_N, inverse_N, grad_NC, through_NC,
    d_NC, d_weight_C, d_bias_C, d_shift_SC,
):  # fmt: skip
    """`d_NC`: the gradient of what `norm_mix` read, for the gradients of h and of the sum (`through_NC`, if any); adds
    those of the parameters. `x_NC`: the sum."""
    n_tokens, width = x_NC.shape
    for n in range(n_tokens):
        g_C, d_C = grad_NC[n], d_NC[n]
        for c in range(width):
            d_C[c] = g_C[c]
        p = n
        for j in range(len(shift_SC)):
            p = before_N[p]
            if p < 0:
                break
            d_C, s_C, ds_C, x_C = d_NC[p], shift_SC[j], d_shift_SC[j], x_NC[p]
            mean, inverse = mean_N[p], inverse_N[p]
            for c in range(width):
                d_C[c] += s_C[c] * g_C[c]
            for c in range(width):
                ds_C[c] += g_C[c] * (x_C[c] - mean) * inverse * weight_C[c]
            if len(bias_C):
                for c in range(width):
                    ds_C[c] += g_C[c] * bias_C[c]
    for n in range(n_tokens):
        x_C, d_C, mean, inverse = x_NC[n], d_NC[n], mean_N[n], inverse_N[n]
        if len(bias_C):
            for c in range(width):
                d_bias_C[c] += d_C[c]
        along = np.float32(0)
        level = np.float32(0)
        for c in range(width):
            along += d_C[c] * weight_C[c] * (x_C[c] - mean)
        for c in range(width):
            d_weight_C[c] += d_C[c] * (x_C[c] - mean) * inverse
        if centred:
            for c in range(width):
                level += d_C[c] * weight_C[c]
        along *= inverse * inverse / np.float32(width)
        level /= np.float32(width)
        for c in range(width):
            d_C[c] = inverse * (d_C[c] * weight_C[c] - (x_C[c] - mean) * along - level)
        if len(through_NC):
            t_C = through_NC[n]
            for c in range(width):
                d_C[c] += t_C[c]


@compiled
def _head(x_D, scale_D, cos_P, sin_P, eps, out_D):
    """One head of a query or key: normalised if there is a scale, rotated."""
    width, pairs = len(x_D), len(cos_P)
    if len(scale_D):
        square = np.float32(0)
        for d in range(width):
            square += x_D[d] * x_D[d]
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + eps)
        for d in range(width):
            out_D[d] = x_D[d] * inverse * scale_D[d]
    else:
        for d in range(width):
            out_D[d] = x_D[d]
    for p in range(pairs):
        one, two = out_D[p], out_D[pairs + p]
        out_D[p] = one * cos_P[p] - two * sin_P[p]
        out_D[pairs + p] = two * cos_P[p] + one * sin_P[p]


@compiled
def _head_back(x_D, scale_D, cos_P, sin_P, eps, grad_D, d_D, d_scale_D):
    """The gradient of what `_head` read; adds that of the scale."""
    width, pairs = len(x_D), len(cos_P)
    for d in range(2 * pairs, width):
        d_D[d] = grad_D[d]
    for p in range(pairs):
        one, two = grad_D[p], grad_D[pairs + p]
        d_D[p] = one * cos_P[p] + two * sin_P[p]
        d_D[pairs + p] = two * cos_P[p] - one * sin_P[p]
    if len(scale_D):
        square, along = np.float32(0), np.float32(0)
        for d in range(width):
            square += x_D[d] * x_D[d]
            along += d_D[d] * scale_D[d] * x_D[d]
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + eps)
        along *= inverse * inverse / np.float32(width)
        for d in range(width):
            d_scale_D[d] += d_D[d] * x_D[d] * inverse
        for d in range(width):
            d_D[d] = inverse * (d_D[d] * scale_D[d] - x_D[d] * along)


@compiled
def prepare(qkv_NQD, q_scale_D, k_scale_D, cos_KP, sin_KP, eps, position_N, q_NHD, k_NHD, v_NHD):
    """Queries and keys, each head normalised and rotated by the angles of its token's position; values."""
    n_tokens, n_heads, width = q_NHD.shape
    for n in range(n_tokens):
        cos_P, sin_P = cos_KP[position_N[n]], sin_KP[position_N[n]]
        for h in range(n_heads):
            _head(qkv_NQD[n, h], q_scale_D, cos_P, sin_P, eps, q_NHD[n, h])
            _head(qkv_NQD[n, n_heads + h], k_scale_D, cos_P, sin_P, eps, k_NHD[n, h])
            x_D, v_D = qkv_NQD[n, 2 * n_heads + h], v_NHD[n, h]
            for d in range(width):
                v_D[d] = x_D[d]


@compiled
def prepare_back(
    qkv_NQD, q_scale_D, k_scale_D, cos_KP, sin_KP, eps, position_N, dq_NHD, dk_NHD, dv_NHD,
    d_NQD, d_q_scale_D, d_k_scale_D,
):  # fmt: skip
    """The gradient of `qkv_NQD`; adds those of the scales."""
    n_tokens, n_heads, width = dq_NHD.shape
    for n in range(n_tokens):
        cos_P, sin_P = cos_KP[position_N[n]], sin_KP[position_N[n]]
        for h in range(n_heads):
            q, k, v = h, n_heads + h, 2 * n_heads + h
            _head_back(qkv_NQD[n, q], q_scale_D, cos_P, sin_P, eps, dq_NHD[n, h], d_NQD[n, q], d_q_scale_D)
            _head_back(qkv_NQD[n, k], k_scale_D, cos_P, sin_P, eps, dk_NHD[n, h], d_NQD[n, k], d_k_scale_D)
            d_D, dv_D = d_NQD[n, v], dv_NHD[n, h]
            for d in range(width):
                d_D[d] = dv_D[d]


@compiled
def relu2(x_NF, out_NF):
    """max(x, 0)^2."""
    for n in range(len(x_NF)):
        x_F, out_F = x_NF[n], out_NF[n]
        for f in range(len(x_F)):
            positive = x_F[f] if x_F[f] > 0 else np.float32(0)
            out_F[f] = positive * positive


@compiled
def relu2_back(x_NF, grad_NF, d_NF):
    """2 max(x, 0) times the gradient."""
    for n in range(len(x_NF)):
        x_F, g_F, d_F = x_NF[n], grad_NF[n], d_NF[n]
        for f in range(len(x_F)):
            positive = x_F[f] if x_F[f] > 0 else np.float32(0)
            d_F[f] = (positive + positive) * g_F[f]
