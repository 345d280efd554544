"""Hidden states at the end of each query's input, for chosen sites; a text is read once for all queries about it.

Only the states asked for are kept, in float16, so memory is sites x queries x channels whatever the texts' length.
The invariant that matters: a state is that of a forward pass over the query's own row, text then ending, to rounding.

    states_SQC = read(model, table, names_in_line(table, world), chosen_sites(model, RESIDUAL))

`Text` and `Branch` stand in the place of a `models.decode.cache.KVCache`, which samples in place and without gradients;
here nothing is overwritten, so a loss at the endings reaches the embedding of the text's tokens.

Legend: S sites (in `Text` and `Branch`: earlier tokens), Q queries, P texts, T tokens of a text, U tokens of an ending,
        K = T + U, H heads, D channels of a head, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT, GPTConfig
from models.hooks import capture, hook_names
from probes.queries.table import Queries
from synth.documents import pad_rows
from synth.world.vocabulary import AS, DEFINE, END, EQUALS_EACH, MID, SOLUTION, START, THE_NUMBER, World

RESIDUAL = ("hook_embed", "hook_resid_post")  # the residual stream from the embedding to the output of each block
TEXTS = 16  # texts side by side: with the queries behind them they stay inside the processor's cache


def chosen_sites(model: GPT, wanted: Sequence[str], setting: str = "probe.linear.sites") -> list[str]:
    """The sites that a setting names, in the order of the model: whole names, or `hook_mlp_out` for that of each block.
    Raises ValueError, naming the setting, on what is no site of this model."""
    known = hook_names(model.config)
    kinds = {name.rsplit(".", 1)[-1] for name in known if name.startswith("blocks.")}
    for site in wanted:
        if site not in known and site not in kinds:
            accepted = ", ".join([known[0], *sorted(kinds), "blocks.LAYER.SITE", known[-1]])
            raise ValueError(f"{setting}={site}: accepted for this model: {accepted}")
    return [name for name in known if name in wanted or (name.startswith("blocks.") and name.split(".")[-1] in wanted)]


def layer_of(site: str, config: GPTConfig) -> int:
    """0 for the embedding, l + 1 for what block l adds or gives, and the number of blocks for the final norm."""
    if site.startswith("blocks."):
        return int(site.split(".")[1]) + 1
    return 0 if site == "hook_embed" else config.n_layer


def names_in_line(queries: Queries, world: World, closed: bool = False) -> np.ndarray:
    """Endings as the document itself would go on, int64[Q, U]. `Define OWNER THING`, after `<solution>` where the text
    ends before it; `closed` puts `as` behind. For two parameters, the sentence `The number of A equals B`. A terse
    world may lack some of the words."""
    phrases = world.phrases
    if queries.name.shape[1] == 4:
        pieces = [int(phrases[THE_NUMBER]), queries.name[:, :2], int(phrases[EQUALS_EACH]), queries.name[:, 2:]]
    else:
        inside = bool((queries.cut >= queries.documents.prompt[queries.row]).all())
        pieces = [-1 if inside else SOLUTION, int(phrases[DEFINE]), queries.name, int(phrases[AS]) if closed else -1]
    return _joined(pieces, len(queries))


def names_between_markers(queries: Queries) -> np.ndarray:
    """Endings `<start> A <end>` or `<start> A <mid> B <end>`, int64[Q, 4 or 7] (Part 2.1, V-probing)."""
    pieces: list[int | np.ndarray] = [START, queries.name[:, :2]]
    if queries.name.shape[1] == 4:
        pieces += [MID, queries.name[:, 2:]]
    return _joined([*pieces, END], len(queries))


def _joined(pieces: Sequence[int | np.ndarray], n: int) -> np.ndarray:
    """Tokens and columns of tokens beside each other; a token below 0 is not written."""
    written = [piece for piece in pieces if not isinstance(piece, int) or piece >= 0]
    return np.concatenate([np.full((n, 1), piece) if isinstance(piece, int) else piece for piece in written], 1)


def check_length(model: GPT, queries: Queries, path: str) -> None:
    """Raises ValueError when the model cannot read every text with the names and markers of a query behind it."""
    longest = int(queries.cut.max()) + queries.name.shape[1] + 3
    if longest > model.config.context:
        problem = f"model={path}: reads {model.config.context} tokens and a query has {longest}"
        raise ValueError(f"{problem}; accepted: a model with a longer context, or data with shorter documents")


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts and the queries about them, ready for `last_states`."""

    texts_PT: Tensor
    lengths_P: Tensor
    endings_QU: Tensor
    row_Q: Tensor  # text of each query
    which_Q: np.ndarray  # index of each query in its table


