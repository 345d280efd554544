"""Recipes: the graph of stages, references, seeds, what is skipped, what a failure or a kill leaves behind.

Stages here are a stand-in command that makes a run folder as the real ones do, at once and without torch.
Try: `python -m pytest tests/unit/train/recipes/test_runner.py`.
"""

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.config.compose import CONFIGS, NO_CHOICES, load
from train.recipe import RecipeConfig, entry, stages_of
from train.recipes import stage_process
from train.recipes.plan import PlanFile
from train.recipes.progress import progress_of
from train.recipes.runner import Runner, code_digest
from train.recipes.stage import Stage, StageFailed, check_graph
from train.runs import results

STAND_IN = '''
"""A stage that takes `seconds`, and writes when it ran and where its folder is. `mode`: ok, fail, refuse, silent."""
import hashlib, json, os, sys, time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
out, name, path_file = Path(words.pop("out.root")), words.pop("out.name"), Path(words.pop("out.path_file"))
if words.get("mode") == "refuse":
    print("error: mode=refuse: accepted: ok", file=sys.stderr)
    sys.exit(2)
folder = out / f"{name}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(json.dumps(words))
if words.get("mode") != "silent":
    path_file.write_text(f"{folder}\\n")
with (folder / "runs").open("a") as file:
    file.write(f"{os.getpid()}\\n")
if not (folder / "summary.json").exists():
    start = time.time()
    time.sleep(float(words.get("seconds", 0)) * float(os.environ.get("SLOWER", 1)))
    if words.get("mode") == "fail":
        print("the reason it failed")
        sys.exit(3)
    threads = os.environ["OMP_NUM_THREADS"]
    (folder / "summary.json").write_text(json.dumps({"start": start, "end": time.time(), "threads": threads}))
print(out)  # whatever a stage prints, also the path of some folder, is not taken for its own
'''


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A folder for runs, with the stand-in importable by the processes of stages."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr("train.recipes.runner.code_digest", lambda: "as it is")
    return tmp_path / "runs" / "demo"


def stage(name: str, *needs: str, **settings) -> Stage:
    return Stage(name, "stand_in", settings, needs)


def go(root: Path, stages: list[Stage], seed: int = 0, slots: int = 2) -> dict[str, Path]:
    return Runner(PlanFile(root / f"plan-seed{seed}.json", {"seed": seed}, stages), seed, slots).run(stages)


def starts(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    if not Path("/proc/self").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_stages_run_in_order_two_at_a_time_on_one_thread(bench):
    stages = [stage("a", seconds=0.4), stage("b", seconds=0.4), stage("c", seconds=0.4), stage("d", "a", "c", x="@b")]
    folders = go(bench, stages)
    spans = {name: json.loads((folder / "summary.json").read_text()) for name, folder in folders.items()}
    for moment in (span["start"] + 0.01 for span in spans.values()):
        assert sum(span["start"] <= moment <= span["end"] for span in spans.values()) <= 2
    assert spans["a"]["start"] < spans["b"]["end"] and spans["b"]["start"] < spans["a"]["end"], "a and b side by side"
    assert spans["d"]["start"] >= max(spans[name]["end"] for name in "abc")
    assert {span["threads"] for span in spans.values()} == {"1"}
    assert json.loads((folders["d"] / "config.yaml").read_text())["x"] == str(folders["b"])


def test_values_become_arguments_and_references_are_resolved():
    one = Stage(
        "s", "e", {"a": 1, "b": None, "c": "@t", "d": "@seed", "e": "@seed/x", "f": True, "g": [1, 2], "h": "text"}
    )
    words = dict(word.split("=", 1) for word in one.argv({"t": Path("runs/q/t-1")}, 7))
    derived = words.pop("e")
    assert words == {"a": "1", "b": "null", "c": "runs/q/t-1", "d": "7", "f": "true", "g": "[1,2]", "h": "text"}
    assert one.inputs == {"t"}
    other = {seed: dict(w.split("=", 1) for w in one.argv({"t": Path("t")}, seed))["e"] for seed in range(50)}
    assert other[7] == derived and len(set(other.values())) == 50


def test_what_is_complete_is_not_started_again_and_what_changed_is(bench):
    stages = [stage("a"), stage("b", x="@a"), stage("c", x="@b")]
    first = go(bench, stages)
    assert go(bench, stages) == first
    assert [starts(folder) for folder in first.values()] == [1, 1, 1]
    changed = go(bench, [stages[0], stage("b", x="@a", y=1), stages[2]])
    assert changed["a"] == first["a"] and starts(first["a"]) == 1
    assert changed["b"] != first["b"] and changed["c"] != first["c"], "a change reaches everything built on it"


def test_a_stage_whose_summary_is_gone_runs_again(bench):
    stages = [stage("a"), stage("b", x="@a")]
    folders = go(bench, stages)
    (folders["a"] / "summary.json").unlink()
    go(bench, stages)
    assert starts(folders["a"]) == 2 and starts(folders["b"]) == 1


def test_changed_code_has_every_stage_look_again(bench, monkeypatch):
    stages = [stage("a"), stage("b", x="@a")]
    folders = go(bench, stages)
    monkeypatch.setattr("train.recipes.runner.code_digest", lambda: "edited")
    assert go(bench, stages) == folders and [starts(folder) for folder in folders.values()] == [2, 2]


def test_the_digest_of_the_code_sees_sources_and_configs(tmp_path, monkeypatch):
    monkeypatch.setattr("train.recipes.runner.ROOT", tmp_path)
    (tmp_path / "train").mkdir()
    digests = [code_digest()]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("a.yaml", "2"), ("a.txt", "2")):
        (tmp_path / "train" / name).write_text(text)
        digests.append(code_digest())
    assert len(set(digests)) == 4 and digests[3] == digests[4]


