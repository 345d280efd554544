"""The recipe `capability` at the scale `smoke`, two students by one way: from the world to a claim about its table."""

import json
from pathlib import Path

import pytest

from train.report.verdicts import judge
from train.runs.expectation import Cell, Expectation
from train.runs.results import load

pytestmark = pytest.mark.timeout(600)


def test_a_claim_is_read_off_the_table_that_the_stage_has_left(command, tmp_path):
    words = ["recipe=capability", "scale=smoke", "students=[seeing,without]", "methods=[opd]", f"out={tmp_path}"]
    fewer = "recipe.stages.gain.set.capability."
    words += [f"{fewer}problems=60", f"{fewer}samples=4", f"{fewer}k=[1,4]"]
    done = command("train.recipe", *words, timeout=500)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "capability-smoke"
    student = next(folder.glob("student-without-????????/config.yaml")).read_text()
    assert "withheld: products" in student and (folder / "report.html").is_file()
    rows = json.loads(next(folder.glob("gain-seeing-opd-????????/summary.json")).read_text())["tables"]["accuracy"]
    assert {"all", "1", "2"} <= {row["ops"] for row in rows} and {"pass@4"} <= {row["measure"] for row in rows}
    place = Cell("accuracy", "gain", {"ops": "all", "measure": "pass@4"})
    verdict = judge(load([Path(folder)]), Expectation("x", "cell", "gain-seeing-opd", -1.0, cell=place))
    assert verdict.word in ("supported", "not decided") and verdict.measured.pooled.n == 60
