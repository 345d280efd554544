"""Batches with several questions about every text, each text read once, and the oracle's distribution as target.

Batch k is a pure function of (source, settings, k). A chunk of `bucket` batches is sorted by the length of the texts;
inside a batch the continuations (question, solution) are sorted by length and cut into `groups` of equal number, so
little is padded. Targets are the response's tokens: the sampled token, or the distribution it was drawn from.

Legend: B texts, K questions about each, M continuations of a group, N targets, E entries of their distributions.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from models.branches import Branches, Group
from synth.dataset import Source
from synth.documents import QUESTION_SEGMENT, Documents
from synth.oracle.next_token import NextTokenProbs, Oracle
from synth.problem.arrays import concatenate
from synth.questions import other_questions
from synth.ranges import Positive, Share, settings
from synth.world.vocabulary import PAD
from train.data.batches import in_batches, spans


@settings
class QuestionsConfig:
    """count: questions about every text; the first is the problem's own. hardest_of: of so many draws of a further
    question the one with the most operations. exact: share of the texts that are drawn with exactly the most operations
    of the data. target: the oracle's distribution of the next token, or the `sampled` token. groups: into how many
    parts of equal number the continuations of a batch are cut. tries: draws before a question is given up."""

    count: Positive = 1
    hardest_of: Positive = 1
    exact: Share = 0.0
    target: Literal["oracle", "sampled"] = "oracle"
    groups: Positive = 2
    tries: Positive = 12


@dataclass(frozen=True)
class QuestionBatch:
    """entry_n, entry_id, entry_p [E]: for each entry of the targets' distributions its target, token and probability.
    floor: the loss of a model that knows the distribution, nats a target. whole_M, continued_M: tokens of the texts
    with each continuation, and of the text that each continues."""

    branches: Branches
    entry_n: Tensor
    entry_id: Tensor
    entry_p: Tensor
    targets: int
    floor: float
    tokens: int
    whole_M: Tensor
    continued_M: Tensor


class _Asked(NamedTuple):
    """One question about each problem of a chunk, and the tokens before it."""

    documents: Documents
    probs: NextTokenProbs | None
    text: np.ndarray


class QuestionBatches:
    """The batches of a source by step, `documents` texts each. least: columns that a text has at least."""

    def __init__(self, source: Source, documents: int, bucket: int, config: QuestionsConfig, least: int = 0):
        self.source, self.size, self.bucket, self.config, self.least = source, documents, bucket, config, least
        self.hard = Source(replace(source.spec, exact_ops=True), source.seed, source.split, f"{source.stream}/exact")
        self.oracle = Oracle(source.spec) if config.target == "oracle" else None
        self._chunk: tuple[int, list[_Asked], np.ndarray] | None = None  # the one at hand
        if config.count > 1:
            other_questions(source, source.problems([0]), [0], 0)  # refuses what it cannot ask, before a run is begun

    def batch(self, k: int) -> QuestionBatch:
        """Batch number k."""
        number, place = divmod(k, self.bucket)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = (number, *self._load(number))
        return self._collate(self._chunk[1], self._chunk[2][place])

    def _load(self, chunk: int) -> tuple[list[_Asked], np.ndarray]:
        """All questions about the problems of a chunk, and the problems of each batch, [bucket, B]."""
        n, c = self.bucket * self.size, self.config
        indices = range(chunk * n, (chunk + 1) * n)
        asked = [self._texts(indices, round(c.exact * n))]
        if c.count > 1:
            others = other_questions(self.source, asked[0].problems, indices, c.count - 1, c.tries, c.hardest_of)
            stream = f"{self.source.stream}/{self.source.split}/answer"
            asked += [self.source.solve(problems, f"{stream} {r}", indices) for r, problems in enumerate(others)]
        answer = [self.oracle.documents(documents) if self.oracle else None for documents in asked]
        rows = [_Asked(d, p, text_lengths(d)) for d, p in zip(asked, answer, strict=True)]
        return rows, in_batches(rows[0].text, self.bucket, self.source.seed, chunk)

    def _texts(self, indices: range, hard: int) -> Documents:
        """Documents of these indices with their own questions, the first `hard` of them of the most operations."""
        if hard == 0:
            return self.source.documents(indices)
        parts = [self.hard.problems(indices[:hard])]
        if hard < len(indices):
            parts.append(self.source.problems(indices[hard:]))
        return self.source.solve(concatenate(parts), f"{self.source.stream}/{self.source.split}/texts", indices)

    def _collate(self, asked: list[_Asked], rows: np.ndarray) -> QuestionBatch:
        text, n = asked[0].text[rows], len(rows)
        width = max(int(text.max()), self.least)
        text_BP = np.full((n, width), PAD, dtype=np.int64)
        for b, (start, length) in enumerate(zip(asked[0].documents.offsets[rows], text, strict=True)):
            text_BP[b, width - length :] = asked[0].documents.tokens[start : start + length]
        # every continuation: which question, row in the batch, first and last token, tokens up to `<solution>`
        which_M, b_M = np.repeat(np.arange(len(asked)), n), np.tile(np.arange(n), len(asked))
        begin_M = np.concatenate([a.documents.offsets[rows] + a.text[rows] for a in asked])
        end_M = np.concatenate([a.documents.offsets[rows + 1] for a in asked])
        question_M = np.concatenate([a.documents.prompt[rows] - a.text[rows] for a in asked])
        length_M = end_M - begin_M - 1  # nothing is read after the last token
        groups, entries, at, floor = [], [], 0, 0.0
        for part in np.array_split(np.argsort(length_M, kind="stable"), min(self.config.groups, len(length_M))):
            q = int(length_M[part].max())
            tokens_MQ = np.full((len(part), q), PAD, dtype=np.int64)
            responses = length_M[part] - question_M[part] + 1
            for m, (i, response) in enumerate(zip(part, responses, strict=True)):
                documents, probs, _ = asked[which_M[i]]
                tokens_MQ[m, : length_M[i]] = documents.tokens[begin_M[i] : end_M[i] - 1]
                if probs is None:
                    floor -= float(documents.logp[end_M[i] - response : end_M[i]].sum())
                entries.append(_entries(documents, probs, int(rows[b_M[i]]), int(end_M[i]), response, at))
                at += response
            at_N = spans(np.arange(len(part)) * q + question_M[part] - 1, responses)
            groups.append(Group(*(torch.from_numpy(np.asarray(a)) for a in (tokens_MQ, b_M[part], at_N))))
        n_E, id_E, p_E = (np.concatenate(column) for column in zip(*entries, strict=True))
        if self.oracle is not None:
            floor = -float((p_E * np.log(p_E)).sum())
        return QuestionBatch(
            Branches(torch.from_numpy(text_BP), torch.from_numpy(text), groups),
            torch.from_numpy(n_E), torch.from_numpy(id_E), torch.from_numpy(p_E.astype(np.float32)),
            int(at), float(floor / at), int(text.sum() + (length_M + 1).sum()),
            torch.from_numpy(length_M + 1 + text[b_M]), torch.from_numpy(text[b_M]),
        )  # fmt: skip


def text_lengths(documents: Documents) -> np.ndarray:
    """Tokens of every document before its question, int64[N]."""
    asks = (documents.segment == QUESTION_SEGMENT) & np.r_[True, documents.segment[:-1] != QUESTION_SEGMENT]
    return np.flatnonzero(asks) - documents.offsets[:-1]


def _entries(
    documents: Documents, probs: NextTokenProbs | None, row: int, end: int, n: int, at: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, tokens and probabilities of the last n tokens of a document, whose targets are at, at + 1, ..."""
    if probs is None:
        return np.arange(at, at + n), documents.tokens[end - n : end].astype(np.int64), np.ones(n)
    first = probs.rows[row]
    inside = slice(probs.starts[first], probs.starts[first + n])
    counts = np.diff(probs.starts[first : first + n + 1])
    return np.repeat(np.arange(at, at + n), counts), probs.ids[inside].astype(np.int64), probs.probs[inside]


class _SparseCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, n_E: Tensor, id_E: Tensor, p_E: Tensor) -> Tensor:
        logp_NV = torch.log_softmax(logits_NV, -1)
        loss = -(logp_NV[n_E, id_E] * p_E).sum()
        ctx.save_for_backward(logp_NV.exp_(), n_E, id_E, p_E)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        softmax_NV, n_E, id_E, p_E = ctx.saved_tensors
        return (softmax_NV * grad).index_put_((n_E, id_E), -p_E * grad, accumulate=True), None, None, None


def sparse_cross_entropy(logits_NV: Tensor, n_E: Tensor, id_E: Tensor, p_E: Tensor) -> Tensor:
    """-sum_E p log softmax(logits)[n, id]; the probabilities of each target sum to one."""
    return _SparseCrossEntropy.apply(logits_NV, n_E, id_E, p_E)
