"""The six tasks of Part 2.1 (2407.20311), section 4: what is asked about a parameter A, and where the text breaks off.

    nece       is A needed for the question?            after the problem and its question
    dep        does A rest on B, directly or not?       after the sentences, before a question that follows them
    known      has A been computed?                     from here on: at the start of the solution (`<solution>` is
    value      what is the value of A?                  read) or at the end of any of its steps
    can_next   are all that A directly rests on computed, A itself computed or not?
    nece_next  is A needed, not yet computed, and all that it directly rests on is?

Labels come from the problem's arrays and the document's truth, never from text. The papers do not say whether a
parameter that is computed already counts for can_next; that it does fits their majority rates (57% on med; ours 59%
with those, 75% without). A parameter that a missing premise leaves without a value is not asked about. The value of
one that a slip has written wrongly is still the problem's.

Legend: Q queries, N documents (or problems), T tokens of all documents, X parameter slots.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np

from probes.queries.table import Queries, Task, every_parameter, rows_of_tokens
from synth.documents import SENTENCE_SEGMENT, SOLUTION_SEGMENT, Documents
from synth.problem.arrays import INSTANCES, MAX_TERMS, SLOTS, Problems
from synth.ranges import OneOf

ALL, GIVEN = "all", "given"  # parameters that nece asks about


def sentences_but_the_query(documents: Documents) -> np.ndarray:
    """bool[N, X]: the parameters that have a sentence of their own, without the one in the question. Both restrictions
    take away what a name alone would tell: the query is needed by definition and, in a small world, is most of what is
    needed; an abstract parameter is almost never needed unless it is the query."""
    asked = every_parameter(documents)
    asked[:, INSTANCES:] = False
    asked[np.arange(len(asked)), documents.problems.query] = False
    return asked


def before_question(documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """After the last sentence: before the question, or before `<solution>` where the question comes first."""
    at_T = np.flatnonzero(documents.segment == SENTENCE_SEGMENT)
    end = np.zeros(len(documents), dtype=np.int64)
    row_T = rows_of_tokens(documents)[at_T]
    np.maximum.at(end, row_T, at_T + 1 - documents.offsets[row_T])
    return np.arange(len(documents)), end


def after_question(documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """The one place where the problem is complete, before `<solution>` (in both orders of the question)."""
    return np.arange(len(documents)), documents.prompt.astype(np.int64) - 1


def between_steps(documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """The start of the solution and the end of each of its steps, inserted mistakes included."""
    inside_T = documents.segment == SOLUTION_SEGMENT
    last_T = inside_T & (np.append(documents.segment[1:], -1) != SOLUTION_SEGMENT)
    last_T |= inside_T & (np.append(documents.step[1:], -1) != documents.step)
    row_T = rows_of_tokens(documents)
    rows = np.concatenate([np.arange(len(documents)), row_T[last_T]])
    ends = np.concatenate([documents.prompt, np.flatnonzero(last_T) + 1 - documents.offsets[row_T[last_T]]])
    order = np.lexsort((ends, rows))
    return rows[order], ends[order].astype(np.int64)


def _needed(queries: Queries, known_NX: np.ndarray, modulus: int) -> np.ndarray:
    return queries.documents.problems.needed[queries.row, queries.slot] > 0


def _depends(queries: Queries, known_NX: np.ndarray, modulus: int) -> np.ndarray:
    rows, place_Q = np.unique(queries.row, return_inverse=True)
    return ancestors(queries.documents.problems.take(rows))[place_Q, queries.slot, queries.other]


def _known(queries: Queries, known_NX: np.ndarray, modulus: int) -> np.ndarray:
    return known_NX[queries.row, queries.slot]


def _value(queries: Queries, known_NX: np.ndarray, modulus: int) -> np.ndarray:
    value = queries.documents.problems.value[queries.row, queries.slot]
    return np.where(_known(queries, known_NX, modulus), value, modulus)


def _can_next(queries: Queries, known_NX: np.ndarray, modulus: int) -> np.ndarray:
    problems = queries.documents.problems
    slots_QF = dependencies(problems.take(queries.row))[np.arange(len(queries)), queries.slot]
    return np.all((slots_QF < 0) | known_NX[queries.row[:, None], slots_QF], axis=1)


def _nece_next(queries: Queries, known_NX: np.ndarray, modulus: int) -> np.ndarray:
    coming = _can_next(queries, known_NX, modulus) & ~_known(queries, known_NX, modulus)
    return coming & _needed(queries, known_NX, modulus)


def dependencies(problems: Problems) -> np.ndarray:
    """Slots that each parameter directly rests on, int64[N, X, 8], filled with -1."""
    inside_NXF = np.arange(MAX_TERMS)[:, None] < problems.n_terms[..., None, None]
    return np.where(inside_NXF, problems.terms, -1).reshape(*problems.n_terms.shape, -1)


def direct(problems: Problems) -> np.ndarray:
    """bool[N, X, X]: the first directly rests on the second."""
    slots_NXF = dependencies(problems)
    result_NXX = np.zeros((len(slots_NXF), SLOTS, SLOTS + 1), dtype=bool)  # the last column takes the -1
    np.put_along_axis(result_NXX, slots_NXF, True, axis=2)
    return result_NXX[..., :SLOTS]


def ancestors(problems: Problems) -> np.ndarray:
    """bool[N, X, X]: the first rests on the second, directly or through others."""
    reached_NXX = direct(problems).astype(np.float32)
    length = 1  # of the longest path that is followed
    while length < SLOTS:
        reached_NXX = ((reached_NXX + reached_NXX @ reached_NXX) > 0).astype(np.float32)
        length *= 2
    return reached_NXX > 0


def distance(problems: Problems) -> np.ndarray:
    """Steps of dependency from the query to each parameter, along the shortest way; -1 for what it does not rest on.
    int64[N, X]; 0 for the query itself."""
    direct_NXX, n = direct(problems), np.arange(len(problems.value))
    result_NX = np.full((len(n), SLOTS), -1)
    front_NX = np.zeros((len(n), SLOTS), dtype=bool)
    front_NX[n, problems.query] = True
    for steps in range(SLOTS):
        result_NX[front_NX] = steps
        front_NX = (front_NX[:, :, None] & direct_NXX).any(1) & (result_NX < 0)
        if not front_NX.any():
            break
    return result_NX


TASKS = {
    task.name: task
    for task in (
        Task("nece", after_question, _needed, ("not needed", "needed")),
        Task("dep", before_question, _depends, ("independent", "depends"), pairs=True),
        Task("known", between_steps, _known, ("unknown", "known")),
        Task("value", between_steps, _value, ("known", "unknown"), values=True),
        Task("can_next", between_steps, _can_next, ("cannot", "can")),
        Task("nece_next", between_steps, _nece_next, ("no", "yes")),
    )
}
TaskNames = tuple[Annotated[str, OneOf(*TASKS)], ...]  # in settings


def task_of(name: str, nece: str = ALL) -> Task:
    """The task of this name; `nece` is which parameters nece asks about, `all` (the papers) or `given`. given:
    `sentences_but_the_query`, those whose name alone does not tell in a small world."""
    if name == "nece" and nece == GIVEN:
        return replace(TASKS[name], asked=sentences_but_the_query)
    return TASKS[name]
