"""What a probe is asked: of a text that breaks off, something about one parameter. Tables of queries and their labels.

    nece    is A needed for the question?              text: the problem and its question      not needed | needed
    value   what is the value of A?                    text: + 0 or more solution steps        0 .. modulus-1 | unknown

A is uniform over the parameters of the problem, without replacement; a text of `value` breaks off at the start of the
solution or at the end of any of its steps, each as likely (Part 2.1, section 4). Ours: `nece` asks only about those
whose name alone does not tell (`sentences_but_the_query`), and the queries of one problem share one text, so that it is
read once. Labels come from the problem's arrays and the document's truth, never from text.

    table = draw(TASKS["nece"], source, range(100), most=10, seed=0)

Legend: Q queries, N documents, T tokens of all documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from synth.dataset import Documents, Source
from synth.document import STEP_SEGMENT
from synth.hashing import key
from synth.problem import INSTANCES, SLOTS

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Queries:
    """Q queries about the problems of `documents`. Queries of one document stand together and share its cut."""

    documents: Documents
    row: np.ndarray  # int64[Q] document
    cut: np.ndarray  # int64[Q] tokens of the document that are read
    slot: np.ndarray  # int64[Q] the parameter asked about
    name: np.ndarray  # int64[Q, 2] its name tokens: owner, thing
    label: np.ndarray  # int64[Q]

    def __len__(self) -> int:
        return len(self.row)

    def text(self, q: int) -> np.ndarray:
        """The tokens that query q reads before the name."""
        start = self.documents.offsets[self.row[q]]
        return self.documents.tokens[start : start + self.cut[q]]


@dataclass(frozen=True)
class Task:
    """One kind of question.

    ends: where texts may break off, arrays (document, tokens read). label: labels of queries. classes: how many labels
    for a modulus. groups: names of the two groups results are split by; group: 0 or 1 for each label. asked: which
    parameters may be asked about.
    """

    name: str
    ends: Callable[[Documents], tuple[np.ndarray, np.ndarray]]
    label: Callable[[Queries, int], np.ndarray]
    classes: Callable[[int], int]
    groups: tuple[str, str]
    group: Callable[[np.ndarray, int], np.ndarray]
    asked: Callable[[Documents], np.ndarray]


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
    cuts = np.array([ends[rng.integers(first[i], first[i + 1])] for i, rng in enumerate(rngs)])
    row, slot = np.nonzero(task.asked(documents))
    name = documents.problems.slot_names()[row, slot].astype(np.int64)
    table = Queries(documents, row, cuts[row], slot, name, np.zeros_like(row))
    label = task.label(table, source.world.modulus)
    group = task.group(label, task.classes(source.world.modulus))
    bounds = np.searchsorted(row, np.arange(len(documents) + 1))
    chosen = [
        start + _choose(rng, group[start:stop], most, balance)
        for rng, start, stop in zip(rngs, bounds, bounds[1:], strict=False)
    ]
    q = np.concatenate(chosen)
    if len(q) == 0:
        raise ValueError(
            f"probe task {task.name}: no query on {len(documents)} problems; accepted: more problems, or balance=false"
        )
    return Queries(documents, row[q], table.cut[q], slot[q], name[q], label[q])


def _choose(rng: np.random.Generator, group: np.ndarray, most: int, balance: bool) -> np.ndarray:
    """Which parameters of one problem are asked about; `group` has 0 or 1 for each."""
    order = rng.permutation(len(group))
    if not balance:
        return order[:most]
    each = min(int(group.sum()), int((group == 0).sum()), most // 2)
    return np.concatenate([order[group[order] == g][:each] for g in (0, 1)])


def every_parameter(documents: Documents) -> np.ndarray:
    """bool[N, 72]: all parameters of the problem."""
    return documents.problems.exists > 0


def sentences_but_the_query(documents: Documents) -> np.ndarray:
    """bool[N, 72]: the parameters that have a sentence of their own, without the one in the question.

    Both restrictions take away what a name alone would tell: the query is needed by definition and, in a small world,
    is most of what is needed; an abstract parameter is almost never needed unless it is the query.
    """
    asked = every_parameter(documents)
    asked[:, INSTANCES:] = False
    asked[np.arange(len(asked)), documents.problems.query] = False
    return asked


def after_question(documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """The one place where the problem is complete and its solution has not begun (in both orders of the question)."""
    return np.arange(len(documents)), documents.prompt.astype(np.int64)


def between_steps(documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """The start of the solution and the end of each of its steps, inserted mistakes included."""
    inside_T = documents.segment == STEP_SEGMENT
    last_T = inside_T & (np.append(documents.segment[1:], -1) != STEP_SEGMENT)
    last_T |= inside_T & (np.append(documents.step[1:], -1) != documents.step)
    row_T = _row(documents)
    rows = np.concatenate([np.arange(len(documents)), row_T[last_T]])
    ends = np.concatenate([documents.prompt, np.flatnonzero(last_T) + 1 - documents.offsets[row_T[last_T]]])
    order = np.lexsort((ends, rows))
    return rows[order], ends[order].astype(np.int64)


def defined_at(documents: Documents) -> np.ndarray:
    """Tokens to read until each parameter is defined, int64[N, 72]; `NEVER` where the solution does not define it."""
    at_T = np.flatnonzero((documents.segment == STEP_SEGMENT) & (documents.mistake == 0) & (documents.param >= 0))
    row_T = _row(documents)[at_T]
    seen = np.zeros((len(documents), SLOTS), dtype=np.int64)
    np.maximum.at(seen, (row_T, documents.param[at_T]), at_T + 1 - documents.offsets[row_T])
    return np.where(seen > 0, seen, NEVER)


def _row(documents: Documents) -> np.ndarray:
    return np.repeat(np.arange(len(documents)), np.diff(documents.offsets))


def _needed(queries: Queries, modulus: int) -> np.ndarray:
    return (queries.documents.problems.needed[queries.row, queries.slot] > 0).astype(np.int64)


def _value(queries: Queries, modulus: int) -> np.ndarray:
    known = defined_at(queries.documents)[queries.row, queries.slot] <= queries.cut
    return np.where(known, queries.documents.problems.value[queries.row, queries.slot], modulus).astype(np.int64)


TASKS = {
    task.name: task
    for task in (
        Task(
            "nece",
            after_question,
            _needed,
            lambda modulus: 2,
            ("not needed", "needed"),
            lambda y, classes: y,
            sentences_but_the_query,
        ),
        Task(
            "value",
            between_steps,
            _value,
            lambda modulus: modulus + 1,
            ("known", "unknown"),
            lambda y, classes: (y == classes - 1).astype(np.int64),
            every_parameter,
        ),
    )
}


def check_tasks(setting: str, tasks: Sequence[str]) -> None:
    """Raises ValueError on a task that does not exist."""
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"{setting}={task}: accepted: {', '.join(TASKS)}")
