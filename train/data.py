"""Training batches: batch k is a pure function of (source, settings, k), so no loader has a state to save.

Documents are taken by index in chunks of `bucket` batches, sorted by length inside the chunk, cut into batches, and
the batches are put in an addressed random order: little padding, and every document of the stream exactly once.
Generation is far faster than training, so nothing runs in the background.

    position   0 1 ... p-1        p ... n-1       n ... T-1        p prompt length, n document length
    tokens     prompt             solution, eos   pad
    loss       0                  1               0                (solution; masked mistakes are 0)
    loss (all) 0 1 ... 1          1               0                (the first token is nobody's target)

A prompt may begin with a privileged context (`contexts` among the overrides: a weight for each recipe of
`synth.sections`); its tokens are read and never a target.

Legend: B documents of a batch, T positions.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from synth.dataset import Documents, Source
from synth.encoding import PHRASE, Encoding, Retokenised, encoding
from synth.hashing import key
from synth.sections import CONTEXT
from synth.spec import Spec, preset
from synth.world import PAD

LOSS_ON = ("solution", "all")


@dataclass(frozen=True)
class DataConfig:
    """The data of a run: a preset of synth, what differs from it, and the seed of the stream (not of the weights).

    tokens: phrase, word, or the folder of a Hugging Face tokenizer (`synth.encoding`).
    """

    preset: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    tokens: str = PHRASE

    def __post_init__(self):
        self.spec()
        self.encoding()

    def spec(self) -> Spec:
        """The full settings; ValueError names an unknown preset or override."""
        return preset(self.preset, **self.overrides)

    def source(self, split: str, stream: str = "data") -> Source:
        """A stream of documents of one split. Streams of different names share no document by index."""
        if self.tokens == PHRASE:
            return Source(self.spec(), self.seed, split, stream)
        return Retokenised(self.spec(), self.seed, split, stream, self.encoding())

    def encoding(self) -> Encoding:
        """The tokens of the documents; ValueError names a folder that holds no usable tokenizer."""
        try:
            return encoding(self.tokens, self.spec().load_world())
        except ValueError as error:
            raise ValueError(f"data.{error}") from None

    def told(self, recipe: str) -> "DataConfig":
        """The same problems, each with a context of this one recipe (`none`: without)."""
        return replace(self, overrides={**self.overrides, "contexts": {recipe: 1.0}})

    def fingerprint(self) -> str:
        """sha256 over the full spec and the tokens: two runs with the same one see the same distribution."""
        settings = json.dumps(asdict(self.spec()), sort_keys=True)
        if self.tokens != PHRASE:
            settings += self.encoding().fingerprint()
        return hashlib.sha256(settings.encode()).hexdigest()


@dataclass(frozen=True)
class BatchConfig:
    """`documents` a batch; `bucket` batches are sorted together; loss on the `solution` or on `all` tokens."""

    documents: int = 16
    bucket: int = 16
    loss_on: str = "solution"

    def __post_init__(self):
        for name in ("documents", "bucket"):
            if getattr(self, name) < 1:
                raise ValueError(f"batch.{name}={getattr(self, name)}: accepted: 1 or more")
        if self.loss_on not in LOSS_ON:
            raise ValueError(f"batch.loss_on={self.loss_on}: accepted: {', '.join(LOSS_ON)}")


@dataclass(frozen=True)
class Batch:
    """Right-padded documents. The masks say which positions count as targets (of the position before them).

    tokens_BT int64; loss_BT bool, what the objective is computed on; solution_BT bool, what the floor is computed on;
    floor: the generator's entropy on these solution tokens, nats per token; tokens: real (not padding) tokens;
    length_B: int64, those of each document.
    """

    tokens_BT: Tensor
    loss_BT: Tensor
    solution_BT: Tensor
    floor: float
    tokens: int
    length_B: Tensor

    def to(self, device: torch.device) -> "Batch":
        moved = (t.to(device) for t in (self.tokens_BT, self.loss_BT, self.solution_BT))
        return Batch(*moved, self.floor, self.tokens, self.length_B.to(device))


class DocumentSource(Protocol):
    """What a batch needs of `synth.dataset.Source`."""

    seed: int

    def documents(self, indices: Any) -> Documents:
        """The documents of these indices."""


def pad(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray, fill: Any) -> np.ndarray:
    """The ragged rows values[offsets[i]:offsets[i+1]] for i in `rows`, right padded to [B, T]."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    position_T = np.arange(lengths.max())
    inside_BT = position_T < lengths[:, None]
    picked_BT = values[np.where(inside_BT, starts[:, None] + position_T, 0)]
    return np.where(inside_BT, picked_BT, fill)


