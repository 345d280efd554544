"""Tables of queries: of a text that breaks off, something is asked about one parameter, or about two.

A is uniform over the parameters that a task asks about, without replacement, and so are pairs of them; where a text may
break off, each place is as likely (Part 2.1, section 4). Ours: the queries of one problem share one text, so that it is
read once. `probes.queries.labels` holds the tasks.

    table = draw(TASKS["nece"], source, range(100), most=10, seed=0)

Legend: Q queries, N documents, X parameter slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from synth.dataset import Source
from synth.documents import SOLUTION_SEGMENT, Documents
from synth.kernel.rng import key
from synth.problem.arrays import SLOTS
from synth.world.vocabulary import BACK

NEVER = np.iinfo(np.int64).max
CHUNK = 256  # documents whose candidates are looked at together: a problem may have hundreds of pairs


@dataclass(frozen=True, eq=False)
class Queries:
    """Q queries about the problems of `documents`. Queries of one document stand together and share its cut."""

    documents: Documents
    row: np.ndarray  # int64[Q] document
    cut: np.ndarray  # int64[Q] tokens of the document that are read
    slot: np.ndarray  # int64[Q] the parameter asked about
    other: np.ndarray  # int64[Q] the second one where two are asked about, else -1
    name: np.ndarray  # int64[Q, 2] its name tokens: owner, thing; [Q, 4] with those of the second behind
    label: np.ndarray  # int64[Q]

    def __len__(self) -> int:
        return len(self.row)

    def text(self, q: int) -> np.ndarray:
        """The tokens that query q reads before the name."""
        start = self.documents.offsets[self.row[q]]
        return self.documents.tokens[start : start + self.cut[q]]

    def take(self, which: np.ndarray) -> "Queries":
        """The queries `which` alone."""
        return replace(self, **{name: getattr(self, name)[which] for name in ARRAYS})


ARRAYS = [f.name for f in fields(Queries) if f.name != "documents"]


def every_parameter(documents: Documents) -> np.ndarray:
    """bool[N, X]: all parameters of the problem that have a value."""
    return (documents.problems.exists > 0) & (documents.problems.value >= 0)


@dataclass(frozen=True)
class Task:
    """One kind of question.

    ends: where texts may break off, arrays (document, tokens read). label: labels of queries, from the table, what the
    texts have defined, bool[N, X], and the modulus. groups: names of the two groups results are split by. pairs:
    whether the question is about two different parameters. values: whether labels are values and, last, unknown; else
    they are the two groups. asked: which parameters may be asked about, bool[N, X].
    """

    name: str
    ends: Callable[[Documents], tuple[np.ndarray, np.ndarray]]
    label: Callable[[Queries, np.ndarray, int], np.ndarray]
    groups: tuple[str, str]
    pairs: bool = False
    values: bool = False
    asked: Callable[[Documents], np.ndarray] = every_parameter

    def classes(self, modulus: int) -> int:
        """How many labels there are."""
        return modulus + 1 if self.values else 2

    def group(self, label_Q: np.ndarray, classes: int) -> np.ndarray:
        """The group of each label, 0 or 1."""
        return (label_Q == classes - 1).astype(np.int64) if self.values else label_Q


def draw(task: Task, source: Source, indices: Sequence[int], most: int, seed: int, balance: bool = False) -> Queries:
    """The queries of a task on the problems `indices` of a source, at most `most` for each problem.

    With `balance` a problem is asked about as many parameters of one group of labels as of the other, so that half of
    the answers fall into each; a problem whose parameters are all of one group is then not asked about. The queries of
    a problem are a pure function of (seed, task, source, index), whatever the other indices are. Raises ValueError
    when no query is left.
    """
    documents = source.documents(indices)
    where, ends = task.ends(documents)
    first = np.searchsorted(where, np.arange(len(documents) + 1))
    stream = f"probe {task.name}/{source.stream}/{source.split}"
    rngs = [np.random.Generator(np.random.Philox(key(seed, stream, int(index)))) for index in indices]
    cut_N = np.array([ends[rng.integers(first[i], first[i + 1])] for i, rng in enumerate(rngs)])
    known_NX = defined_at(documents, int(source.world.phrases[BACK])) <= cut_N[:, None]
    asked_NX, modulus = task.asked(documents), source.world.modulus
    parts = []
    for start in range(0, len(documents), CHUNK):
        table = _candidates(task, documents, asked_NX, cut_N, slice(start, start + CHUNK))
        table = replace(table, label=task.label(table, known_NX, modulus).astype(np.int64))
        group_Q = task.group(table.label, task.classes(modulus))
        bounds = np.searchsorted(table.row, np.arange(start, min(start + CHUNK, len(documents)) + 1))
        chosen = [
            low + _choose(rng, group_Q[low:high], most, balance)
            for rng, low, high in zip(rngs[start : start + CHUNK], bounds, bounds[1:], strict=False)
        ]
        parts.append(table.take(np.concatenate(chosen)))
    if sum(map(len, parts)) == 0:
        raise ValueError(
            f"probe task {task.name}: no query on {len(documents)} problems; accepted: more problems, or balance=false"
        )
    return Queries(documents, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS})


class Split(NamedTuple):
    """Queries to fit on and to choose with, both of the train split, and queries of the test split to report."""

    fit: Queries
    validation: Queries
    test: Queries


def draw_split(
    task: Task, train: Source, test: Source, sizes: tuple[int, int, int], most: int, seed: int, balance: bool = False
) -> Split:
    """The queries on so many problems for each part, no problem of one part in another."""
    return Split(*(draw(task, source, i, most, seed, balance) for source, i in split_indices(train, test, sizes)))


def split_indices(train: Source, test: Source, sizes: tuple[int, int, int]) -> list[tuple[Source, range]]:
    """Source and problems of the parts of a split."""
    fit, validation, tested = sizes
    return [(train, range(fit)), (train, range(fit, fit + validation)), (test, range(tested))]


def _candidates(task: Task, documents: Documents, asked_NX: np.ndarray, cut_N: np.ndarray, part: slice) -> Queries:
    """All that may be asked about some documents, without labels."""
    asked_PX, names_NX2 = asked_NX[part], documents.problems.slot_names().astype(np.int64)
    if task.pairs:
        row, slot, other = np.nonzero(asked_PX[:, :, None] & asked_PX[:, None, :] & ~np.eye(SLOTS, dtype=bool))
    else:
        row, slot = np.nonzero(asked_PX)
        other = np.full_like(row, -1)
    row = row + part.start
    name = np.concatenate([names_NX2[row, which] for which in ((slot, other) if task.pairs else (slot,))], axis=1)
    return Queries(documents, row, cut_N[row], slot, other, name, np.zeros_like(row))


def _choose(rng: np.random.Generator, group: np.ndarray, most: int, balance: bool) -> np.ndarray:
    """Which parameters of one problem are asked about; `group` has 0 or 1 for each."""
    order = rng.permutation(len(group))
    if not balance:
        return order[:most]
    each = min(int(group.sum()), int((group == 0).sum()), most // 2)
    return np.concatenate([order[group[order] == g][:each] for g in (0, 1)])


def defined_at(documents: Documents, back: int) -> np.ndarray:
    """Tokens to read until each parameter is defined, int64[N, X]; `NEVER` where the solution does not define it. A
    step that ends with `back`, the token of BACK, defines nothing; one with a slip that nobody takes back does."""
    at_T = np.flatnonzero((documents.segment == SOLUTION_SEGMENT) & (documents.param >= 0))
    row_T = rows_of_tokens(documents)[at_T]
    step_T = row_T * (int(documents.step.max(initial=0)) + 1) + documents.step[at_T]
    stands_T = ~np.isin(step_T, np.unique(step_T[documents.tokens[at_T] == back]))
    at_T, row_T = at_T[stands_T], row_T[stands_T]
    seen = np.zeros((len(documents), SLOTS), dtype=np.int64)
    np.maximum.at(seen, (row_T, documents.param[at_T]), at_T + 1 - documents.offsets[row_T])
    return np.where(seen > 0, seen, NEVER)


def rows_of_tokens(documents: Documents) -> np.ndarray:
    """Which document each token belongs to, int64[T]."""
    return np.repeat(np.arange(len(documents)), np.diff(documents.offsets))