def test_two_seeds_do_not_collide(bench):
    stages = [stage("a", seed="@seed"), stage("b", x="@a")]
    zero, one = go(bench, stages, seed=0), go(bench, stages, seed=1)
    assert not set(zero.values()) & set(one.values())
    assert go(bench, stages, seed=0) == zero
    assert sorted(p.name for p in bench.glob("plan-*.json")) == ["plan-seed0.json", "plan-seed1.json"]


def test_a_failure_ends_the_others_and_shows_the_end_of_the_log(bench):
    with pytest.raises(StageFailed, match="the reason it failed") as failed:
        go(bench, [stage("slow", seconds=60), stage("bad", seconds=0.2, mode="fail")])
    assert not failed.value.usage and "stage bad ended with code 3" in str(failed.value)
    assert not alive(int(next(bench.glob("slow-*/runs")).read_text()))


def test_a_refused_setting_is_the_users_line(bench):
    with pytest.raises(StageFailed, match=r"^stage bad: mode=refuse: accepted: ok$") as failed:
        go(bench, [stage("bad", mode="refuse")])
    assert failed.value.usage


def test_a_stage_that_names_no_folder_is_a_failure(bench):
    with pytest.raises(StageFailed, match="ended without a run folder"):
        go(bench, [stage("bad", mode="silent")])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end the children of a killed process")
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_recipe_leaves_no_process_and_continues(bench, root, blow):
    stages = "[Stage('a', 'stand_in', {}), Stage('b', 'stand_in', {'x': '@a', 'seconds': 1.5})]"
    code = (
        "import sys; from pathlib import Path; from synth.exit_codes import run_command;"
        "from train.recipes.runner import PlanFile, Runner, Stage;"
        "import train.recipes.runner; train.recipes.runner.code_digest = lambda: 'as it is';"
        f"stages = {stages}; runner = Runner(PlanFile(Path(sys.argv[1]) / 'plan-seed0.json', {{}}, stages), 0, 2);"
        "sys.exit(run_command(lambda: bool(runner.run(stages)) - 1))"
    )
    path = os.pathsep.join([str(root), os.environ["PYTHONPATH"]])
    slow = {**os.environ, "PYTHONPATH": path, "SLOWER": "400"}  # `b` would sleep for ten minutes
    process = subprocess.Popen([sys.executable, "-c", code, str(bench)], env=slow)
    deadline = time.time() + 240  # cores are not always free
    while not (found := list(bench.glob("b-*/runs"))) and time.time() < deadline:
        time.sleep(0.02)
    child = int(found[0].read_text())
    server = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    assert server != process.pid
    process.send_signal(blow)
    process.wait(timeout=30)
    deadline = time.time() + 20
    while (alive(child) or alive(server)) and time.time() < deadline:
        time.sleep(0.02)
    assert not alive(child) and not alive(server)
    folders = go(bench, [stage("a"), stage("b", x="@a", seconds=1.5)])
    assert starts(folders["a"]) == 1 and starts(folders["b"]) == 2


