"""The key-value cache: keys, values and tokens of sequences under construction; a new token costs one position of work.

The invariant that matters: column t of row b belongs to token t of sequence b. Rows differ in length, new tokens are
written behind each row's last one, and there is no left padding; so positions are exact for every row.

Legend: B rows in use, T new tokens, R rows (memory), K columns (capacity), H heads, D channels of one head, L layers,
        C channels of the residual stream, S earlier tokens, M rows coming in.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT

LAZY_ON = ("cpu",)  # device types on which memory is zeroed when needed: a recorded CUDA graph could not do that


class KVCache:
    """Memory for `rows` sequences of at most `capacity` tokens of one model, for use under `torch.no_grad()`. All rows
    are in use, with length 0, unless `empty`: then `append_rows` adds them. The dtype is that of the keys that the
    model computes: its weights', or autocast's. Raises ValueError if the capacity exceeds the model's context."""

    def __init__(self, model: GPT, rows: int, capacity: int, *, empty: bool = False) -> None:
        config, weight = model.config, model.embed.weight
        if not 1 <= capacity <= config.context:
            raise ValueError(f"capacity={capacity}: expected 1 up to the model's context={config.context}")
        device_type = weight.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else weight.dtype
        shape = (config.n_layer, 2, rows, config.n_head, capacity, config.head_dim)
        self.tokens_RK = torch.zeros(rows, capacity, dtype=torch.long, device=weight.device)
        self.lengths_R = torch.zeros(rows, dtype=torch.long, device=weight.device)
        # Zeroing all this memory would cost a CPU as much as some steps; a GPU does it in no time.
        self.kv_L2RHKD = torch.empty(shape, dtype=dtype, device=weight.device)
        self.finite = 0  # in so many columns all entries are finite, used or not: masked attention still reads them
        if device_type not in LAZY_ON:
            self._make_finite(capacity)
        # The inputs of the convolutions of each block (models.gpt.Conv): attention's and the MLP's.
        self.n_conv = config.conv
        inputs = (config.n_layer, 2, rows, capacity if config.conv else 0, config.n_embd)
        self.inputs_L2RKC = torch.empty(inputs, dtype=dtype, device=weight.device)
        self.n_rows = 0 if empty else rows
        self.longest = 0  # no row is longer; kept on the host, so that reading it does not wait for the device
        self.bias_B1TK: Tensor | None = None
        self.least_columns = 0  # attention reads at least so many columns, for a fixed shape (models.decode.decoder)

    @property
    def capacity(self) -> int:
        return self.tokens_RK.shape[1]

    @property
    def lengths_B(self) -> Tensor:
        """Tokens in each row in use."""
        return self.lengths_R[: self.n_rows]

    def truncate(self, lengths_B: Tensor) -> None:
        """Cut row b to at most `lengths_B[b]` tokens: drops the right padding of a prompt, or a rejected ending."""
        self.lengths_R[: self.n_rows].clamp_(max=lengths_B)
        self._update_longest()

    def append_rows(self, other: "KVCache", rows_M: Tensor) -> None:
        """Append copies of rows `rows_M` (repeats allowed) of another cache of the same model to the rows in use."""
        other._make_finite(other.longest)
        self._copy(slice(self.n_rows, self.n_rows + len(rows_M)), other, rows_M)
        self.n_rows += len(rows_M)
        self.longest = max(self.longest, other.longest)

    def keep_rows(self, keep_B: Tensor) -> Tensor:
        """Drop rows where `keep_B` is False; rows from the end fill the holes. Returns the old index of each row."""
        n = int(keep_B.sum())
        hole_M = (~keep_B[:n]).nonzero()[:, 0]
        from_M = keep_B[n:].nonzero()[:, 0] + n
        self._copy(hole_M, self, from_M)
        old_B = torch.arange(n, device=keep_B.device)
        old_B[hole_M] = from_M
        self.n_rows = n
        self._update_longest()
        return old_B

    def reorder(self, from_B: Tensor) -> None:
        """Row b becomes a copy of row `from_B[b]`, for all rows in use at once; repeats allowed."""
        self._copy(slice(self.n_rows), self, from_B)

    def _copy(self, to: slice | Tensor, source: "KVCache", from_M: Tensor) -> None:
        """Rows `to` become copies of rows `from_M` of `source`."""
        used = slice(source.longest)
        self.kv_L2RHKD[:, :, to, :, used] = source.kv_L2RHKD[..., used, :].index_select(2, from_M)
        self.inputs_L2RKC[:, :, to, used] = source.inputs_L2RKC[:, :, :, used].index_select(2, from_M)
        self.tokens_RK[to, used] = source.tokens_RK[from_M, used]
        self.lengths_R[to] = source.lengths_R[from_M]

    def _make_finite(self, columns: int) -> None:
        """Zero the unused entries of the first `columns` columns (and of 64 more, so that it is rarely called)."""
        if columns <= self.finite:
            return
        fresh = slice(self.finite, min(columns + 64, self.capacity))
        column_K = torch.arange(self.capacity, device=self.lengths_R.device)[fresh]
        unused_RK = column_K >= self.lengths_R[:, None]
        self.kv_L2RHKD[..., fresh, :].masked_fill_(unused_RK[None, None, :, None, :, None], 0.0)
        self.finite = fresh.stop

    def _update_longest(self) -> None:
        self.longest = int(self.lengths_B.max()) if self.n_rows else 0

    # The rest is `models.gpt.Cache`, which the model calls and which says what each does.

    def begin(self, tokens_BT: Tensor) -> Tensor:
        """Positions [B, T] that the new tokens take."""
        (n_rows, n_tokens), device = tokens_BT.shape, tokens_BT.device
        if n_rows != self.n_rows:
            raise ValueError(f"tokens of {n_rows} rows: expected the cache's {self.n_rows}")
        columns = max(self.longest + n_tokens, self.least_columns)
        if columns > self.capacity:
            raise ValueError(f"capacity={self.capacity}: too small for {self.longest} + {n_tokens} tokens")
        self.position_BT = self.lengths_B[:, None] + torch.arange(n_tokens, device=device)
        self.row_B1 = torch.arange(n_rows, device=device)[:, None]
        self.kv_of_layer = self.kv_L2RHKD[:, :, :n_rows, :, :columns].unbind(0)
        self.bias_B1TK = None
        if self.n_conv:  # all layers at once: many small gathers would cost more than the convolutions
            column_BS, real_BS = self._before(self.n_conv)
            self.past_L2BSC = self.inputs_L2RKC[:, :, self.row_B1, column_BS].masked_fill(~real_BS[..., None], 0.0)
        return self.position_BT

    def previous_tokens(self, n: int) -> tuple[Tensor, Tensor]:
        column_BS, real_BS = self._before(n)
        return self.tokens_RK[: self.n_rows].gather(1, column_BS), real_BS

    def _before(self, n: int) -> tuple[Tensor, Tensor]:
        column_BS = self.lengths_B[:, None] - torch.arange(n, 0, -1, device=self.lengths_R.device)
        return column_BS.clamp(min=0), column_BS >= 0

    def update_conv(self, layer: int, part: int, x_BTC: Tensor) -> Tensor:
        self.inputs_L2RKC[layer, part][self.row_B1, self.position_BT] = x_BTC.to(self.inputs_L2RKC.dtype)
        return self.past_L2BSC[layer, part]

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        k_BHKD, v_BHKD = self.kv_of_layer[layer].unbind(0)
        if self.longest == 0:  # empty cache: plain causal attention over the new tokens
            k_BHKD.copy_(k_BHTD)
            v_BHKD.copy_(v_BHTD)
            return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        self._make_finite(k_BHKD.shape[2])
        k_BHKD.transpose(1, 2)[self.row_B1, self.position_BT] = k_BHTD.transpose(1, 2).to(k_BHKD.dtype)
        v_BHKD.transpose(1, 2)[self.row_B1, self.position_BT] = v_BHTD.transpose(1, 2).to(v_BHKD.dtype)
        return F.scaled_dot_product_attention(q_BHTD.to(k_BHKD.dtype), k_BHKD, v_BHKD, attn_mask=self._bias(k_BHKD))

    def _bias(self, k_BHKD: Tensor) -> Tensor:
        """Attention bias [B, 1, T, K], -inf at the columns behind a new token; computed once for all layers."""
        if self.bias_B1TK is None:
            unseen_BTK = torch.arange(k_BHKD.shape[2], device=k_BHKD.device) > self.position_BT[..., None]
            bias_BTK = torch.zeros(unseen_BTK.shape, dtype=k_BHKD.dtype, device=k_BHKD.device)
            self.bias_B1TK = bias_BTK.masked_fill_(unseen_BTK, float("-inf"))[:, None]
        return self.bias_B1TK

    def commit(self, tokens_BT: Tensor) -> None:
        if self.longest == 0 and self.n_rows == len(self.lengths_R):
            self.finite = max(self.finite, tokens_BT.shape[1])
        self.tokens_RK[self.row_B1, self.position_BT] = tokens_BT
        self.lengths_R[: self.n_rows] += tokens_BT.shape[1]
        self.longest += tokens_BT.shape[1]
