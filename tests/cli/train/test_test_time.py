"""Self-consistency and cascades: the vote by hand, and the command on models of the zoo."""

import json

import numpy as np

from tests.helpers.commands import command
from train.opd.test_time import vote


def test_the_vote_is_the_most_frequent_answer_first_come_first_served():
    answers = np.array([[3, 5, 5, -1], [-1, -1, 4, -1], [7, 8, 8, 7], [-1, -1, -1, -1]])
    right, agree = vote(answers, answers == np.array([5, 4, 8, 1])[:, None])
    assert right.tolist() == [True, True, False, False] and agree.tolist() == [2, 1, 2, 0]


def test_a_cascade_costs_what_it_asks_of_the_teacher(tmp_path):
    words = ("student=zoo/tiny-student-0", "teacher=zoo/tiny-teacher-0", "problems=8", "samples=2")
    done = command("train.opd.test_time", *words, f"out.folder={tmp_path / 'run'}", timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["strategies"]
    found = {row["strategy"]: row for row in rows}
    assert list(found) == ["teacher, greedy", "student, greedy", "vote 2", "cascade 2"]
    assert found["student, greedy"]["flops"] < found["vote 2"]["flops"] <= found["cascade 2"]["flops"]
    most = found["vote 2"]["flops"] + found["teacher, greedy"]["flops"]
    assert found["cascade 2"]["flops"] <= most and "cascade 2" in done.stdout
    again = command("train.opd.test_time", *words, f"out.folder={tmp_path / 'run'}", timeout=300)
    assert again.stdout == done.stdout
