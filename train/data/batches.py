"""Training batches: batch k is a pure function of (source, settings, k), so no loader has a state to save.

Documents are taken by index in chunks of `bucket` batches, sorted by length inside the chunk, and cut into batches,
which are then shuffled: little padding, and every document of the stream exactly once. Generation is far faster than
training, so nothing runs in the background.

    position   0 1 ... p-1        p ... n-1       n ... T-1        p prompt length, n document length
    tokens     prompt             solution, eos   pad
    loss       0                  1               0                (solution; masked mistakes are 0)
    loss (all) 0 1 ... 1          1               0                (the first token is not a target)

A prompt may begin with a privileged context (`contexts` among the overrides: a weight for each recipe of
`synth.contexts.context_tokens`); its tokens are read and never a target.

Packed, a row holds several documents, or pieces of them, and batches take the documents in the order of the stream:

    packing=documents   | a a a a a b b b . |   every document whole, first fit by falling length
    packing=concat      | a a a a a b b b c |   as in the papers: end to end, cut where a window ends

Legend: B rows of a batch, T positions.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from synth.dataset import Source
from synth.documents import CONTEXT_SEGMENT, Documents
from synth.kernel.rng import key
from synth.problem.arrays import Integers
from synth.ranges import Count, OneOf, Positive, settings
from synth.spec import Spec, preset
from synth.store import encodings
from synth.store.encodings import PHRASE, Encoding, Retokenised
from synth.world.vocabulary import PAD
from train.data.corruption import DefectConfig, corrupt


@settings
class DataConfig:
    """The data of a run: a preset of synth, what differs from it, and the seed of the stream (not of the weights).
    tokens: phrase, word, or the folder of a Hugging Face tokenizer (`synth.store.encodings`). documents: learn from the
    first so many documents of the stream, in epochs; null: from fresh ones without end. It limits the solutions that
    are learned from, not the prompts that a student or teacher answers, contexts or evaluations."""

    preset: str = "tiny"  # problems of `synth.spec`: tiny, six, med, hard ...
    overrides: Annotated[dict[str, Any], Spec] = field(default_factory=dict)  # changes to the preset
    seed: int = 0  # of the problems
    tokens: str = PHRASE
    documents: Positive | None = None

    def __post_init__(self) -> None:
        self.spec()
        self.encoding()

    def spec(self) -> Spec:
        """The full settings. Raises ValueError on an unknown preset or override."""
        return preset(self.preset, **self.overrides)

    def source(self, split: str, stream: str = "data") -> Source:
        """A stream of documents of one split; streams of different names are independent."""
        return encodings.source(self.spec(), self.seed, split, stream, self.tokens)

    def encoding(self) -> Encoding:
        """The tokens of the documents. Raises ValueError on a folder that holds no usable tokenizer."""
        try:
            return encodings.encoding(self.tokens, self.spec().load_world())
        except ValueError as error:
            raise ValueError(f"data.{error}") from None

    def with_context(self, recipe: str) -> "DataConfig":
        """The same problems, each with a context of this one recipe (`none`: without)."""
        return replace(self, overrides={**self.overrides, "contexts": {recipe: 1.0}})

    def with_more_ops(self, more: int, setting: str = "ood") -> "DataConfig":
        """The same data and vocabulary, each problem with exactly `more` operations above the data's most. Raises
        ValueError, naming `setting`, when there are no such problems."""
        try:
            return replace(self, overrides={**self.overrides, "ops": self.spec().ops + more, "exact_ops": True})
        except ValueError as error:
            raise ValueError(f"{setting}={more}: {error}") from None

    def fingerprint(self) -> str:
        """sha256 over the full spec and the tokens: data with the same one have the same distribution."""
        settings = json.dumps(asdict(self.spec()), sort_keys=True)
        if self.tokens != PHRASE:
            settings += self.encoding().fingerprint()
        return hashlib.sha256(settings.encode()).hexdigest()


CHECKED = 2048  # documents whose length is compared with the model's context before anything starts
Layout = tuple[np.ndarray, int]  # the cell (row * window + column) where each of N documents begins, and the rows


def first_fit(lengths: np.ndarray, window: int) -> Layout:
    """Every document whole in the first row that has room for it, longest first. Raises ValueError if one is too long.
    First fit by falling length needs at most 11/9 of the fewest possible rows (Johnson 1973)."""
    if lengths.max() > window:
        raise ValueError(f"batch.window={window}: a document has {lengths.max()} tokens; accepted: at least as many")
    cell, used = np.zeros(len(lengths), dtype=np.int64), np.zeros(len(lengths), dtype=np.int64)
    for i in np.argsort(-lengths, kind="stable"):
        row = int((used + lengths[i] <= window).argmax())
        cell[i] = row * window + used[row]
        used[row] += lengths[i]
    return cell, int(np.count_nonzero(used))


def end_to_end(lengths: np.ndarray, window: int) -> Layout:
    """One stream cut into rows; only the last row may not be full."""
    return np.cumsum(lengths) - lengths, -(-int(lengths.sum()) // window)


LAYOUTS = {"documents": first_fit, "concat": end_to_end}


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... for lengths[0] numbers, then the same from starts[1], and so on."""
    ahead = np.cumsum(lengths) - lengths
    return np.repeat(np.asarray(starts) - ahead, lengths) + np.arange(int(lengths.sum()))


