"""Several continuations of one text in one pass: the text is read once, each continuation sees it and not the others.

The invariant that matters: the logits of a continuation equal those of the plain model on the text and that
continuation alone. Texts are padded on the left, so that a continuation begins at the same place for all; rotary
positions are relative, so the padding before a text changes nothing.

    text 1   . . a a a a   continued by   c c c | d d d d d
    text 2   b b b b b b   continued by   e e e e

Try it:  branched_logits(model, Branches(text_BP, length_B, [Group(tokens_MQ, text_M, at_N)]))

`repeated_prompts` finds rows that begin alike, such as the responses of a group, and makes branches of them.

Legend: B texts, P tokens of a text; groups of M continuations of Q tokens, padded on the right; S earlier tokens that a
        convolution reads; C channels, H heads, D channels of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT, NORM_EPS, Attention, Block, Conv
from models.ops import causal_conv, rms_norm
from models.rope import Rope, apply_rope


@dataclass(frozen=True)
class Group:
    """Continuations of about one length. text_M: which text each continues; at_N: the flat positions m * Q + q whose
    next-token logits are wanted; they lie at least `conv` tokens behind the beginning of a continuation."""

    tokens_MQ: Tensor
    text_M: Tensor
    at_N: Tensor


@dataclass(frozen=True)
class Branches:
    """Texts, padded on the left to at least as many tokens as a convolution reads, their lengths, and what follows."""

    text_BP: Tensor
    length_B: Tensor
    groups: Sequence[Group]


class _Layout:
    """Where everything is when all tokens are laid end to end, texts first, and the attention masks."""

    def __init__(self, branches: Branches) -> None:
        (self.B, self.P), self.groups = branches.text_BP.shape, branches.groups
        device = branches.text_BP.device
        column_P = torch.arange(self.P, device=device)
        real_BP = column_P >= self.P - branches.length_B[:, None]
        self.padded = not bool(real_BP.all())
        self.real_BP1 = real_BP[..., None].float()
        self.sizes = [self.B * self.P, *(g.tokens_MQ.numel() for g in self.groups)]
        self.shapes = [(self.B, self.P), *(tuple(g.tokens_MQ.shape) for g in self.groups)]
        self.text_mask = None
        if self.padded:
            own_PP = torch.eye(self.P, dtype=torch.bool, device=device)
            seen_BPP = (real_BP[:, None] & (column_P[:, None] >= column_P)) | own_PP
            self.text_mask = _additive(seen_BPP)
        self.masks = []
        for g in self.groups:
            m, q = g.tokens_MQ.shape
            own_QQ = torch.ones(q, q, dtype=torch.bool, device=device).tril()
            text_MQP = real_BP[g.text_M][:, None].expand(m, q, self.P)
            self.masks.append(_additive(torch.cat((text_MQP, own_QQ.expand(m, q, q)), 2)))

    def split(self, x_NC: Tensor, first: int = 0) -> list[Tensor]:
        """The zones of a flat tensor, [B, P, C] and [M, Q, C]; `first` 1: without the texts."""
        zones = zip(x_NC.split(self.sizes[first:]), self.shapes[first:], strict=True)
        return [zone.view(*shape, -1) for zone, shape in zones]


def _additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, float("-inf"))[:, None]


def branched_logits(model: GPT, branches: Branches) -> Tensor:
    """Next-token logits, float32 [N, V], at the wanted positions of all groups, one group after the other.

    Raises ValueError if a text with a continuation would outgrow the model's context.
    """
    return F.linear(branched_hidden(model, branches), model.unembedding).float()


def branched_hidden(model: GPT, branches: Branches) -> Tensor:
    """The final hidden states behind these logits, [N, C]. Raises ValueError as `branched_logits`."""
    c, layout = model.config, _Layout(branches)
    longest = layout.P + max(g.tokens_MQ.shape[1] for g in branches.groups)
    if longest > c.context:
        raise ValueError(f"context={c.context}: too short for {longest} tokens")
    if max(c.token_shift, c.conv) > layout.P:
        raise ValueError(f"texts of {layout.P} tokens: accepted: padded to {max(c.token_shift, c.conv)} or more")
    tables = model.rope(slice(longest), branches.text_BP.device)
    ropes = [_columns(tables, 0, layout.P)]
    ropes += [_columns(tables, layout.P, layout.P + g.tokens_MQ.shape[1]) for g in branches.groups]
    flat_N = torch.cat([branches.text_BP.flatten(), *(g.tokens_MQ.flatten() for g in branches.groups)])
    x_NC = F.embedding(flat_N, model.embed.weight)
    if model.embed.shift is not None:
        x_NC = _convolved(x_NC, model.embed.shift, layout)
    *blocks, last = model.blocks
    for block in blocks:
        h_NC = _convolved(block.norm_attn(x_NC), _shift(block.conv_attn), layout)
        x_NC = x_NC + block.attn.out(torch.cat([y.flatten(0, 1) for y in _attend(block.attn, h_NC, ropes, layout)]))
        x_NC = x_NC + block.mlp(_convolved(block.norm_mlp(x_NC), _shift(block.conv_mlp), layout))
    return model.ln_final(_last(last, x_NC, ropes, layout))


# Tokens of the branched pass for each token of the plain one, from which on it is not worth its masks and copies.
WORTHWHILE = 0.6


def repeated_prompts(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Branches | None:
    """Rows of a prompt and a response as branches of their distinct prompts, whose wanted positions are those that
    predict the responses, row after row; None where that would save little, or does not fit into the context.

    tokens_BT: int64, padded on the right. prompt_B, length_B: tokens of the prompt and of the response, 1 or more.
    """
    c = model.config
    reach = max(c.token_shift, c.conv)
    text_B = prompt_B - 1 - reach  # the last tokens of a prompt stand in the continuations, where convolutions reach
    B, device = len(tokens_BT), tokens_BT.device
    if B < 2 or int(text_B.min()) < 1:
        return None
    column_P = torch.arange(int(text_B.max()), device=device)
    texts_BP = torch.where(column_P < text_B[:, None], tokens_BT[:, : len(column_P)], -1)
    texts_UP, text_of_B = texts_BP.unique(dim=0, return_inverse=True)
    width, P = reach + int(length_B.max()), max(len(column_P), reach)
    if P + width > c.context or len(texts_UP) * P + B * width > WORTHWHILE * B * (tokens_BT.shape[1] - 1):
        return None
    length_U = (texts_UP >= 0).sum(1)
    from_UP = torch.arange(P, device=device) - (P - length_U[:, None])  # padded on the left
    text_UP = texts_UP.gather(1, from_UP.clamp(min=0)).where(from_UP >= 0, 0)
    own_BQ = text_B[:, None] + torch.arange(width, device=device)
    inside_BQ = own_BQ < (prompt_B + length_B - 1)[:, None]
    tokens_BQ = tokens_BT.gather(1, own_BQ.clamp(max=tokens_BT.shape[1] - 1)).where(inside_BQ, 0)
    row_N = torch.repeat_interleave(length_B)
    first_N = (length_B.cumsum(0) - length_B)[row_N]
    at_N = row_N * width + reach + torch.arange(len(row_N), device=device) - first_N
    return Branches(text_UP, length_U, [Group(tokens_BQ, text_of_B, at_N)])


def _columns(rope: Rope, first: int, end: int) -> Rope:
    keep, ahead, behind = rope
    return keep[first:end], ahead[first:end], behind[first:end]


def _last(block: Block, x_NC: Tensor, ropes: list[Rope], layout: _Layout) -> Tensor:
    """The last block, at the wanted positions only: behind its attention the texts are read no more."""
    h_NC = _convolved(block.norm_attn(x_NC), _shift(block.conv_attn), layout)
    y_NC = torch.cat([y.flatten(0, 1) for y in _attend(block.attn, h_NC, ropes, layout, texts=False)])
    x_NC = x_NC[layout.sizes[0] :] + block.attn.out(y_NC)
    h_NC, shift = block.norm_mlp(x_NC), _shift(block.conv_mlp)
    if shift is not None:
        h_NC = torch.cat([causal_conv(h, shift).flatten(0, 1) for h in layout.split(h_NC, 1)])
    starts = accumulate(layout.sizes[1:-1], initial=0)
    at_N = torch.cat([g.at_N + start for g, start in zip(layout.groups, starts, strict=True)])
    return x_NC.index_select(0, at_N) + block.mlp(h_NC.index_select(0, at_N))


def _shift(conv: Conv | None) -> Tensor | None:
    return None if conv is None else conv.shift


def _convolved(x_NC: Tensor, shift_SC: Tensor | None, layout: _Layout) -> Tensor:
    """`causal_conv` along every text with each of its continuations."""
    if shift_SC is None:
        return x_NC
    text_BPC, *rest = layout.split(x_NC)
    if layout.padded:
        text_BPC = text_BPC * layout.real_BP1
    n = len(shift_SC)
    out = [causal_conv(text_BPC, shift_SC).flatten(0, 1)]
    end_BSC = text_BPC[:, -n:]
    for g, x_MQC in zip(layout.groups, rest, strict=True):
        joined = torch.cat((end_BSC.index_select(0, g.text_M), x_MQC), 1)
        out.append(causal_conv(joined, shift_SC)[:, n:].flatten(0, 1))
    return torch.cat(out)


def _attend(attn: Attention, h_NC: Tensor, ropes: list[Rope], layout: _Layout, texts: bool = True) -> list[Tensor]:
    """Attention of every zone before the output map, [B, P, C] (if `texts`) and [M, Q, C]."""
    c = attn.config
    qk_NE, v_NC = attn.qkv(h_NC).split((2 * c.n_embd, c.n_embd), dim=-1)
    if attn.q_scale is not None and attn.k_scale is not None:
        scale_21D = torch.stack((attn.q_scale, attn.k_scale))[:, None]
        qk_NE = rms_norm(qk_NE.view(-1, 2, c.n_head, c.head_dim), scale_21D, NORM_EPS).flatten(1)

    def heads(zone: Tensor) -> Tensor:
        return zone.unflatten(-1, (c.n_head, c.head_dim)).transpose(1, 2)

    zones = []
    for qk, v, rope in zip(layout.split(qk_NE), layout.split(v_NC), ropes, strict=True):
        turned = apply_rope(qk, rope, c.rotated // 2).to(v.dtype) if c.rotated else qk
        q, k = turned.split((c.n_embd, c.n_embd), dim=-1)
        zones.append((heads(q), heads(k), heads(v)))
    (q, text_k, text_v), *rest = zones
    out = []
    if texts:
        mask = layout.text_mask
        out.append(F.scaled_dot_product_attention(q, text_k, text_v, attn_mask=mask, is_causal=mask is None))
    for g, mask, (q, k, v) in zip(layout.groups, layout.masks, rest, strict=True):
        k, v = (torch.cat((t.index_select(0, g.text_M), own), 2) for t, own in ((text_k, k), (text_v, v)))
        out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return [y.transpose(1, 2).flatten(2) for y in out]
