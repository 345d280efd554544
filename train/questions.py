"""Batches of problems with several questions each, the text read once, and the generator's whole law as target.

Batch k is a pure function of (source, settings, k). A chunk of `bucket` batches is sorted by the length of the texts;
inside a batch the continuations (question, solution) are sorted by length and cut into `groups` of equal number, so
little is padded. Targets are the response's tokens: the sampled token, or the law that it was drawn from (forward KL).

Legend: B texts, K questions about each, M continuations of a group, N targets, E entries of their laws.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from models.branches import Branches, Group
from synth import problem as P
from synth.dataset import Documents, Source
from synth.hashing import key
from synth.oracle import Law, Oracle
from synth.questions import other_questions
from synth.world import PAD
from train.packing import spans

TARGETS = ("law", "sampled")
QUESTION = 2  # segment of the tokens from the question to `<solution>`


@dataclass(frozen=True)
class QuestionsConfig:
    """count: questions about every text; the first is the problem's own. hardest_of: of so many draws of a further
    question the one with the most operations. exact: share of the texts that are drawn with exactly the most operations
    that the settings allow, instead of the settings' own law. target: the exact `law`, or the `sampled` token. groups:
    into how many parts of equal number the continuations of a batch are cut. tries: draws before a question is kept."""

    count: int = 1
    hardest_of: int = 1
    exact: float = 0.0
    target: str = "law"
    groups: int = 2
    tries: int = 12

    def __post_init__(self):
        for name in ("count", "hardest_of", "groups", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"questions.{name}={getattr(self, name)}: accepted: 1 or more")
        if not 0.0 <= self.exact <= 1.0:
            raise ValueError(f"questions.exact={self.exact}: accepted: 0 to 1")
        if self.target not in TARGETS:
            raise ValueError(f"questions.target={self.target}: accepted: {', '.join(TARGETS)}")


@dataclass(frozen=True)
class QuestionBatch:
    """entry: for each entry of the targets' laws its target n, its token and its probability (float32). floor: what the
    loss would be for a model that knows the law, nats a target. lengths: real tokens of texts, and of texts with each
    continuation and the text it continues."""

    branches: Branches
    entry_n: Tensor
    entry_id: Tensor
    entry_p: Tensor
    targets: int
    floor: float
    tokens: int
    text_length: Tensor
    whole_length: Tensor
    continued_length: Tensor


class QuestionBatches:
    """The batches of a source, by step; keeps the chunk at hand: `bucket` batches of `documents` texts."""

    def __init__(self, source: Source, documents: int, bucket: int, config: QuestionsConfig, least: int = 0):
        self.source, self.size, self.bucket, self.config = source, documents, bucket, config
        self.least = least  # columns that a text has at least
        self.hard = Source(replace(source.spec, exact_ops=True), source.seed, source.split, f"{source.stream}/exact")
        self.oracle = Oracle(source.spec) if config.target == "law" else None
        self._chunk: tuple[int, list, np.ndarray] | None = None

    def batch(self, k: int) -> QuestionBatch:
        chunk, place = divmod(k, self.bucket)
        if self._chunk is None or self._chunk[0] != chunk:
            self._chunk = (chunk, *self._load(chunk))
        _, asked, rows = self._chunk
        return self._made(asked, rows[place])

    def _load(self, chunk: int) -> tuple[list, np.ndarray]:
        """(documents, law, length of their texts) for every question of the chunk's problems, and rows by batch."""
        n = self.bucket * self.size
        indices = range(chunk * n, (chunk + 1) * n)
        c = self.config
        first = self._texts(indices, round(c.exact * n))
        of = [first]
        if c.count > 1:
            others = other_questions(self.source, first.problems, indices, c.count - 1, c.tries, c.hardest_of)
            of += [
                self.source.solve(problems, f"{self.source.stream}/{self.source.split}/answer {r}", indices)
                for r, problems in enumerate(others)
            ]
        asked = []
        for documents in of:
            law = None if self.oracle is None else self.oracle.documents(documents)
            asked.append((documents, law, text_lengths(documents)))
        by_length = np.argsort(asked[0][2], kind="stable").reshape(self.bucket, self.size)
        order = np.random.Generator(np.random.Philox(key(self.source.seed, "batch order", chunk)))
        return asked, by_length[order.permutation(self.bucket)]

    def _texts(self, indices: range, hard: int) -> Documents:
        """Documents of these indices with their own questions, the first `hard` of them of the most operations."""
        if hard == 0:
            return self.source.documents(indices)
        parts = [self.hard.problems(indices[:hard])]
        if hard < len(indices):
            parts.append(self.source.problems(indices[hard:]))
        stream = f"{self.source.stream}/{self.source.split}/texts"
        return self.source.solve(P.concatenate(parts), stream, indices)

    def _made(self, asked: list, rows: np.ndarray) -> QuestionBatch:
        text = asked[0][2][rows]
        width = max(int(text.max()), self.least)
        starts = np.asarray(asked[0][0].offsets)[rows]
        text_BP = np.full((len(rows), width), PAD, dtype=np.int64)
        for b, (start, n) in enumerate(zip(starts, text, strict=True)):
            text_BP[b, width - n :] = asked[0][0].tokens[start : start + n]
        # every continuation: its question, row in the batch, first token and length
        r_M = np.repeat(np.arange(len(asked)), len(rows))
        b_M = np.tile(np.arange(len(rows)), len(asked))
        begin_M = np.concatenate([np.asarray(d.offsets)[rows] + t[rows] for d, _, t in asked])
        end_M = np.concatenate([np.asarray(d.offsets)[rows + 1] for d, _, t in asked])
        asks_M = np.concatenate([np.asarray(d.prompt)[rows] - t[rows] for d, _, t in asked])  # with `<solution>`
        length_M = end_M - begin_M - 1  # the last token is nobody's context
        order = np.argsort(length_M, kind="stable")
        groups, entries, at, floor = [], [], 0, 0.0
        for part in np.array_split(order, min(self.config.groups, len(order))):
            q = int(length_M[part].max())
            tokens_MQ = np.full((len(part), q), PAD, dtype=np.int64)
            for m, i in enumerate(part):
                d = asked[r_M[i]][0]
                tokens_MQ[m, : length_M[i]] = d.tokens[begin_M[i] : end_M[i] - 1]
            responses = length_M[part] - asks_M[part] + 1
            at_N = spans(np.arange(len(part)) * q + asks_M[part] - 1, responses)
            groups.append(Group(*(torch.from_numpy(np.asarray(a)) for a in (tokens_MQ, b_M[part], at_N))))
            for i, n in zip(part, responses, strict=True):
                documents, law, _ = asked[r_M[i]]
                row, end = rows[b_M[i]], end_M[i]
                floor -= float(documents.logp[end - n : end].sum()) if law is None else 0.0
                entries.append(_entries(documents, law, row, end, n, at))
                at += n
        n_E, id_E, p_E = (np.concatenate(column) for column in zip(*entries, strict=True))
        if self.oracle is not None:
            floor = -float((p_E * np.log(p_E)).sum())
        whole_M = length_M + 1 + text[b_M]
        return QuestionBatch(
            Branches(torch.from_numpy(text_BP), torch.from_numpy(text.astype(np.int64)), groups),
            torch.from_numpy(n_E), torch.from_numpy(id_E), torch.from_numpy(p_E.astype(np.float32)),
            int(at), float(floor / at), int(text.sum() + (length_M + 1).sum()),
            torch.from_numpy(text), torch.from_numpy(whole_M), torch.from_numpy(text[b_M]),
        )  # fmt: skip