def test_a_graph_that_cannot_run_is_refused():
    with pytest.raises(ValueError, match="stage a needs techer, which the recipe lacks; accepted: a, teacher"):
        check_graph([stage("a", x="@techer"), stage("teacher")])
    with pytest.raises(ValueError, match="stages a, b need each other in a circle"):
        check_graph([stage("a", "b"), stage("b", x="@a"), stage("c")])


def test_progress_is_read_from_the_newest_line(tmp_path):
    assert progress_of(tmp_path) == (0.0, "")
    (tmp_path / "config.yaml").write_text("budget: {tokens: 200, steps: null}")
    (tmp_path / "metrics.jsonl").write_text("")
    assert progress_of(tmp_path) == (0.0, "")
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "tokens": 20}\n{"step": 5, "tokens": 100, "smooth_loss": 0.5}\n{"st'
    )
    assert progress_of(tmp_path) == (0.5, "step 5, loss 0.500")


RECIPES = sorted(p.stem for p in (CONFIGS / "recipe").glob("*.yaml") if p.stem not in NO_CHOICES)
DISTILLING = [name for name in RECIPES if "train.opd.run" in (CONFIGS / "recipe" / f"{name}.yaml").read_text()]
SCALES = sorted(p.stem for p in (CONFIGS / "scale").glob("*.yaml"))


def settings_of(entry_of: str, words: list[str]) -> tuple[str, type]:
    """The name of a command's configuration and its dataclass; that of `probes.run` depends on `task=`."""
    module = importlib.import_module(entry_of)
    if entry_of == "probes.run":
        task = [word.partition("=")[2] for word in words if word.startswith("task=")] or [module.ProbeConfig.task]
        return "probe", module.TASKS[task[-1]].config
    found = re.search(r'run_entry\(\s*"(\w+)", (\w+), main', inspect.getsource(module))
    assert found, entry_of
    return found[1], getattr(module, found[2])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_every_recipe_is_accepted_by_its_stage(recipe, scale, composed_once):
    config = load("recipe", RecipeConfig, [f"recipe={recipe}", f"scale={scale}"])
    # A scale treats all copies of a stage alike, so one stands for them beside the recipe's own scale.
    first = {name: items[:1] for name, items in config.recipe.lists.items()} if scale != "cpu" else {}
    stages = stages_of(config, first)
    folders = {one.name: Path(f"runs/{recipe}/run-0123abcd") for one in stages}
    commands = {(one.entry, *one.argv(folders, 0)) for one in stages}  # copies that differ in their input are one
    for entry_of, *words in commands:
        load(*settings_of(entry_of, words), words)


# Recipes whose arms differ in more: student, teacher, the budget of a response, how many solutions there are.
OTHER_QUESTIONS = ("capability", "premise", "collapse", "collapse_search", "regime", "paper")
OWN = (  # of an arm; all else is shared
    "method", "teacher", "prompts", "optim.lr", "optim.muon.lr", "skill.stop",
    "data.documents", "evaluate.every",  # of arms that read solutions, and whose steps are larger
)  # fmt: skip


@pytest.mark.parametrize("recipe", [r for r in DISTILLING if r not in OTHER_QUESTIONS and r[:6] != "study_"])
def test_the_arms_of_a_recipe_differ_in_method_and_learning_rate_alone(recipe):
    stages = stages_of(load("recipe", RecipeConfig, [f"recipe={recipe}"]))
    arms = [dict(one.settings) for one in stages if one.entry == "train.opd.run"]
    assert len(arms) >= 3 and len({json.dumps(arm, sort_keys=True) for arm in arms}) == len(arms)
    shared = [{k: v for k, v in arm.items() if k not in OWN and not k.startswith("method.")} for arm in arms]
    if recipe == "arena_self":  # an arm in two phases, from @revision, has half of the FLOPs for each
        halved = [one | {"student": "@student", "budget.flops": 2.0 * one["budget.flops"]} for one in shared]
        shared = [one if one["budget.flops"] == 3.0e11 else half for one, half in zip(shared, halved, strict=True)]
    assert all(one == shared[0] for one in shared)
    assert shared[0]["budget.flops"] or shared[0].get("budget.steps"), "arms are compared at equal compute or steps"
    assert shared[0]["student"] and shared[0]["data.seed"].startswith("@seed/")