def collate(documents: Documents, rows: np.ndarray, loss_on: str = "solution", fill: int = PAD) -> Batch:
    """The batch made of these rows of `documents`, padded with the token `fill`."""
    offsets = np.asarray(documents.offsets)
    tokens_BT = pad(documents.tokens, offsets, rows, fill).astype(np.int64)
    solution_BT = pad(documents.loss, offsets, rows, 0).astype(bool)
    logp_BT = pad(documents.logp, offsets, rows, 0.0)
    lengths = offsets[rows + 1] - offsets[rows]
    loss_BT = solution_BT
    if loss_on == "all":
        position_T = np.arange(tokens_BT.shape[1])
        prompt_BT = (position_T > 0) & (position_T < documents.prompt[rows][:, None])
        loss_BT = solution_BT | (prompt_BT & (pad(documents.segment, offsets, rows, CONTEXT) != CONTEXT))
    floor = abs(float(logp_BT[solution_BT].sum())) / max(1, int(solution_BT.sum()))  # abs: no minus zero
    tensors = [torch.from_numpy(array) for array in (tokens_BT, loss_BT, solution_BT)]
    return Batch(*tensors, floor, int(lengths.sum()), torch.from_numpy(lengths))


class Batches:
    """The batches of a source, by step. Keeps the chunk at hand, nothing else."""

    def __init__(self, source: DocumentSource, config: BatchConfig):
        self.source, self.config = source, config
        self._fill = source.encoding.pad if isinstance(source, Retokenised) else PAD
        self._chunk: tuple[int, Documents, np.ndarray] | None = None

    def batch(self, k: int) -> Batch:
        """Batch k, for any k >= 0 in any order."""
        chunk, place = divmod(k, self.config.bucket)
        if self._chunk is None or self._chunk[0] != chunk:
            self._chunk = (chunk, *self._load(chunk))
        _, documents, rows = self._chunk
        return collate(documents, rows[place], self.config.loss_on, self._fill)

    def _load(self, chunk: int) -> tuple[Documents, np.ndarray]:
        """The chunk's documents and their rows [bucket, documents] in the order of use."""
        c = self.config
        size = c.bucket * c.documents
        documents = self.source.documents(range(chunk * size, (chunk + 1) * size))
        by_length = np.argsort(np.diff(documents.offsets), kind="stable").reshape(c.bucket, c.documents)
        order = np.random.Generator(np.random.Philox(key(self.source.seed, "batch order", chunk)))
        return documents, by_length[order.permutation(c.bucket)]


def world_notes(config: DataConfig) -> Mapping[str, Any]:
    """What a checkpoint notes about its data, so that it is never judged in a world it cannot read."""
    return {"vocabulary": config.encoding().fingerprint(), "data": asdict(config)}


def check_world(notes: Mapping[str, Any], config: DataConfig, path: str) -> None:
    """Raises ValueError when the checkpoint at `path` was trained with another vocabulary than the data's."""
    if notes.get("vocabulary") != world_notes(config)["vocabulary"]:
        tokens = "" if config.tokens == PHRASE else f", data.tokens={config.tokens}"
        raise ValueError(
            f"data.preset={config.preset}{tokens}: its vocabulary is not the one {path} was trained with; "
            f"accepted: data settings like {notes.get('data')}"
        )
