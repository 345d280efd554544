"""The commands of the lab's end: recipe, report, compare. The whole path at the scale `smoke`, killed once on its way.

Try: `python -m pytest tests/cli/recipes/test_quickstart.py`.
"""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.timeout(900)  # half a minute on two free cores, but cores are not always free

STAGES = ["teacher", "student", "opd", "kd", "more", "probe"]
STAGES += [f"eval-{stage}" for stage in ("teacher", "student", "opd", "kd", "more")]


@pytest.fixture(scope="module")
def walked(tmp_path_factory, root):
    """A smoke recipe that was killed after its first stage had a checkpoint, and then run to the end."""
    out = tmp_path_factory.mktemp("walk") / "runs"
    words = ["recipe=quickstart", "scale=smoke", f"out={out}"]
    call = [sys.executable, "-m", "train.recipe", *words]
    first = subprocess.Popen(call, cwd=root, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not list(out.glob("*/*/checkpoints.jsonl")) and first.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    said = first.communicate(timeout=30)[1]
    assert first.returncode == -signal.SIGKILL, said
    done = subprocess.run(call, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    return out / "quickstart-smoke", words, done


def test_the_whole_path_ends_in_a_report(walked):
    folder, _, done = walked
    assert done.returncode == 0, done.stderr
    assert f"report: {folder / 'report.html'}" in done.stdout
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "far too small" in page and 'class="verdict"' not in page
    assert re.findall(r"Not shown[^<]*", page) == []
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    courses = {f"course-{arm}" for arm in ("opd", "kd", "more")}
    assert figures == {"accuracy", "arms", "compute", "cost", "loss", "rollouts", "probe"} | courses


def test_every_stage_has_one_complete_folder(walked):
    folder, _, _ = walked
    found = sorted(path.parent.name.rpartition("-")[0] for path in folder.glob("*/summary.json"))
    assert found == sorted(STAGES)
    assert len([path for path in folder.iterdir() if (path / "config.yaml").exists()]) == len(STAGES)
    plan = json.loads((folder / "plan-seed0.json").read_text())
    assert [stage["name"] for stage in plan["stages"]] == STAGES


def test_a_complete_recipe_starts_nothing(walked, command):
    folder, words, _ = walked
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}
    again = command("train.recipe", *words, timeout=300)
    assert again.returncode == 0 and again.stderr.count(" complete ") == len(STAGES) and "started" not in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}


def test_report_and_compare_read_what_the_recipe_left(walked, command, tmp_path):
    folder, _, _ = walked
    teacher, evaluation = next(folder.glob("teacher-*")), next(folder.glob("eval-teacher-*"))
    report = command("train.report", str(teacher), str(evaluation), "--out", str(tmp_path / "page"))
    assert report.returncode == 0 and (tmp_path / "page" / "report.html").exists()
    table = command("train.compare", f"{folder}/*", "--sort", "kind")
    head, *rows = table.stdout.splitlines()
    assert table.returncode == 0 and len(rows) == len(STAGES) and {"cpu", "kl", "full"} <= set(head.split())


@pytest.mark.parametrize("module", ["train.recipe", "train.report", "train.compare"])
def test_help_shows_an_example(module, command):
    done = command(module, "--help")
    assert done.returncode == 0 and f"python -m {module} " in done.stdout


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["train.recipe", "recipe=nope"], "recipe=nope: no such option; accepted: "),
        (["train.recipe", "scale=nope"], "scale=nope: no such option; accepted: "),
        (["train.recipe", "seed=x"], "seed=x: expected an integer"),
        (["train.recipe", "recipe.stages.teacher.bogus=1"], "unknown setting; accepted: "),
        (["train.recipe", "recipe.stages.bogus.set=1"], "unknown setting; accepted: "),
        (["train.report", "nowhere"], "nowhere is neither a run folder"),
        (["train.compare", "nowhere/*"], "no run folder matches nowhere/*"),
    ],
)
def test_bad_input_is_one_line_and_code_two(call, said, command, tmp_path):
    done = command(*call, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_a_stage_refuses_is_one_line(command, tmp_path):
    done = command("train.recipe", f"out={tmp_path}", "recipe.stages.teacher.set.batch={documents: 0}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last == "error: stage teacher: batch.documents=0: accepted: 1 or more"


def test_the_arena_runs_in_parts_that_add_up_to_one_ranking(command, tmp_path):
    words = ["recipe=arena", "scale=smoke", "seeds=1", f"out={tmp_path}"]
    words += [f"recipe.stages.{stage}.set.passes.samples=4" for stage in ("eval", "eval-student")]
    first = command("train.recipe", *words, "methods=[sft]", timeout=600)
    second = command("train.recipe", *words, "methods=[tm_opd]", timeout=600)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert second.stderr.count(" complete ") == 2 and "arm-sft" not in second.stderr, "only the student's are shared"
    folder = tmp_path / "arena-smoke"
    head, _, *rows = (folder / "ranking.md").read_text().splitlines()
    assert "out of distribution" in head and "pass@k" in head and "against sft" in head
    assert sorted(row.split(" | ")[0] for row in rows) == ["| sft", "| tm_opd"]
    assert (folder / "figures" / "ranking.png").is_file()
    assert re.findall(r"Not shown[^<]*", (folder / "report.html").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("methods=[nope]", "methods=nope: not in the recipe's list; accepted: sft"),
        ("seeds=0", "seeds=0: accepted: 1 or more"),
        ("recipe.controls=[arm-nope]", "recipe.controls=arm-nope: is no stage; accepted: "),
        ("method=[opd]", "method=[opd]: no such option"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(word, said, command, tmp_path):
    done = command("train.recipe", "recipe=arena", word, f"out={tmp_path / 'runs'}")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
