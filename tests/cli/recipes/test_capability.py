"""The recipe `capability` at the scale `smoke`, two students by one way: from the world to a claim about its table."""

import json

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
    assert "withheld: products" in student
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("Accuracy and capability, before and after: ") == 2, "one for each student"
    rows = json.loads(next(folder.glob("gain-seeing-opd-????????/summary.json")).read_text())["tables"]["accuracy"]
    assert {"all", "1", "2"} <= {row["ops"] for row in rows} and {"pass@4"} <= {row["measure"] for row in rows}
    (whole,) = (row for row in rows if (row["ops"], row["measure"]) == ("all", "pass@4"))
    parts = [row for row in rows if row["ops"].isdigit() and row["measure"] == "pass@4"]
    assert sum(row["gain"]["n"] for row in parts) == whole["gain"]["n"] == 60
    assert whole["gain"]["value"] == pytest.approx(whole["after"]["value"] - whole["before"]["value"])
    place = Cell("accuracy", "gain", {"ops": "all", "measure": "pass@4"})
    claims = (Expectation("x", "cell", "gain-seeing-opd", bar, cell=place) for bar in (-1.01, 1.01))
    low, high = (judge(load([folder]), claim) for claim in claims)  # no gain is beyond these bars
    assert (low.word, high.word) == ("supported", "contradicted")
    assert low.measured.pooled.n == 60 and low.measured.pooled.value == whole["gain"]["value"]