class Texts:
    """The distinct texts of a table: text p has `cut[p]` tokens and the `count[p]` queries from `first[p]` on."""

    def __init__(self, queries: Queries, endings_QU: np.ndarray) -> None:
        self.queries, self.endings = queries, torch.as_tensor(endings_QU, dtype=torch.long)
        _, self.first, self.count = np.unique(queries.row, return_index=True, return_counts=True)
        self.cut = queries.cut[self.first]

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, part: np.ndarray, device: torch.device) -> Batch:
        """The texts `part` with all of their queries."""
        first, count = self.first[part].tolist(), self.count[part].tolist()
        which = np.concatenate([np.arange(start, start + n) for start, n in zip(first, count, strict=True)])
        texts_PT = torch.from_numpy(pad_rows([self.queries.text(q).tolist() for q in first])).to(device)
        lengths_P = torch.from_numpy(self.cut[part]).to(device)
        row_Q = torch.from_numpy(np.repeat(np.arange(len(part)), count)).to(device)
        return Batch(texts_PT, lengths_P, self.endings[which].to(device), row_Q, which)


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
        later_QUU = (step_U > step_U[:, None]).expand(len(tokens_QU), -1, -1)
        unseen_QUK = torch.cat((padding_QT[:, None].expand(-1, width, -1), later_QUU), dim=2)
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
        old = ((self.pick_QP @ x_PHTD.flatten(1)).unflatten(1, x_PHTD.shape[1:]) for x_PHTD in self.text.kv[layer])
        keys, values = (torch.cat(pair, dim=2) for pair in zip(old, (k_QHUD, v_QHUD), strict=True))
        return F.scaled_dot_product_attention(q_QHUD, keys, values, attn_mask=self.bias_Q1UK)

    def commit(self, tokens_QU: Tensor) -> None:
        """Endings are not continued."""

    def _before(self, n: int) -> tuple[Tensor, Tensor]:
        column_QS = self.length_Q[:, None] - torch.arange(n, 0, -1, device=self.length_Q.device)
        return column_QS.clamp(min=0), column_QS >= 0


def last_states(model: GPT, batch: Batch) -> Tensor:
    """What the unembedding would read at the last token of each ending, [Q, C]."""
    text = Text(batch.lengths_P, model.config)
    model.hidden(batch.texts_PT, text)
    return model.hidden(batch.endings_QU, Branch(text, batch.row_Q))[:, -1]


@torch.no_grad()
def read(
    model: GPT, queries: Queries, endings_QU: np.ndarray, names: Sequence[str], size: int = TEXTS,
    dtype: torch.dtype = torch.float16,
) -> Tensor:  # fmt: skip
    """States [S, Q, C] of the sites `names` at the last token of each query; `size` texts are read at a time. They lie
    in the machine's memory, whatever device the model is on. Raises FloatingPointError for a state that `dtype` cannot
    hold."""
    texts, device = Texts(queries, endings_QU), model.embed.weight.device
    states_SQC = torch.empty(len(names), len(queries), model.config.n_embd, dtype=dtype)
    order = np.argsort(texts.cut, kind="stable")
    with capture(model, names) as store:
        for k in range(0, len(order), size):
            batch = texts.batch(order[k : k + size], device)
            last_states(model, batch)
            for s, name in enumerate(names):
                states_SQC[s, batch.which_Q] = store[name][:, -1].to(dtype).cpu()
    if not all(bool(states_QC.isfinite().all()) for states_QC in states_SQC):
        raise FloatingPointError(f"a hidden state is not finite, or too large for {dtype}")
    return states_SQC
