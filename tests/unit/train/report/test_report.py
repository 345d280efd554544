"""The report: built from run folders alone, right numbers, whole with parts missing, one file that needs nothing else.

The run folders are made here, in the form that the stages of a recipe leave behind.
Try: `python -m pytest tests/unit/train/report/test_report.py`.
"""

import base64
import json
import math
import re
import shutil
import zlib
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.run_folders import write_run
from train import plotting
from train.plotting import smooth
from train.report import PARTS, build, judged, outcome, sections
from train.report.estimates import gap_share
from train.report.figures import training
from train.report.verdicts import judge
from train.runs.expectation import Expectation
from train.runs.results import Run, load, run_folder_name

OPS = (1, 2, 3, 4)
N = 64
SKILL = {"teacher": 0.97, "student": 0.4, "opd": 0.8, "kd": 0.75, "more": 0.5}
LABELS = {"opd": "on-policy distillation", "kd": "off-policy distillation", "more": "continued pretraining"}
EXPECT = [
    Expectation("The teacher solves at least 90%", "full", "teacher", 0.9),
    Expectation("OPD closes half of the gap", "gap_share", "opd", 0.5),
    Expectation("nece is readable", "probe_margin", "probe", 0.15, task="nece"),
]
CLAIMS = [asdict(expectation) for expectation in EXPECT]


def add_run(root: Path, name: str, config: dict, **files: dict | list) -> Path:
    folder = root / f"{name}-{zlib.crc32(json.dumps([name, config]).encode()):08x}"
    manifest = {"command": ["python", "-m", "train.x", f"out.name={name}"], "commit": "abc"}
    return write_run(folder, config, manifest=manifest, **files)


def evaluation(skill: float, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    solved = {ops: rng.random(N) < skill ** (ops / 2) for ops in OPS}
    rows = [
        {"ops": ops, "n": N, "right": int(bits.sum()), "answer_right": int(min(N, bits.sum() + 3)), "floor_right": 14}
        for ops, bits in solved.items()
    ]
    right = [int(bit) for bits in solved.values() for bit in bits]
    verdicts = {"index": list(range(len(right))), "right": right}
    return {"by_ops": rows, "n": N * len(OPS), "verdicts": verdicts, "held_out": {"kl": 0.05}}


def curve(start: float, floor: float, steps: int = 100) -> list[dict]:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.01, steps)
    return [
        {
            "step": 10 * i,
            "tokens": 9000 * i,
            "loss": floor + (start - floor) * math.exp(-i / 20) + noise[i],
            "floor": floor,
        }
        for i in range(1, steps)
    ]


def rollout(index: int, right: bool) -> dict:
    kind = "right" if right else "wrong value"
    steps = [
        {"text": "Define each Barn's Goat as m = 4 .", "kind": "right"},
        {"text": "so q = m + 1 = 5 .", "kind": kind},
    ]
    text = " ".join(step["text"] for step in steps) + " Answer: 5 ."
    problem = {"index": index, "ops": 2, "prompt": "The number of <each> Barn's Goat equals 4 .", "answer": 5}
    return problem | {"response": text, "right": right, "finished": right, "steps": steps}


