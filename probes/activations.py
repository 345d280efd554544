"""Hidden states at the end of each query's input, for chosen sites: the text is read once, the queries about it behind it.

Only the states asked for are kept, in float32, so memory is sites x queries x channels whatever the texts' length.
The invariant that matters: a state is the one of a forward pass over the query's own row (text, then tail), to rounding.

    states_SQC = read(model, table, names_after_define(table, world), sites(model))

Legend: S sites, Q queries, P texts of a batch, A queries of a batch, B rows, T tokens, C channels.
"""

import numpy as np
import torch
from torch import Tensor

from models.cache import KVCache
from models.gpt import GPT
from models.sites import capture
from probes.labels import Queries
from synth.world import DEFINE, END, PAD, START, World

TEXTS = 16  # texts side by side; with the queries behind them their keys and values fit a cache of the processor


def sites(model: GPT) -> list[str]:
    """Names of the residual stream from the embedding (layer 0) to the output of each block (layer l + 1)."""
    return ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.config.n_layer))]


def names_after_define(queries: Queries, world: World) -> np.ndarray:
    """Tails `Define OWNER THING`, int64[Q, 3]: the name as a solution would begin to write it."""
    define = int(world.phrases[DEFINE])
    start = np.full((len(queries), 1 if define >= 0 else 0), define)  # a terse world may not write the word
    return np.concatenate([start, queries.name], axis=1)


def names_between_markers(queries: Queries) -> np.ndarray:
    """Tails `<start> OWNER THING <end>`, int64[Q, 4] (Part 2.1, V-probing)."""
    marks = [np.full((len(queries), 1), token) for token in (START, END)]
    return np.concatenate([marks[0], queries.name, marks[1]], axis=1)


def check_length(model: GPT, queries: Queries, tail: int, path: str) -> None:
    """Raises ValueError when the model cannot read a text with a tail of so many tokens."""
    longest = int(queries.cut.max()) + tail
    if longest > model.config.context:
        raise ValueError(
            f"model={path}: reads {model.config.context} tokens and a query has {longest}; accepted: a model with a "
            "longer context, or data with shorter documents"
        )


@torch.no_grad()
def read(model: GPT, queries: Queries, tail_QT: np.ndarray, names: list[str], texts: int = TEXTS) -> Tensor:
    """States [S, Q, C] of `names` at the last token of each query's tail. `texts` bounds memory, not results."""
    device = model.embed.weight.device
    states_SQC = torch.empty(len(names), len(queries), model.config.n_embd)
    tail = torch.as_tensor(tail_QT, dtype=torch.long)
    rows, first, count = np.unique(queries.row, return_index=True, return_counts=True)
    order = np.argsort(queries.cut[first], kind="stable")
    for k in range(0, len(rows), texts):
        part = order[k : k + texts]
        which_A = np.concatenate([np.arange(first[p], first[p] + count[p]) for p in part])
        lengths_P = queries.cut[first[part]]
        read_once = KVCache(model, len(part), int(lengths_P.max()))
        model.hidden(right_padded([queries.text(first[p]) for p in part]).to(device), read_once)
        read_once.truncate(torch.as_tensor(lengths_P, device=device))
        cache = KVCache(model, len(which_A), read_once.capacity + tail.shape[1], empty=True)
        cache.admit(read_once, torch.as_tensor(np.repeat(np.arange(len(part)), count[part]), device=device))
        with capture(model, names) as store:
            model.hidden(tail[which_A].to(device), cache)
        for s, name in enumerate(names):
            states_SQC[s, which_A] = store[name][:, -1].float().cpu()
    return states_SQC


def right_padded(rows: list[np.ndarray]) -> Tensor:
    """Token rows as int64 [B, T]."""
    tokens_BT = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for tokens_T, row in zip(tokens_BT, rows, strict=True):
        tokens_T[: len(row)] = row
    return torch.from_numpy(tokens_BT)