def text_lengths(documents: Documents) -> np.ndarray:
    """Tokens of every document before its question."""
    asks = np.flatnonzero((documents.segment == QUESTION) & np.r_[True, documents.segment[:-1] != QUESTION])
    return asks - np.asarray(documents.offsets)[:-1]


def _entries(
    documents: Documents, law: Law | None, row: int, end: int, n: int, at: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, tokens and probabilities of the last n tokens of a document, whose targets are at, at + 1, ..."""
    if law is None:
        return np.arange(at, at + n), documents.tokens[end - n : end].astype(np.int64), np.ones(n)
    first = law.rows[row]
    inside = slice(law.starts[first], law.starts[first + n])
    counts = np.diff(law.starts[first : first + n + 1])
    return np.repeat(np.arange(at, at + n), counts), law.ids[inside].astype(np.int64), law.p[inside]


class _LawLoss(Function):
    @staticmethod
    def forward(ctx, logits_NV: Tensor, n_E: Tensor, id_E: Tensor, p_E: Tensor) -> Tensor:
        logp_NV = torch.log_softmax(logits_NV, -1)
        loss = -(logp_NV[n_E, id_E] * p_E).sum()
        ctx.save_for_backward(logp_NV.exp_(), n_E, id_E, p_E)
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        soft_NV, n_E, id_E, p_E = ctx.saved_tensors
        out = soft_NV * grad
        return out.index_put_((n_E, id_E), -p_E * grad, accumulate=True), None, None, None


def law_loss(logits_NV: Tensor, n_E: Tensor, id_E: Tensor, p_E: Tensor) -> Tensor:
    """Cross-entropy to sparse laws, summed; the probabilities of each target sum to one."""
    return _LawLoss.apply(logits_NV, n_E, id_E, p_E)