@pytest.mark.parametrize("recipe", RECIPES)
def test_smoke_makes_no_claims(recipe):
    assert not load("recipe", RecipeConfig, [f"recipe={recipe}", "scale=smoke"]).scale.claims


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe=nope"], "recipe=nope: no such option"),
        (["scale=huge"], "scale=huge: no such option"),
        (["seed=-1"], "seed=-1: accepted: 0 or more"),
        (["slots=0"], "slots=0: accepted: 1 or more"),
        (["sed=1"], "did you mean seed?"),
        (["recipe.stages.techer.set=1"], "unknown setting (did you mean teacher?)"),
        (["recipe.stages.opd.set.student='@stdent'"], "stage opd needs stdent, which the recipe lacks"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, said, tmp_path, capsys):
    assert entry([*words, f"out={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_from_elsewhere_stands_for_a_stage(bench):
    """It is not run, the stages that point at it get its path as it was given, and the report finds its folder."""
    elsewhere = bench.parent / "elsewhere" / "model-3"
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.yaml").write_text("{}")
    stages = [Stage("a", "stand_in", {"mode": "fail"}), Stage("b", "stand_in", {"x": "@a"}, label="after a")]
    plan = PlanFile(bench / "plan-seed0.json", {"seed": 0}, stages)
    plan.enter("a", elsewhere)
    folders = Runner(plan, 0, 1, {"a": elsewhere}).run(stages)
    assert json.loads((folders["b"] / "config.yaml").read_text()) == {"x": str(elsewhere)}
    (experiment,) = results.load([bench])
    assert experiment.runs["a"].folder == elsewhere and experiment.runs["a"].name == "a"
    assert experiment.input(experiment.runs["b"], "x") is experiment.runs["a"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("start.nobody=zoo/tiny-teacher-0", "start.nobody: is no stage"), ("start.teacher=zoo/none", "accepted: zoo/")],
)
def test_starting_points_are_checked_before_anything_runs(word, expected, tmp_path, capsys):
    assert entry(["recipe=quickstart", word, f"out={tmp_path / 'runs'}"]) == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_recipe_that_goes_on_leaves_out_what_needs_a_failed_stage(bench):
    # `last` is listed before what it needs, so losing it takes a second look
    stages = [stage("last", x="@next"), stage("bad", mode="fail"), stage("next", x="@bad"), stage("good", seconds=0.3)]
    stages.append(stage("wrong", mode="refuse"))
    runner = Runner(PlanFile(bench / "plan-seed0.json", {"seed": 0}, stages), 0, 1, keep_going=True)
    failed = runner.failed
    assert list(runner.run(stages)) == ["good"]
    assert [(name, failure.usage) for name, failure in failed.items()] == [
        ("bad", False), ("next", False), ("last", False), ("wrong", True),
    ]  # fmt: skip
    assert "the reason it failed" in str(failed["bad"]) and "needs next, which failed" in str(failed["last"])


def test_two_stages_of_one_entry_do_not_see_each_others_arguments(tmp_path):
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    stage_process.prepare(["train.compare"])
    jobs = [stage_process.start("train.compare", [f"nowhere{i}/*"], logs[i]) for i in range(2)]
    deadline = time.time() + 240
    while any(job.exitcode is None for job in jobs) and time.time() < deadline:
        time.sleep(0.05)
    assert [job.exitcode for job in jobs] == [2, 2]
    assert [f"no run folder matches nowhere{i}/*" in logs[i].read_text() for i in range(2)] == [True, True]


def test_a_settings_short_name_reaches_the_recipe():
    config = load("recipe", RecipeConfig, ["recipe=arena", "methods=[opd]", "stages.eval.set.problems=7"])
    assert config.only == {"methods": ["opd"]}
    assert {one.settings["problems"] for one in stages_of(config, config.only) if one.name.startswith("eval-")} >= {7}


@pytest.mark.parametrize("scale", ["cpu", "smoke"])
def test_the_command_line_wins_over_recipe_items_and_scale(scale):
    words = [
        "recipe=quickstart",
        f"scale={scale}",
        "stages.opd.set.prompts=5",
        "recipe.stages.teacher.set.model.n_layer=3",
    ]
    stages = {one.name: one.settings for one in stages_of(load("recipe", RecipeConfig, words))}
    assert (stages["opd"]["prompts"], stages["teacher"]["model.n_layer"]) == (5, 3)
    assert stages["kd"]["prompts"] != 5 and "model.n_layer" not in stages["student"]
