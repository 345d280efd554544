"""Packing: several documents in one row of tokens, as if each had a row of its own.

The invariant that matters: the logits of a document do not depend on what else is in its row. Attention stays inside
the document, positions start again at 0, and convolutions do not cross a border.

Legend: B rows, T tokens, H heads, D channels of one head.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

FLEX_HEAD = 16  # the smallest head that the blocked kernel takes


class Packing:
    """The documents of each row: `segments_BT`, int64, numbers them, non-decreasing along a row."""

    def __init__(self, segments_BT: Tensor, head_dim: int) -> None:
        (n_rows, n_tokens), device = segments_BT.shape, segments_BT.device
        place_T = torch.arange(n_tokens, device=device)
        begins_BT = F.pad(segments_BT[:, 1:] != segments_BT[:, :-1], (1, 0), value=True)
        self.position_BT = place_T - torch.where(begins_BT, place_T, 0).cummax(1).values
        self.blocked = segments_BT.is_cuda and head_dim >= FLEX_HEAD
        if self.blocked:

            def inside(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                return (q >= k) & (segments_BT[b, q] == segments_BT[b, k])

            self.block_mask = create_block_mask(inside, n_rows, None, n_tokens, n_tokens, device=device)
        else:
            same_BTT = segments_BT[:, :, None] == segments_BT[:, None]
            self.mask_B1TT = (same_BTT & (place_T[:, None] >= place_T))[:, None]

    def attend(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        """Causal attention inside documents; on a GPU, blocks of the mask without an entry are skipped."""
        if self.blocked:
            return _flex()(q_BHTD, k_BHTD, v_BHTD, block_mask=self.block_mask)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=self.mask_B1TT)


@cache
def _flex() -> Callable[..., Tensor]:
    """Compiled, because uncompiled flex attention builds the whole score matrix."""
    return torch.compile(flex_attention, dynamic=True)
