"""Trained weights with another vocabulary: rows are matched by the text of their token, new tokens are initialised.

So a model can go from a small world to a larger one with the same kind of tokens: from modulus 7 to 23, from 36 names
to all of them. Tokens that the new world lacks are dropped.

Legend: V tokens of the old vocabulary, W of the new.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from models.gpt import GPT
from synth.store.encodings import Encoding
from train.config.schema import build
from train.data.batches import DataConfig, check_vocabulary


def checkpoint_encoding(notes: Mapping[str, Any], path: str) -> Encoding:
    """The tokens that a checkpoint was trained on. Raises ValueError if its vocabulary has changed since."""
    data = build(DataConfig, _data(notes, path))
    check_vocabulary(notes, data, path)
    return data.encoding()


def _data(notes: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    if not notes.get("data"):
        raise ValueError(f"{path} does not say what data it was trained on; accepted: a checkpoint or an export of one")
    return notes["data"]


def same_texts(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """(old id, new id) of every text that is exactly one token of each vocabulary."""
    old_counts, new_counts = Counter(old), Counter(new)
    new_id = {text: i for i, text in enumerate(new)}
    return [(i, new_id[text]) for i, text in enumerate(old) if old_counts[text] == new_counts[text] == 1]


@torch.no_grad()
def extend_vocabulary(model: GPT, notes: Mapping[str, Any], data: DataConfig, path: str, seed: int) -> GPT:
    """The model of the checkpoint at `path` with the vocabulary of `data`. Rows of new tokens are those of `GPT(config,
    seed)`. Raises ValueError when the two have tokens of different kinds."""
    tokens = _data(notes, path)["tokens"]
    if tokens != data.tokens:
        what = f"{path} was trained on data.tokens={tokens}; accepted: data.tokens={tokens}"
        raise ValueError(f"init_vocabulary=extend with data.tokens={data.tokens}: {what}")
    pairs = torch.tensor(same_texts(checkpoint_encoding(notes, path).vocabulary(), data.encoding().vocabulary()))
    old_N, new_N = pairs.unbind(1)
    larger = GPT(replace(model.config, vocab_size=data.encoding().size), seed)
    own, state = model.state_dict(), larger.state_dict()
    for name, rows in state.items():
        if name in ("embed.weight", "unembed.weight"):
            rows[new_N] = own[name][old_N]
        else:
            rows.copy_(own[name])
    return larger