def write_recipe(root: Path, seed: int = 0) -> Path:
    """A complete recipe folder of one seed: two pretrainings, three arms, five evaluations, a probe, and the plan."""
    made: dict[str, Path] = {}

    def add(name, config, **rest):
        made[name] = add_run(root, name, config | {"seed": seed}, **rest)

    add("teacher", {}, summary={}, metrics=curve(3.0, 0.2))
    add("student", {}, summary={}, metrics=curve(3.0, 0.2, 30))
    for i, arm in enumerate(LABELS):
        config = {"student": str(made["student"]), "teacher": {"checkpoint": f"{made['teacher']}/checkpoints/step-10"}}
        health = {"length_mean": 40.0, "truncation": 0.1, "repetition": 0.0, "rkl": 0.2} if arm == "opd" else {}
        rise = [min(0.8, 0.4 + 0.01 * (3 - i) * step) for step in range(50)]
        log = [{"step": s, "flops": 2e11 * s, "eval_full": rise[s], "eval_n": 128} | health for s in range(1, 50)]
        add(arm, config, summary={}, metrics=log)
        work = {"generation": 4e12 - 1e12 * i, "teacher": 3e12, "update": 2e12 + 1e12 * i}
        ledger = {"flops": work, "tokens": {"update": 5e5}, "seconds": {"update": 50.5}}
        (made[arm] / "ledger.json").write_text(json.dumps(ledger))
    for i, (stage, skill) in enumerate(SKILL.items()):
        samples = [rollout(k, k % 3 > 0) for k in range(30)]
        add(
            f"eval-{stage}", {"checkpoint": str(made[stage])}, summary=evaluation(skill, 10 * seed + i), samples=samples
        )
    results = [
        {"task": task, "probe": probe, "site": f"blocks.{layer}.hook_resid_post", "layer": layer, "n": 900}
        | {"accuracy": 0.6 + 0.07 * layer, "low": 0.57 + 0.07 * layer, "high": 0.63 + 0.07 * layer}
        | {"majority": 0.55, "random": 0.58}
        for task in ("nece", "value")
        for probe in ("linear", "vprobe")
        for layer in range(5)
    ]
    controls = {name: {"accuracy": base} for name, base in (("majority", 0.55), ("random", 0.58))}
    margin = {"accuracy": 0.88, "value": 0.3, "low": 0.27, "high": 0.34, "n": 900, "controls": controls}
    margins = {"nece": margin, "value": margin}
    add("probe", {"model": str(made["teacher"])}, summary={"results": results, "margins": margins})
    stages = [{"name": name, "label": LABELS.get(name, name), "folder": path.name} for name, path in made.items()]
    plan = {"recipe": "quickstart", "scale": "cpu", "seed": seed, "title": "Quickstart", "about": "A walk."}
    plan |= {"stages": stages, "expect": CLAIMS}
    (root / f"plan-seed{seed}.json").write_text(json.dumps(plan))
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe's folder with its report."""
    root = write_recipe(tmp_path_factory.mktemp("runs") / "quickstart")
    assert build([root]) == root / "report.html"
    return root


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the page would load."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def notes(path: Path) -> list[str]:
    return re.findall(r'class="note">([^<]*)', path.read_text(encoding="utf-8"))


def test_the_page_is_whole_and_needs_nothing_else(recipe):
    page = read(recipe / "report.html")
    assert notes(recipe / "report.html") == []
    assert "script" not in page.tags and "link" not in page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    experiments = load([recipe])
    names = [name for _, made, _ in PARTS for name in (made(experiments) if callable(made) else made)]
    names = [name for name in names if name not in ("corrections", "collapse")]  # of other recipes
    assert [name for name in names if name.startswith("course")] == [f"course-{arm}" for arm in LABELS]
    embedded = [base64.b64decode(source.partition(",")[2]) for source in page.loads]
    assert embedded == [(recipe / "figures" / f"{name}.png").read_bytes() for name in names]
    assert all(png.startswith(b"\x89PNG") and len(png) > 5000 for png in embedded)
    assert not list(recipe.rglob("*.tmp"))


def test_the_page_says_what_the_runs_say(recipe):
    text = " ".join("".join(read(recipe / "report.html").text).split())
    teacher = sum(row["right"] for row in load([recipe])[0].evaluation_of("teacher").summary["by_ops"])
    assert f"{100 * teacher / (N * len(OPS)):.1f}%" in text
    assert "The teacher solves at least 90%" in text and text.count("wrong value") == 5
    assert "<each> Barn's Goat" in text, "text of a model is shown, not interpreted"
    for arm in LABELS.values():
        assert arm in text


def test_verdicts_follow_the_counts(recipe):
    words = {verdict.claim: verdict.word for verdict in judged(recipe)}
    assert words == dict.fromkeys((e.claim for e in EXPECT), "met")
    experiments = load([recipe])
    reached = judge(experiments, EXPECT[0]).measured.pooled
    ask = replace(EXPECT[0], at_least=(reached.value + reached.low) / 2)
    assert judge(experiments, ask).word == "met, not clearly"
    assert judge(experiments, replace(EXPECT[0], at_least=0.999)).word == "not met"
    assert judge(experiments, replace(EXPECT[0], stage="nobody")).word == "not measured"
    margin = judge(experiments, EXPECT[2]).measured
    assert margin.pooled.value == pytest.approx(0.88 - 0.58) and "random 58.0%" in str(margin)


