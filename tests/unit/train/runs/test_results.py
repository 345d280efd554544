"""Reading runs: what a run is, which evaluations belong to a stage, and which files are refused."""

import json

import pytest
import yaml

from train import compare, report
from train.report.estimates import solution_accuracy
from train.runs.results import Experiment, Run, differences, load, outcome


def write(folder, config, summary=None, manifest=None) -> Run:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, content in (("summary", summary), ("manifest", manifest)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return Run(folder)


OLD_RUNS = {
    "training": ({"model": {}}, {"steps": 3}),
    "distillation": ({"teacher": None, "student": "a"}, None),
    "merge": ({"first": "a", "second": "b"}, {}),
    "evaluation": ({"checkpoint": "a"}, {"by_ops": []}),
    "probe": ({"model": "a", "task": "layers"}, {"results": []}),
    "analysis": ({"model": "a", "task": "signal"}, None),
}


@pytest.mark.parametrize("kind", OLD_RUNS)
def test_the_manifest_says_what_a_run_is_and_older_ones_are_told_by_their_contents(tmp_path, kind):
    config, summary = OLD_RUNS[kind]
    assert write(tmp_path / "old", config, summary, {"commit": "abc"}).kind == kind
    other = "evaluation" if kind != "evaluation" else "probe"
    assert write(tmp_path / "new", config, summary, {"kind": other}).kind == other


@pytest.mark.parametrize(
    ("name", "content"),
    [("summary.json", "{"), ("manifest.json", "[]"), ("config.yaml", "a: [b"), ("metrics.jsonl", "{\n{}\n")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    run = write(tmp_path / "run", {})
    (run.folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"run/{name}: "):
        getattr(Run(run.folder), name.split(".")[0])


def test_what_is_not_there_is_empty_and_a_torn_last_line_is_left_out(tmp_path):
    run = Run(tmp_path)
    assert (run.config, run.summary, run.ledger, run.metrics, run.complete) == ({}, {}, {}, [], False)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert Run(tmp_path).curve("loss") == ([1], [2.0])


@pytest.fixture
def experiment(tmp_path):
    """A model trained on mistakes, judged on harder problems first, then on those that it was trained on."""
    trained = write(tmp_path / "arm-00000000", {"data": {"preset": "tiny", "overrides": {"retry_rate": 0.5, "ops": 3}}})
    runs, path = {"arm": trained}, str(trained.folder)
    for name, overrides in (("outside", {"ops": 5}), ("inside", {"ops": 3})):
        data = {"preset": "tiny", "overrides": overrides, "seed": 3}
        runs[name] = write(tmp_path / f"{name}-00000000", {"checkpoint": path, "data": data}, {"by_ops": []})
    return Experiment(runs)


def test_in_distribution_are_the_problems_that_the_model_was_trained_on(experiment):
    assert experiment.evaluation_of("arm").folder.name == "inside-00000000"
    assert experiment.evaluation_of("arm", out_of_distribution=True).folder.name == "outside-00000000"
    assert experiment.evaluation_of("nobody") is None


def test_every_evaluation_of_a_model_that_read_no_data_is_in_distribution(experiment, tmp_path):
    merged = write(tmp_path / "merged-00000000", {"first": "a/b", "second": "c/d"}, {})
    judged = write(tmp_path / "eval-00000000", {"checkpoint": str(merged.folder)}, {"by_ops": []})
    found = Experiment(experiment.runs | {"merged": merged, "eval": judged})
    assert found.evaluation_of("merged") is judged and found.evaluation_of("merged", True) is None


def distilled(root, seed, method, right=8, **settings):
    """A student, its distillation in a folder as earlier versions named it, and the evaluation of that."""
    data = {"preset": "tiny", "overrides": {"ops": 3}, "seed": seed}
    student = write(root / f"student-0000000{seed}", {"seed": seed, "data": data}, {}, {"kind": "training"})
    number = len(list(root.glob("opd-*")))
    config = {"seed": seed, "student": str(student.folder), "data": data, "method": {"name": method} | settings}
    arm = write(root / f"opd-1000000{number}", config, {}, {"kind": "distillation"})
    summary = {"by_ops": [{"ops": 1, "n": 10, "right": right}]}
    judged = {"checkpoint": str(arm.folder), "data": data}
    write(root / f"evaluate-2000000{number}", judged, summary, {"kind": "evaluation"})
    return arm


def pooled(root):
    """Arm -> right solutions of all its seeds."""
    experiments = load([root])
    arms = dict.fromkeys(run.name for e in experiments for run in e.arms())
    return {arm: round(m.value * m.n) for arm in arms if (m := solution_accuracy(experiments, arm).pooled)}


def test_seeds_of_one_method_are_pooled_and_methods_are_kept_apart(tmp_path):
    distilled(tmp_path, 0, "gkd", 8)
    distilled(tmp_path, 1, "gkd", 7)
    assert pooled(tmp_path) == {"gkd": 15}
    distilled(tmp_path, 2, "kd", 3)
    assert pooled(tmp_path) == {"gkd": 15, "kd": 3}
    report.build([tmp_path], tmp_path / "page")
    assert {p.name for p in (tmp_path / "page/figures").glob("ar*")} == {"arms.png"}


def test_settings_of_one_objective_are_kept_apart_and_the_name_says_in_what_they_differ(tmp_path):
    distilled(tmp_path, 0, "gkd", 8, divergence={"kind": "jsd", "beta": 0.5})
    distilled(tmp_path, 1, "gkd", 7, divergence={"kind": "jsd", "beta": 0.9})
    distilled(tmp_path, 2, "gkd", 3, divergence={"kind": "jsd", "beta": 0.9})
    names = [f"gkd method.divergence.beta={beta}" for beta in (0.5, 0.9)]
    assert pooled(tmp_path) == {names[0]: 8, names[1]: 10}


def test_two_methods_from_one_student_are_two_arms(tmp_path):
    first = distilled(tmp_path, 0, "gkd")
    second = dict(first.config) | {"method": {"name": "kd"}}
    arm = write(tmp_path / "opd-10000009", second, {}, {"kind": "distillation"})
    judged = {"checkpoint": str(arm.folder), "data": first.config["data"]}
    write(tmp_path / "evaluate-20000009", judged, {"by_ops": [{"ops": 1, "n": 10, "right": 1}]}, {"kind": "evaluation"})
    assert pooled(tmp_path) == {"gkd": 8, "kd": 1}


def test_a_table_of_runs_names_what_differs(tmp_path):
    runs = [distilled(tmp_path, seed, "gkd", divergence={"kind": kind}) for seed, kind in ((0, "jsd"), (1, "fkl"))]
    shown = compare.rows_of(runs)
    assert [row["method"] for row in shown] == ["gkd", "gkd"]
    for row, seed, kind in zip(shown, (0, 1), ("jsd", "fkl"), strict=True):
        wanted = {f"seed={seed}", f"data.seed={seed}", f"method.divergence.kind={kind}"}
        assert set(row["differs"].split()) == wanted
    assert differences(runs[:1]) == [[]]
    other = distilled(tmp_path, 2, "kd", divergence={"kind": "nll"})
    assert {"method.name=kd", "seed=2"} < set(compare.rows_of([runs[0], other])[1]["differs"].split())


def test_what_came_out_is_one_line_with_model_data_result_and_n(tmp_path):
    judged = load([distilled(tmp_path, 0, "gkd").folder.parent])[0].of("evaluation")[0]
    checkpoint = tmp_path / "opd-10000000"
    assert outcome(judged) == f"{checkpoint} on data tiny ops=3: 80.0% [49.0, 94.3] fully right, n = 10"
    last = {"smooth_loss": 0.25, "eval_full": 0.5, "eval_n": 128, "kl_to_oracle": 0.01}
    summary = {"steps": 1200, "tokens": 2e6, "flops": 3e12, "last": last}
    config = {"data": {"preset": "med", "overrides": {}, "tokens": "word"}}
    run = write(tmp_path / "pretrain-00000000", config, summary, {"kind": "training"})
    assert outcome(run) == (
        "pretrain on data med tokens=word: 1,200 steps, 2M tokens, 3.00e12 FLOPs; loss 0.2500, "
        "50.0% [41.5, 58.5] fully right, n = 128 held-out problems, KL to oracle 0.0100"
    )
    arm = write(tmp_path / "opd-3", config | {"method": {"name": "kd"}, "student": "zoo/a"}, summary)
    assert outcome(arm).startswith("kd from zoo/a on data med tokens=word: 1,200 steps")