@settings
class BatchConfig:
    """`documents` a batch; `bucket` batches are sorted together; loss on the `solution` or on `all` tokens.

    packing: `none`, one document a row; `documents`, whole documents in rows of `window` tokens, without attention
    between them; `concat`, the papers' plain stream cut into windows, where attention crosses the borders.
    window: null for the model's context. micro: most rows of one forward pass, 0 for all; it changes memory, and
    results by rounding.
    """

    documents: Positive = 16  # in a batch
    bucket: Positive = 16  # batches whose documents are sorted by length together, for less padding
    loss_on: Literal["solution", "all"] = "solution"  # the tokens that are learned
    packing: Annotated[str, OneOf("none", *LAYOUTS)] = "none"
    window: int | None = None
    micro: Count = 0
    defect: DefectConfig = field(default_factory=DefectConfig)

    def __post_init__(self) -> None:
        if self.window is not None and (self.packing == "none" or self.window < 2):
            accepted = "null" if self.packing == "none" else "2 or more, or null"
            raise ValueError(f"batch.window={self.window} with batch.packing={self.packing}: accepted: {accepted}")

    def with_window(self, context: int) -> "BatchConfig":
        """The same with `window` set, for a model of this context. Raises ValueError when the window is larger."""
        if (self.window or 0) > context:
            raise ValueError(f"batch.window={self.window}: the model reads {context}; accepted: up to {context}")
        return self if self.packing == "none" else replace(self, window=self.window or context)


@dataclass(frozen=True)
class Batch:
    """Right-padded rows. The masks say which positions are targets (of the position before them).

    tokens_BT: int64. loss_BT, solution_BT: bool, the targets of the objective, and of the floor.
    floor: the generator's entropy on the solution tokens, nats a token. tokens: how many are not padding.
    length_B: int64, tokens of each document, or of each row with packing=concat.
    segments_BT: int64, the number of the document in its row with packing=documents, else None.
    """

    tokens_BT: Tensor
    loss_BT: Tensor
    solution_BT: Tensor
    floor: float
    tokens: int
    length_B: Tensor
    segments_BT: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def parts(self, rows: int) -> list["Batch"]:
        """Micro-batches of at most `rows` rows, 0 for one; `floor`, `tokens` and `length_B` stay those of the batch."""
        step = rows or max(1, len(self.tokens_BT))
        starts = range(0, len(self.tokens_BT), step)
        return [self._each(lambda tensor, at=at: tensor[at : at + step], "_BT") for at in starts]

    def _each(self, change: Callable[[Tensor], Tensor], ending: str = "") -> "Batch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor) and k.endswith(ending)}
        return replace(self, **{k: change(v) for k, v in tensors.items()})


class DocumentSource(Protocol):
    """What a batch needs of `synth.dataset.Source`."""

    seed: int

    def documents(self, indices: Any) -> Documents:
        """The documents of these indices."""
        ...


