"""One text, many endings: the text is read once, and every query continues it, with gradients all the way.

`models.decode.cache.KVCache` does this for sampling, in place and without gradients. Here nothing is overwritten, so a
loss at the endings reaches the embedding of the text's tokens. Both classes have the methods of a `KVCache`.

    text = Text(lengths_P, model.config)
    model.hidden(texts_PT, text)                     # right padded
    states_QUC = model.hidden(endings_QU, Branch(text, row_Q))

The invariant that matters: states are those of a forward pass over each query's own row, text and ending, to rounding.

Legend: P texts, Q queries, T tokens of a text, U tokens of an ending, K = T + U, H heads, D channels of a head,
        S earlier tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPTConfig


class Text:
    """Keeps what the endings will need of P right-padded texts with `lengths_P` tokens."""

    def __init__(self, lengths_P: Tensor, config: GPTConfig) -> None:
        self.lengths_P, self.n_conv = lengths_P, config.conv
        self.kv: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> keys, values [P, H, T, D]
        self.inputs: dict[tuple[int, int], Tensor] = {}  # layer, part -> what its convolution reads [P, T, C]

    def begin(self, tokens_PT: Tensor) -> slice:
        """Positions of the tokens."""
        self.tokens_PT = tokens_PT
        return slice(tokens_PT.shape[1])

    def previous_tokens(self, n: int) -> tuple[Tensor, Tensor]:
        """Ids of the n tokens before the text, and which of them exist: none."""
        none_PS = torch.zeros(len(self.tokens_PT), n, dtype=torch.long, device=self.tokens_PT.device)
        return none_PS, none_PS.bool()

    def update_conv(self, layer: int, part: int, x_PTC: Tensor) -> None:
        """Before the text a convolution reads nothing."""
        self.inputs[layer, part] = x_PTC

    def attend(self, layer: int, q_PHTD: Tensor, k_PHTD: Tensor, v_PHTD: Tensor) -> Tensor:
        """Causal attention. Right padding cannot reach the tokens before it."""
        self.kv[layer] = k_PHTD, v_PHTD
        return F.scaled_dot_product_attention(q_PHTD, k_PHTD, v_PHTD, is_causal=True)

    def commit(self, tokens_PT: Tensor) -> None:
        """The text is complete as it is."""


class Branch:
    """The endings of Q queries; query q continues text `row_Q[q]`. Reads the text, never changes it."""

    def __init__(self, text: Text, row_Q: Tensor) -> None:
        self.text, self.row_Q, self.length_Q = text, row_Q, text.lengths_P[row_Q]
        # A look-up as a product with 0 and 1: its gradient is a product too, far faster than adding by index.
        self.pick_QP = F.one_hot(row_Q, len(text.lengths_P)).float()

    def begin(self, tokens_QU: Tensor) -> Tensor:
        """Positions [Q, U] of the tokens."""
        width, device = tokens_QU.shape[1], tokens_QU.device
        step_U = torch.arange(width, device=device)
        padding_QT = torch.arange(self.text.tokens_PT.shape[1], device=device) >= self.length_Q[:, None]
        unseen_QUK = torch.cat(
            (
                padding_QT[:, None].expand(-1, width, -1),
                (step_U > step_U[:, None]).expand(len(tokens_QU), -1, -1),
            ),
            dim=2,
        )
        self.bias_Q1UK = torch.zeros(unseen_QUK.shape, device=device).masked_fill_(unseen_QUK, float("-inf"))[:, None]
        return self.length_Q[:, None] + step_U

    def previous_tokens(self, n: int) -> tuple[Tensor, Tensor]:
        """Ids [Q, S] of the n tokens before the ending, oldest first, and which of them exist."""
        column_QS, real_QS = self._before(n)
        return self.text.tokens_PT[self.row_Q[:, None], column_QS], real_QS

    def update_conv(self, layer: int, part: int, x_QUC: Tensor) -> Tensor:
        """What a convolution read at the tokens before the ending, [Q, S, C], oldest first."""
        inputs_PTC = self.text.inputs[layer, part]
        column_QS, real_QS = self._before(self.text.n_conv)
        return inputs_PTC[self.row_Q[:, None], column_QS] * real_QS[..., None]

    def attend(self, layer: int, q_QHUD: Tensor, k_QHUD: Tensor, v_QHUD: Tensor) -> Tensor:
        """From each token of an ending to its text and to the ending up to itself."""
        keys, values = (
            torch.cat((self._continued(old_PHTD), new_QHUD), dim=2)
            for old_PHTD, new_QHUD in zip(self.text.kv[layer], (k_QHUD, v_QHUD), strict=True)
        )
        return F.scaled_dot_product_attention(q_QHUD, keys, values, attn_mask=self.bias_Q1UK)

    def commit(self, tokens_QU: Tensor) -> None:
        """Endings are not continued."""

    def _continued(self, old_PHTD: Tensor) -> Tensor:
        return (self.pick_QP @ old_PHTD.flatten(1)).unflatten(1, old_PHTD.shape[1:])

    def _before(self, n: int) -> tuple[Tensor, Tensor]:
        column_QS = self.length_Q[:, None] - torch.arange(n, 0, -1, device=self.length_Q.device)
        return column_QS.clamp(min=0), column_QS >= 0