def test_the_gap_is_measured_from_the_student_to_the_teacher(recipe):
    right = {name: load([recipe])[0].evaluation_of(name).summary["verdicts"]["right"] for name in SKILL}
    mean = {name: np.mean(bits) for name, bits in right.items()}
    measured = gap_share(load([recipe]), "kd").pooled
    assert measured.value == pytest.approx((mean["kd"] - mean["student"]) / (mean["teacher"] - mean["student"]))
    assert measured.low < measured.value < measured.high and measured.n == N * len(OPS)


def test_seeds_are_pooled_and_shown(undrawn, tmp_path):
    root = tmp_path / "quickstart"
    for seed in (0, 1, 2):
        write_recipe(root, seed)
    experiments = load([root])
    assert [e.seed for e in experiments] == [0, 1, 2]
    measured = judge(experiments, EXPECT[0]).measured
    assert measured.pooled.n == 3 * N * len(OPS) and measured.pooled.value == pytest.approx(np.mean(measured.seeds))
    path = build([root])
    text = "".join(read(path).text)
    assert notes(path) == [] and "seeds 0, 1, 2" in text and "range over seeds" in text


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made but not rendered, which takes most of a report's time."""

    def save(drawn, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"png")

    monkeypatch.setattr(plotting, "save", save)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("probe-*", "no probe results"),
        ("eval-*", "no evaluation with counts"),
        ("*/metrics.jsonl", "no training run with logged losses"),
        ("*/ledger.json", "no arm with a ledger"),
        ("eval-*/samples.jsonl", "no run with samples"),
        ("student-*", "no evaluation"),
        ("*-*", ""),
    ],
)
def test_what_is_missing_becomes_a_note(undrawn, tmp_path, gone, said):
    root = write_recipe(tmp_path / "quickstart")
    for path in list(root.glob(gone)):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name.startswith("plan") is False:
            path.unlink()
    path = build([root])
    read(path)
    if "plan" not in gone and said not in ("", "no evaluation"):
        assert any(said in note for note in notes(path))


def test_a_recipe_still_at_work_is_reported_as_far_as_it_got(undrawn, tmp_path):
    root = write_recipe(tmp_path / "quickstart")
    first, *rest = json.loads((root / "plan-seed0.json").read_text())["stages"]
    stages = [first, *({"name": stage["name"], "label": stage["label"]} for stage in rest)]
    (root / "plan-seed1.json").write_text(json.dumps({"seed": 1, "stages": stages, "expect": CLAIMS}))
    experiments = load([root])
    assert [len(e.runs) for e in experiments] == [11, 1]
    alone = judge(experiments[:1], EXPECT[1]).measured
    assert judge(experiments, EXPECT[1]).measured == alone, "a seed without the stage is left out"
    assert notes(build([root])) == []


def test_a_torn_last_line_costs_only_itself(undrawn, tmp_path):
    root = write_recipe(tmp_path / "quickstart")
    for path in [*root.glob("*/metrics.jsonl"), *root.glob("*/samples.jsonl")]:
        with path.open("a") as file:
            file.write('{"step": 500, "lo')
    assert notes(build([root])) == []


def test_what_came_out_of_a_recipe_is_one_line(undrawn, tmp_path):
    root = write_recipe(tmp_path / "quickstart")
    line = outcome(root)
    assert line.startswith(f"{root} on data unknown, fully right: teacher 9") and "\n" not in line
    assert line.count(f"(n = {N * len(OPS)})") == len(SKILL) and ", more " in line
    empty = write_run(tmp_path / "only" / "a-00000000", {})
    assert outcome(empty) == f"{empty}: no evaluation"


def test_a_programming_error_is_not_a_note(undrawn, tmp_path, monkeypatch):
    root = write_recipe(tmp_path / "quickstart")

    def planted(*_):
        raise KeyError("a bug")

    monkeypatch.setattr("train.report.sections.pooled_by_ops", planted)
    with pytest.raises(KeyError, match="a bug"):
        build([root])