def pad(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray, fill: Any) -> np.ndarray:
    """The ragged rows values[offsets[i]:offsets[i+1]] for i in `rows`, right-padded to [B, T]."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    position_T = np.arange(lengths.max())
    real_BT = position_T < lengths[:, None]
    return np.where(real_BT, values[np.where(real_BT, starts[:, None] + position_T, 0)], fill)


def collate(documents: Documents, rows: np.ndarray, loss_on: str = "solution", fill: int = PAD) -> Batch:
    """The batch made of these rows of `documents`, padded with the token `fill`."""
    offsets = np.asarray(documents.offsets)
    tokens_BT = pad(documents.tokens, offsets, rows, fill).astype(np.int64)
    loss_BT = solution_BT = pad(documents.loss, offsets, rows, 0).astype(bool)
    logp_BT = pad(documents.logp, offsets, rows, 0.0)
    lengths = offsets[rows + 1] - offsets[rows]
    if loss_on == "all":
        at_T, segment_BT = np.arange(tokens_BT.shape[1]), pad(documents.segment, offsets, rows, CONTEXT_SEGMENT)
        loss_BT = solution_BT | _prompt_targets(at_T, documents.prompt[rows][:, None], segment_BT)
    tensors = [torch.from_numpy(array) for array in (tokens_BT, loss_BT, solution_BT)]
    counts = {"tokens": int(lengths.sum()), "length_B": torch.from_numpy(lengths)}
    return Batch(*tensors, floor=_floor(logp_BT[solution_BT]), **counts)


def _prompt_targets(at: np.ndarray, prompt: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Which tokens of a prompt are targets with loss_on=all: not the first, none of a context."""
    return (at > 0) & (at < prompt) & (segment != CONTEXT_SEGMENT)


def _floor(logp_N: np.ndarray) -> float:
    """The generator's entropy, the mean surprise of these tokens in nats."""
    return abs(float(logp_N.sum())) / max(1, len(logp_N))  # abs: no minus zero


def collate_packed(
    documents: Documents, rows: np.ndarray, config: BatchConfig, share: slice = slice(None), fill: int = PAD
) -> Batch:
    """These rows of `documents` packed into windows, padded with the token `fill`; of the windows, those of `share`.
    Raises ValueError when a document is longer than the window, or the share is empty."""
    offsets, window = np.asarray(documents.offsets), config.window or 0
    starts, lengths = offsets[rows], np.diff(offsets)[rows]
    cell, n_rows = LAYOUTS[config.packing](lengths, window)
    source, target = spans(starts, lengths), spans(cell, lengths)
    at_T = spans(np.zeros_like(lengths), lengths)  # place of each token in its document

    def rows_of(values: np.ndarray, fill: Any) -> np.ndarray:
        flat = np.full(n_rows * window, fill, dtype=values.dtype)
        flat[target] = values
        return flat.reshape(n_rows, window)[share]

    if n_rows < (share.step or 1):
        what = f"fill {n_rows} windows of {window} tokens, fewer than there are processes"
        raise ValueError(f"batch.documents={config.documents}: {what}; accepted: more, or a smaller batch.window")
    tokens_BT = rows_of(documents.tokens[source].astype(np.int64), fill)
    solution = documents.loss[source].astype(bool)
    solution_BT = rows_of(solution, False)
    targets = solution
    if config.loss_on == "all":
        prompt = np.repeat(np.asarray(documents.prompt)[rows], lengths)
        targets = solution | _prompt_targets(at_T, prompt, documents.segment[source])
    # a row's first token is not a target, so it does not count in the floor either
    floor = _floor(rows_of(documents.logp[source], 0.0)[:, 1:][solution_BT[:, 1:]])
    segments_BT, length_B = None, rows_of(np.ones(len(source), dtype=np.int64), 0).sum(1)
    tokens = int(length_B.sum())
    if config.packing == "documents":
        length_B = lengths
        number = np.repeat(np.arange(1, len(rows) + 1), lengths)
        flat = rows_of(number, 0)
        segments_BT = torch.from_numpy((np.diff(flat, axis=1, prepend=flat[:, :1]) != 0).cumsum(1))
    tensors = (torch.from_numpy(a) for a in (tokens_BT, rows_of(targets, False), solution_BT))
    return Batch(*tensors, floor=floor, tokens=tokens, length_B=torch.from_numpy(length_B), segments_BT=segments_BT)


def in_batches(lengths: np.ndarray, bucket: int, seed: int, chunk: int) -> np.ndarray:
    """The rows of each batch of a chunk: rows of like length in one batch, the batches in random order."""
    order = np.random.Generator(np.random.Philox(key(seed, "batch order", chunk))).permutation(bucket)
    return np.argsort(lengths, kind="stable").reshape(bucket, -1)[order]


