"""`Documents`: problems and solutions as tokens, with the truth about every token.

    [sections] <problem> sentences question <solution> steps <answer> 4 <eos>

Everything that reads documents (models, probes, shards) takes this one class; `synth.dataset.Source` makes them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synth.problem.arrays import Integers, Problems, concatenate
from synth.world.vocabulary import PAD

# the parts of a document, numbered as in `Documents.segment`
CONTEXT_SEGMENT, SENTENCE_SEGMENT, QUESTION_SEGMENT, SOLUTION_SEGMENT, ANSWER_SEGMENT = range(5)


class Documents(NamedTuple):
    """N documents end to end, T tokens in all; document i is columns offsets[i]:offsets[i+1]."""

    tokens: np.ndarray  # int32[T]
    segment: np.ndarray  # int32[T] which part of the document: one of the segments above
    step: np.ndarray  # int32[T] sentence or step number inside its segment, -1 none
    param: np.ndarray  # int32[T] slot the sentence or step is about, -1 none
    mistake: np.ndarray  # int32[T] 1 on the tokens of an inserted mistake
    loss: np.ndarray  # int32[T] 1 where the token is a target: the response, less masked mistakes
    logp: np.ndarray  # float64[T] generator's log-probability of a response token (nan where it has no closed form)
    offsets: np.ndarray  # int64[N+1]
    prompt: np.ndarray  # int32[N] length of the prompt, context and `<solution>` included
    problems: Problems

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.prompt)

    def take(self, rows: Integers) -> "Documents":
        """The documents at some rows, in that order."""
        sizes = np.diff(self.offsets)[rows]
        offsets = np.append(0, np.cumsum(sizes))
        columns = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], sizes)
        tracks = (getattr(self, track)[columns] for track in TRACKS)
        prompt, problems = self.prompt[rows], self.problems.take(rows)
        return Documents(*tracks, offsets=offsets, prompt=prompt, problems=problems)

    def response(self, i: int) -> np.ndarray:
        """Tokens of document i after `<solution>`."""
        return self.tokens[self.offsets[i] + self.prompt[i] : self.offsets[i + 1]]

    def prompt_tokens(self, i: int) -> np.ndarray:
        """Tokens of document i up to and including `<solution>`."""
        return self.tokens[self.offsets[i] : self.offsets[i] + self.prompt[i]]


TRACKS = Documents._fields[:7]  # the arrays of one entry for each token


def join(parts: list[Documents]) -> Documents:
    """Several batches of documents as one."""
    offsets = np.append(0, np.cumsum(np.concatenate([np.diff(p.offsets) for p in parts])))
    tracks = {track: np.concatenate([getattr(p, track) for p in parts]) for track in (*TRACKS, "prompt")}
    return Documents(**tracks, offsets=offsets, problems=concatenate([p.problems for p in parts]))


def pad_rows(rows: Sequence[Integers], fill: int = PAD, width: int = 1) -> np.ndarray:
    """Token rows right-padded with `fill`, int64[N, R]; R is the longest row, or `width` if that is more."""
    tokens_NR = np.full((len(rows), max([width, *map(len, rows)])), fill, dtype=np.int64)
    for row_R, row in zip(tokens_NR, rows, strict=True):
        row_R[: len(row)] = row
    return tokens_NR
