"""The published numbers beside ours: complete columns, the right one for a world, a line for each task."""

import pytest

from probes import published
from probes.labels import TASKS
from synth.spec import preset


def test_every_task_has_a_number_for_every_column():
    assert set(published.VPROBES) == set(TASKS) and len(published.COLUMNS) == 13
    for majority, *pretrained in published.VPROBES.values():
        for numbers in (majority, *pretrained):
            assert len(numbers) == 13 and all(40 < number <= 100 for number in numbers)
        assert all(a >= m for m, a in zip(majority, pretrained[0], strict=True))
    assert all(len(numbers) == 9 for numbers in published.FIRST_WRONG.values()) and len(published.UNNEEDED) == 11


@pytest.mark.parametrize(
    ("spec", "column"),
    [
        (preset("med"), ("med", "<=15")),
        (preset("med", ops=22, exact_ops=True), ("med", "22")),
        (preset("hard", ops=28, exact_ops=True), ("hard", "28")),
        (preset("hard", ops=28, exact_ops=True, reask=True), None),
        (preset("med", ops=22), None),
        (preset("tiny"), None),
    ],
)
def test_the_column_is_that_of_the_world(spec, column):
    assert published.column_of(spec) == column


def test_a_line_for_each_task_and_why_they_differ():
    margin = {"accuracy": 0.5, "controls": {"majority": {"accuracy": 0.4}}}
    summary = {"margins": {"nece": margin, "dep": margin}, "parameters": 1234}
    lines = list(published.beside(summary, preset("hard", order="qp")))
    assert "hard <=21 qp" in lines[0] and "nearest" not in lines[0]
    assert lines[1].split() == ["nece", "50.0%", "40.0%", "|", "99.8%", "70.3%"]
    assert "1,234 weights" in lines[-1] and "up to 21 operations" in lines[-1]
    assert "nearest" in next(published.beside(summary, preset("tiny")))
    assert list(published.beside({"files": []}, preset("tiny"))) == []
