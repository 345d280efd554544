"""Reading runs: what a run is, which evaluations belong to a stage, and which files are refused."""

import json

import pytest
import yaml

from train.runs.results import Experiment, Run


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