def in_epochs(places: Integers, documents: int | None, seed: int) -> np.ndarray:
    """Which documents stand at these places of a stream that has only the first `documents` (None: all), int64.
    They come in epochs, each in an order of its own, a function of (seed, epoch)."""
    place = np.array(places, dtype=np.int64)
    if documents is None:
        return place
    found = place.copy()
    for epoch in np.unique(place // documents):
        order = np.random.Generator(np.random.Philox(key(seed, "epoch order", int(epoch)))).permutation(documents)
        here = place // documents == epoch
        found[here] = order[place[here] % documents]
    return found


class Batches:
    """The batches of a source, by step. Keeps the last chunk, nothing else. Process `rank` of `world_size` gets every
    `world_size`-th row of a batch; together they have the rows of a single process. limit: `data.documents`."""

    def __init__(
        self, source: DocumentSource, config: BatchConfig, rank: int = 0, world_size: int = 1, limit: int | None = None
    ):
        if config.documents < world_size:
            accepted = f"fewer than the {world_size} processes; accepted: {world_size} or more"
            raise ValueError(f"batch.documents={config.documents}: {accepted}")
        self.source, self.config, self._share, self._limit = source, config, slice(rank, None, world_size), limit
        self._fill = source.encoding.pad if isinstance(source, Retokenised) else PAD
        self._chunk: tuple[int, Documents, np.ndarray] | None = None

    def batch(self, k: int) -> Batch:
        """Batch k, for any k >= 0 in any order."""
        chunk, place = divmod(k, self.config.bucket)
        if self._chunk is None or self._chunk[0] != chunk:
            self._chunk = (chunk, *self._load(chunk))
        _, documents, rows = self._chunk
        if self.config.packing == "none":
            return collate(documents, rows[place][self._share], self.config.loss_on, self._fill)
        share = self._share if self.config.packing == "concat" else slice(None)
        return collate_packed(documents, rows[place], self.config, share, self._fill)

    def _load(self, chunk: int) -> tuple[Documents, np.ndarray]:
        """The chunk's documents and their rows [bucket, documents] in the order of use. With packing=documents a
        process generates only its own documents; otherwise it must know the lengths of all."""
        c = self.config
        size = c.bucket * c.documents
        if c.packing != "none":
            index = np.arange(chunk * size, (chunk + 1) * size).reshape(c.bucket, c.documents)
            index = index[:, self._share] if c.packing == "documents" else index
            return self._documents(index.ravel()), np.arange(index.size).reshape(index.shape)
        documents = self._documents(range(chunk * size, (chunk + 1) * size))
        return documents, in_batches(np.diff(documents.offsets), c.bucket, self.source.seed, chunk)

    def _documents(self, places: Integers) -> Documents:
        indices = in_epochs(places, self._limit, self.source.seed)
        return corrupt(self.source.documents(indices), indices, self.config.defect, self.source.seed)


def vocabulary_notes(config: DataConfig) -> Mapping[str, Any]:
    """What a checkpoint notes about its data, so that it is never used with another vocabulary."""
    return {"vocabulary": config.encoding().fingerprint(), "data": asdict(config)}


def check_vocabulary(notes: Mapping[str, Any], config: DataConfig, path: str) -> None:
    """Raises ValueError when the checkpoint at `path` was trained with another vocabulary than the data's."""
    if notes.get("vocabulary") != vocabulary_notes(config)["vocabulary"]:
        tokens = "" if config.tokens == PHRASE else f", data.tokens={config.tokens}"
        what = f"its vocabulary is not the one {path} was trained with"
        accepted = f"data settings like {notes['data']}" if notes.get("data") else "a model whose tokens are the data's"
        raise ValueError(f"data.preset={config.preset}{tokens}: {what}; accepted: {accepted}")


def longest_document(source: DocumentSource, count: int = CHECKED) -> int:
    """Tokens of the longest of the first documents."""
    return int(np.diff(source.documents(range(count)).offsets).max())


def check_length(source: DocumentSource, most: int, setting: str) -> None:
    """Raises ValueError when documents have more than `most` tokens, the value of `setting`."""
    if (longest := longest_document(source)) > most:
        raise ValueError(f"{setting}={most}: documents have up to {longest} tokens; accepted: more")


def check_defect(source: DocumentSource, batch: BatchConfig, context: int) -> None:
    """Raises ValueError when documents with a repeated step are longer than a row."""
    if batch.defect.length is not None:
        most = (batch.window or context) - int(source.documents(range(CHECKED)).prompt.max())
        if batch.defect.length > most:
            accepted = f"up to {most} behind the longest prompt"
            raise ValueError(f"batch.defect.length={batch.defect.length}: accepted: {accepted}")
