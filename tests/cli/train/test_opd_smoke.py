"""`scale=smoke` at the distillation command: every method of configs/method as typed, with models of the zoo."""

import json

import pytest
import yaml

from train.config.compose import CONFIGS
from train.opd.run import OpdConfig, entry
from train.runs.scaled import STUDENT, TEACHER, rewrite

NAMES = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_as_typed(name, tmp_path, capsys):
    """Fewer prompts and problems than the scale has, to save time; the words of the method are as typed."""
    fewer = ["prompts=3", "budget.steps=2", "evaluate.problems=4", "evaluate.documents=4", "skill.problems=2"]
    if not any(word.startswith("skill.stop") for word in rewrite([f"method={name}", "scale=smoke"], OpdConfig)):
        fewer.pop()
    assert entry([f"method={name}", "scale=smoke", *fewer, f"out.root={tmp_path}"]) == 0, capsys.readouterr().err
    folder = next(tmp_path.glob("*-????????"))
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["method"]["name"] == name and config["prompts"] == 3


def test_a_method_runs_with_nothing_else_given(command, tmp_path):
    done = command("train.opd.run", "method=gkd", "scale=smoke", f"out.root={tmp_path}", timeout=500)
    assert done.returncode == 0, done.stderr
    assert json.loads((next(tmp_path.glob("*-????????")) / "summary.json").read_text())["steps"] == 4


def test_what_is_given_wins_over_the_scale():
    words = rewrite(["method=routed", "scale=smoke", "prompts=5", "teacher=mine", "budget.flops=1e9"], OpdConfig)
    assert words[-4:] == ["method=routed", "prompts=5", "teacher=mine", "budget.flops=1e9"]
    assert {"data=smoke", f"student={STUDENT}", f"teachers=[{TEACHER}]", "max_new=48"} <= set(words)
    assert sum(word.startswith(("budget.", "prompts=", "teacher=")) for word in words) == 3
    assert rewrite(["method=gkd"], OpdConfig) == ["method=gkd"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["scale=smokey"], "scale=smokey: no such option (did you mean smoke?); accepted: cluster, cpu, gpu, smoke"),
        (["method=opd", "scale=cpu"], "student: needs a value"),
        (["method=opdd", "scale=smoke"], "method=opdd: no such option (did you mean opd?)"),
        (["method=opd", "scale=smoke", "student=nowhere"], "student=nowhere: does not exist"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys):
    assert entry([*words, f"out.root={tmp_path}"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
