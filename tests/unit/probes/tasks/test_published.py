"""The published numbers beside ours: complete columns, the right one for a world, a line for each task."""

import pytest

from probes.queries.labels import TASKS
from probes.tasks import published
from synth.spec import preset


def test_every_task_has_a_number_for_every_column():
    found = published.PUBLISHED
    assert set(found["vprobes"]) == set(TASKS) and len(published.COLUMNS) == 13
    for majority, *pretrained in (rows.values() for rows in found["vprobes"].values()):
        for numbers in (majority, *pretrained):
            assert len(numbers) == 13 and all(40 < number <= 100 for number in numbers)
        assert all(a >= m for m, a in zip(majority, pretrained[0], strict=True))
    assert all(len(numbers) == 9 for orders in found["first_wrong"].values() for numbers in orders.values())
    assert all(len(numbers) == 11 for numbers in found["unneeded"].values())


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
    lines = published.beside(summary, preset("hard", order="qp"))
    assert "hard <=21 qp" in lines[0] and "nearest" not in lines[0]
    assert lines[1].split() == ["nece", "50.0%", "40.0%", "|", "99.8%", "70.3%"]
    assert "1,234 weights" in lines[-1] and "up to 21 operations" in lines[-1]
    assert "nearest" in published.beside(summary, preset("tiny"))[0]
    assert published.beside({"files": []}, preset("tiny")) == []


def test_what_is_taken_back_stands_beside_the_nearest_rate():
    nothing = {"accuracy": None, "n": 0}
    row = {"name": "greedy", "full": {"rate": 0.5}, "back_right": 0.125}
    summary = {"solutions": [row], "first_wrong": {"can_next": nothing, "nece_next": nothing}, "unneeded": nothing}
    summary |= {"attention_rank": 0}
    lines = published.beside(summary | {"parameters": 7}, preset("med", retry_rate=0.3))
    assert "ours  50.0%   theirs  91.5%" in lines[1] and "ours none" in lines[2]
    assert "ours 0.12 at p = 0.3, theirs 0.00 to 0.22 at 0.2" in lines[-2]
    without = published.beside(summary | {"parameters": 7}, preset("med"))
    assert len(without) == len(lines) - 1 and not any("BACK" in line for line in without)


def test_the_order_of_a_problem_and_the_version_of_the_probe_choose_their_numbers():
    nothing = {"accuracy": None, "n": 0}
    rows = [{"name": name, "full": {"rate": 0.5}, "back_right": None} for name in ("greedy", "probe", "perfect")]
    summary = {"solutions": rows, "first_wrong": {"can_next": nothing, "nece_next": nothing}, "unneeded": nothing}
    for order, rank, can_next, unneeded, probe in (("pq", 0, 57.1, 17.1, 92.9), ("qp", 2, 59.2, 17.0, 92.5)):
        found = summary | {"parameters": 7, "attention_rank": rank}
        lines = "\n".join(published.beside(found, preset("med", order=order)))
        assert f"theirs {can_next} to" in lines and f"theirs {unneeded} to" in lines and f"theirs  {probe}%" in lines
