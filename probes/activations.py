"""Hidden states at the end of each query's input, for chosen sites; a text is read once for all queries about it.

Only the states asked for are kept, in float32, so memory is sites x queries x channels whatever the texts' length.
The invariant that matters: a state is that of a forward pass over the query's own row, text then ending, to rounding.

    states_SQC = read(model, table, names_after_define(table, world), sites(model))

Legend: S sites, Q queries, P texts, T tokens of a text, U tokens of an ending, B rows, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from models.sites import capture
from probes.labels import Queries
from probes.shared import Branch, Text
from synth.world import DEFINE, END, PAD, START, World

TEXTS = 16  # texts side by side: with the queries behind them they stay inside the processor's cache


def sites(model: GPT) -> list[str]:
    """Names of the residual stream from the embedding (layer 0) to the output of each block (layer l + 1)."""
    return ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.config.n_layer))]


def names_after_define(queries: Queries, world: World) -> np.ndarray:
    """Endings `Define OWNER THING`, int64[Q, 3]: the name as a solution would begin to write it."""
    define = int(world.phrases[DEFINE])
    start = np.full((len(queries), 1 if define >= 0 else 0), define)  # a terse world may not write the word
    return np.concatenate([start, queries.name], axis=1)


def names_between_markers(queries: Queries) -> np.ndarray:
    """Endings `<start> OWNER THING <end>`, int64[Q, 4] (Part 2.1, V-probing)."""
    marks = [np.full((len(queries), 1), token) for token in (START, END)]
    return np.concatenate([marks[0], queries.name, marks[1]], axis=1)


def check_length(model: GPT, queries: Queries, path: str) -> None:
    """Raises ValueError when the model cannot read every text with a name between markers behind it."""
    longest = int(queries.cut.max()) + 4
    if longest > model.config.context:
        raise ValueError(
            f"model={path}: reads {model.config.context} tokens and a query has {longest}; accepted: a model with a "
            "longer context, or data with shorter documents"
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts and the queries about them, ready for `states`."""

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
        which = np.concatenate([np.arange(self.first[p], self.first[p] + self.count[p]) for p in part])
        row = np.repeat(np.arange(len(part)), self.count[part])
        texts_PT = right_padded([self.queries.text(self.first[p]) for p in part])
        lengths_P, row_Q = torch.from_numpy(self.cut[part]), torch.from_numpy(row)
        return Batch(*(a.to(device) for a in (texts_PT, lengths_P, self.endings[which], row_Q)), which)


def last_states(model: GPT, batch: Batch) -> Tensor:
    """What the unembedding would read at the last token of each ending, [Q, C]."""
    text = Text(batch.lengths_P, model.config)
    model.hidden(batch.texts_PT, text)
    return model.hidden(batch.endings_QU, Branch(text, batch.row_Q))[:, -1]


@torch.no_grad()
def read(model: GPT, queries: Queries, endings_QU: np.ndarray, names: Sequence[str], size: int = TEXTS) -> Tensor:
    """States [S, Q, C] of the sites `names` at the last token of each query; `size` texts are read at a time."""
    texts, device = Texts(queries, endings_QU), model.embed.weight.device
    states_SQC = torch.empty(len(names), len(queries), model.config.n_embd)
    order = np.argsort(texts.cut, kind="stable")
    with capture(model, names) as store:
        for k in range(0, len(order), size):
            batch = texts.batch(order[k : k + size], device)
            last_states(model, batch)
            for s, name in enumerate(names):
                states_SQC[s, batch.which_Q] = store[name][:, -1].float().cpu()
    return states_SQC


def right_padded(rows: list[np.ndarray]) -> Tensor:
    """Token rows as int64 [B, T]."""
    tokens_BT = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for tokens_T, row in zip(tokens_BT, rows, strict=True):
        tokens_T[: len(row)] = row
    return torch.from_numpy(tokens_BT)
