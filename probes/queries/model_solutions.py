"""Solutions that a model wrote, and what may be asked at any of their steps.

    solutions = judge_solutions(documents, world, tokens_NR, length_N)
    steps = Steps.of(solutions, world)
    queries = steps.queries(steps.start)        # about the parameter that each step names, before the step

Legend: N solutions, R response tokens, M steps of all solutions, X parameter slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from probes.queries.labels import TASKS
from probes.queries.table import Queries
from synth.documents import Documents, pad_rows
from synth.judge.checker import MALFORMED, RETRY, UNKNOWN, Verdicts, check
from synth.problem.arrays import SLOTS
from synth.world.vocabulary import DEFINE, World


class Solutions(NamedTuple):
    """N responses to the prompts of `documents`, and the checker's verdicts on them."""

    documents: Documents
    tokens_NR: np.ndarray  # int64, padded
    length_N: np.ndarray  # int64
    verdicts: Verdicts

    def response(self, i: int) -> np.ndarray:
        """Tokens of response i."""
        return self.tokens_NR[i, : self.length_N[i]]


def judge_solutions(documents: Documents, world: World, tokens_NR: np.ndarray, length_N: np.ndarray) -> Solutions:
    """Responses with their verdicts."""
    return Solutions(documents, tokens_NR, length_N, check(documents.problems, world, tokens_NR, length_N))


def padded_solutions(documents: Documents, world: World, responses: Sequence[Sequence[int]], width: int) -> Solutions:
    """Responses of at most `width` tokens with their verdicts."""
    lengths = np.array([len(response) for response in responses])
    return judge_solutions(documents, world, pad_rows(responses, width=width), lengths)


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of all solutions, in order. `name` is -1 where a step names no parameter, `slot` where none has it."""

    solutions: Solutions
    row: np.ndarray  # int64[M] solution
    number: np.ndarray  # int64[M] step of its solution
    kind: np.ndarray  # int64[M] index into `synth.judge.checker.KINDS`
    slot: np.ndarray  # int64[M]
    start: np.ndarray  # int64[M] first token in the response
    stop: np.ndarray  # int64[M] after the last one
    name: np.ndarray  # int64[M, 2] name tokens: owner, thing
    known: np.ndarray  # bool[M, X] what the steps before have defined

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, solutions: Solutions, world: World) -> "Steps":
        """All steps."""
        v = solutions.verdicts
        row, number = np.nonzero(v.kind >= 0)
        kind, slot, start, stop = (array[row, number].astype(np.int64) for array in (v.kind, v.param, v.start, v.stop))
        at = start + (1 if world.phrases[DEFINE] >= 0 else 0)
        width = solutions.tokens_NR.shape[1]
        name = np.stack([solutions.tokens_NR[row, np.minimum(at + k, width - 1)] for k in (0, 1)], axis=-1)
        name[(name < world.first_name).any(1) | (at + 2 > stop)] = -1
        known = np.zeros((len(row), SLOTS), dtype=bool)
        binds = ~np.isin(kind, (MALFORMED, RETRY, UNKNOWN)) & (slot >= 0)
        for m in range(1, len(row)):
            if row[m] == row[m - 1]:
                known[m] = known[m - 1]
                if binds[m - 1]:
                    known[m, slot[m - 1]] = True
        return cls(solutions, row, number, kind, slot, start, stop, name, known)

    def take(self, which: np.ndarray) -> "Steps":
        """The steps `which` alone."""
        names = [f.name for f in fields(self) if f.name != "solutions"]
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    @property
    def first_mistake(self) -> np.ndarray:
        """bool[M]: the first mistake of a solution."""
        return self.solutions.verdicts.first_mistake[self.row] == self.number

    @property
    def before_mistake(self) -> np.ndarray:
        """bool[M]: no mistake comes before the step."""
        first_M = self.solutions.verdicts.first_mistake[self.row]
        return (first_M < 0) | (self.number <= first_M)

    def queries(self, read_M: np.ndarray) -> Queries:
        """A query about the parameter that each step names, after the prompt and `read_M` tokens of the response.
        Labels are nought. Every step must name a parameter."""
        documents = self.solutions.documents
        rows = np.unique(self.row)
        texts = [np.concatenate([documents.prompt_tokens(i), self.solutions.response(i)]) for i in rows]
        place_M = np.searchsorted(rows, self.row)
        begins = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
        changes = {
            "tokens": np.concatenate(texts),
            "offsets": begins[place_M],
            "prompt": documents.prompt[self.row],
            "problems": documents.problems.take(self.row),
        }
        one_each = Documents(**documents._asdict() | changes)
        cut, zero = documents.prompt[self.row] + read_M, np.zeros(len(self), dtype=np.int64)
        return Queries(one_each, np.arange(len(self)), cut, self.slot, zero - 1, self.name, zero)

    def labels(self, task: str, queries: Queries, modulus: int) -> np.ndarray:
        """The truth of a task about the parameter that each step names, before it is written; 0 for no parameter."""
        inside = replace(queries, slot=np.maximum(self.slot, 0))
        return np.where(self.slot < 0, 0, TASKS[task].label(inside, self.known, modulus)).astype(np.int64)
