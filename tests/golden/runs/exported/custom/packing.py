"""Several documents in one row of tokens, as if each stood in a row of its own.

The invariant that matters: the logits of a document do not depend on what else is in its row. Attention stays inside
the document, positions start again at 0, and what mixes neighbouring tokens does not reach over a border.

Try it:  model(tokens_BT, segments_BT=torch.tensor([[0, 0, 0, 1, 1, 2]]))

Legend: B rows, T tokens, H heads, D channels of one head.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

FLEX_HEAD = 16  # the smallest head that the blocked kernel takes


class Packing:
    """Where the documents of each row are: `segments_BT` numbers them, int64, never falling along a row."""

    def __init__(self, segments_BT: Tensor, head_dim: int) -> None:
        (n_rows, n_tokens), device = segments_BT.shape, segments_BT.device
        place_T = torch.arange(n_tokens, device=device)
        begins_BT = F.pad(segments_BT[:, 1:] != segments_BT[:, :-1], (1, 0), value=True)
        self.position_BT = place_T - torch.where(begins_BT, place_T, 0).cummax(1).values
        self.blocked = segments_BT.is_cuda and head_dim >= FLEX_HEAD
        if self.blocked:

            def inside(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                return (q >= k) & (segments_BT[b, q] == segments_BT[b, k])

            self.mask = create_block_mask(inside, n_rows, None, n_tokens, n_tokens, device=device)
        else:
            same_BTT = segments_BT[:, :, None] == segments_BT[:, None]
            self.mask = (same_BTT & (place_T[:, None] >= place_T))[:, None]

    def attend(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        """Causal attention inside documents; on a GPU, blocks of the mask without an entry cost nothing."""
        if self.blocked:
            return _flex()(q_BHTD, k_BHTD, v_BHTD, block_mask=self.mask)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=self.mask)


@cache
def _flex():
    """Uncompiled, flex attention would make the whole score matrix."""
    return torch.compile(flex_attention, dynamic=True)
