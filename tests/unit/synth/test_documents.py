"""Taking rows of documents and problems, and joining batches, against one document at a time."""

import numpy as np
import pytest

from synth.dataset import Source
from synth.documents import TRACKS, join
from synth.spec import preset

SOURCE = Source(preset("tiny", retry_rate=0.3), 0, "all")
DOCUMENTS = SOURCE.documents(range(12))


def rows_of(documents) -> list[list[list]]:
    """Everything about each document, as plain lists."""
    return [
        [getattr(documents, track)[documents.offsets[i] : documents.offsets[i + 1]].tolist() for track in TRACKS]
        + [int(documents.prompt[i]), *(array[i].tolist() for array in documents.problems)]
        for i in range(len(documents))
    ]


ROWS = rows_of(DOCUMENTS)


@pytest.mark.parametrize("rows", [[3], [11, 0, 5, 5], list(range(12)), []])
def test_taking_rows_keeps_each_document_whole_and_in_the_order_asked(rows):
    taken = DOCUMENTS.take(np.array(rows, dtype=np.int64))
    assert rows_of(taken) == [ROWS[i] for i in rows]
    assert taken.offsets[0] == 0 and taken.offsets[-1] == len(taken.tokens)


def test_joining_batches_is_the_stream_made_at_once():
    parts = [SOURCE.documents(range(a, b)) for a, b in ((0, 1), (1, 7), (7, 12))]
    joined = join(parts)
    assert rows_of(joined) == ROWS
    assert all(a.dtype == b.dtype for a, b in zip(joined[:-1], DOCUMENTS[:-1], strict=True))


def test_problems_are_taken_by_number_slice_or_list_and_repeated_in_place():
    problems = DOCUMENTS.problems
    for which in (4, np.int64(4), slice(4, 5), [4], np.array([4])):
        assert [a.tolist() for a in problems.take(which)] == [a[4:5].tolist() for a in problems]
    twice = problems.take([1, 6]).repeat(2)
    assert [a.tolist() for a in twice] == [a[[1, 1, 6, 6]].tolist() for a in problems]
    mixed = problems.take([1, 6]).repeat(np.array([0, 3]))
    assert [a.tolist() for a in mixed] == [a[[6, 6, 6]].tolist() for a in problems]
