"""Notebooks run from top to bottom on a small saved run, say what is missing without one, and hold no output."""

import json
from pathlib import Path

import pytest
import torch

from models.gpt import GPT, GPTConfig
from probes.figures import Look
from train import checkpoint
from train.data import DataConfig, world_notes
from train.rundir import atomic_write
from train.state import TrainState

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "probes" / "notebooks").glob("*.ipynb"))


def sources(path, kind):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs/quickstart with an untrained teacher and the summary of a probe of it."""
    root = tmp_path_factory.mktemp("runs")
    data = DataConfig("tiny", {"ops": 2, "edges": 4})
    teacher = root / "quickstart" / "teacher-00000000"
    teacher.mkdir(parents=True)
    model = GPT(GPTConfig(data.spec().load_world().size, 2, 2, 16, 256), 0)
    checkpoint.save(teacher, model, torch.optim.SGD(model.parameters()), TrainState(step=1), world_notes(data))
    for name, target in (("probe-11111111", teacher), ("probe-22222222", root / "quickstart" / "student-00000000")):
        folder = teacher.parent / name
        folder.mkdir()
        row = {
            "task": "nece",
            "probe": "linear",
            "site": "hook_embed",
            "layer": 0,
            "accuracy": 0.6,
            "low": 0.5,
            "high": 0.7,
        }
        row |= {"n": 100, "majority": 0.5, "random": 0.55}
        atomic_write(folder / "config.yaml", f"model: {target}\n")
        atomic_write(folder / "summary.json", json.dumps({"results": [row, row | {"layer": 1}]}))
    return root


def test_the_newest_teacher_and_its_own_probe_are_found(runs):
    look = Look.at(runs=runs)
    assert look.run.name == "teacher-00000000" and look.source.spec.ops == 2
    assert look.probe_run().folder.name == "probe-11111111"
    step = Look.at(look.run / "checkpoints" / "step-1")
    assert step.probe_run().folder.name == "probe-11111111" and "teacher-00000000" in step.note
    assert look.layer_map().startswith(b"\x89PNG")
    page = look.solution(0)
    assert page.startswith("<style>") and 'class="rollout"' in page and "body" not in page.partition("</style>")[0]


def test_without_a_run_the_problem_is_shown_and_the_rest_says_what_to_do(tmp_path):
    look = Look.at(runs=tmp_path / "runs")
    assert "Parameters" in look.problem(0) and look.layer_map() is None
    for text in (look.note, look.no_probe, look.solution(0)):
        assert "python -m train.recipe recipe=quickstart" in text
    with pytest.raises(ValueError, match="does not exist"):
        Look.at(tmp_path / "nothing")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_short_and_holds_no_output(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    code = sources(path, "code")
    assert sum(len(cell.splitlines()) for cell in code) < 60
    for cell in code:
        compile(cell, path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(path, runs, root, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("GLASSHOUSE_RUN", str(runs / "quickstart" / "teacher-00000000"))
    monkeypatch.setenv("PYTHONPATH", str(root))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = json.dumps([cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"])
    for expected in ("teacher-00000000", "Parameters", 'class=\\"rollout\\"', "image/png"):
        assert expected in shown