def test_a_scale_without_claims_gives_no_verdict(undrawn, tmp_path):
    root = write_recipe(tmp_path / "quickstart")
    plan = root / "plan-seed0.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"claims": False}))
    path = build([root])
    assert 'class="verdict"' not in path.read_text() and "far too small" in notes(path)[0]


def test_runs_given_one_by_one_are_joined_by_what_they_point_at(undrawn, tmp_path):
    root = write_recipe(tmp_path / "all")
    (root / "plan-seed0.json").unlink()
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    experiments = load(folders)
    assert len(experiments) == 1 and len(experiments[0].runs) == len(folders)
    assert experiments[0].evaluation_of("opd").name == "eval-opd"
    assert len(load([root])) == 1
    with pytest.raises(ValueError, match="--out"):
        build(folders)
    assert notes(build(folders, tmp_path / "page")) == []


def test_paths_without_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a run folder"):
        load([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="neither a run folder"):
        load([tmp_path])


def test_ten_rollouts_are_half_right_and_half_wrong():
    def shown(right: int, wrong: int) -> tuple[int, int]:
        samples = [rollout(i, i < right) for i in range(right + wrong)]
        chosen = sections.choose(samples)
        assert [s["index"] for s in chosen] == sorted(s["index"] for s in chosen)
        return sum(s["right"] for s in chosen), sum(not s["right"] for s in chosen)

    assert shown(20, 20) == (5, 5) and shown(20, 2) == (8, 2) and shown(1, 20) == (1, 9) and shown(3, 0) == (3, 0)
    assert sections.newest([{"step": 1}, {"step": 5}, {"step": 5}]) == [{"step": 5}] * 2
    assert len(sections.newest([{"index": 1}, {"index": 2}])) == 2


def test_smoothing_keeps_lines_straight_and_tames_noise():
    line = np.linspace(3, 1, 200)
    np.testing.assert_allclose(smooth(line)[5:-5], line[5:-5])
    assert abs(smooth(line)[-1] - line[-1]) < 0.05
    noisy = line + np.random.default_rng(0).normal(0, 0.1, 200)
    assert np.abs(smooth(noisy) - line)[10:-10].mean() < 0.5 * np.abs(noisy - line)[10:-10].mean()
    assert smooth([]).shape == (0,) and smooth([2.0]).tolist() == [2.0]


def test_a_run_is_known_by_its_folder(tmp_path):
    assert run_folder_name("runs/q/teacher-01234567/checkpoints/step-20") == "teacher-01234567"
    assert run_folder_name("runs/q/teacher-01234567") == "teacher-01234567"
    assert Run(tmp_path / "eval-teacher-01234567").name == "eval-teacher"
    assert Run(tmp_path / "mine").name == "mine"


def test_the_course_of_a_run_has_a_panel_for_each_kind_of_diagnostic_that_it_logged(tmp_path):
    log = [{"step": s, "loss": 1.0, "rkl": 0.1 * s, "accuracy_strict": 0.5, "advantage_normal": -0.1} for s in range(9)]
    log[4] |= {"eval_full": 0.25, "auroc_rkl": 0.7}
    add_run(tmp_path, "opd", {"teacher": None}, summary={}, metrics=log)
    experiments = load([tmp_path])
    makers = training.courses(experiments)
    assert list(makers) == ["course-opd"]
    drawn = plotting.draw(makers["course-opd"], experiments)
    axes = {ax.get_title(loc="left"): ax for ax in drawn.figure.axes if ax.get_visible()}
    assert set(axes) == {"accuracy", "KL, nats a token", "teacher's advantage", "finds the first error"}
    lines = {line.get_label(): line for line in axes["accuracy"].get_lines()}
    assert set(lines) == {"solution", "held out"} and lines["held out"].get_xydata().tolist() == [[4.0, 0.25]]
    assert lines["held out"].get_marker() == "o" and lines["solution"].get_marker() == "None"
    add_run(tmp_path, "bare", {"teacher": None}, summary={}, metrics=[{"step": 1, "loss": 1.0}])
    assert list(training.courses(load([tmp_path]))) == ["course-opd"]
