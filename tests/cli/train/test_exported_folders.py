"""Exported folders wherever a command reads a checkpoint, and checkpoints whose world file is gone."""

import shutil
from pathlib import Path

import pytest

from probes import run as probe
from synth.store.files import read_json
from synth.world import vocabulary
from tests.helpers.untrained_models import save_untrained
from train import evaluate, export
from train.config.compose import run_entry
from train.data.batches import DataConfig
from train.opd import run as opd

pytestmark = pytest.mark.timeout(600)
DISTIL = [
    "method=opd", "budget.steps=2", "prompts=2", "max_new=8", "evaluate.problems=2", "evaluate.documents=2",
    "evaluate.samples_per_problem=0", "evaluate.continuations=0", "evaluate.ood=0", "out.save_every=2",
]  # fmt: skip
PROBE = [
    "probe=smoke", "probe.linear.tasks=[nece]", "probe.vprobe.tasks=[]", "probe.queries.fit=60",
    "probe.queries.validation=40", "probe.queries.test=40",
]  # fmt: skip


def judge(model: Path, out: Path) -> int:
    words = [f"checkpoint={model}", "problems=4", "samples=2", f"out.folder={out}"]
    return run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", words)


def distil(model: Path, out: Path) -> int:
    return opd.entry([*DISTIL, f"student={model}", f"teacher={model}", f"out.folder={out}"])


def probe_it(model: Path, out: Path) -> int:
    return probe.entry([*PROBE, f"model={model}", f"out.folder={out}"])


def timeless(summary):
    """Results without what a clock or a path decides."""
    if not isinstance(summary, dict):
        return summary
    left_out = ("seconds", "cpu_seconds", "tokens_per_second", "checkpoint", "model")
    return {key: timeless(value) for key, value in summary.items() if key not in left_out}


READERS = {"evaluate": judge, "distil": distil, "probe": probe_it}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run, and the folders that it was exported to: native, and with its own code."""
    root = tmp_path_factory.mktemp("models")
    found = {"run": save_untrained(root / "run", seed=1, mlp="swiglu")}
    for name, words in {"native": [], "custom": ["custom_code=true"]}.items():
        found[name] = root / name
        given = [f"checkpoint={found['run']}", f"out={found[name]}", *words]
        assert run_entry("export", export.ExportConfig, export.main, "", given) == 0
    return found


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["native", "custom"])
def test_an_exported_folder_gives_the_numbers_of_the_run_it_came_from(models, tmp_path, form, reader):
    summaries = []
    for name in ("run", form):
        assert READERS[reader](models[name], tmp_path / name) == 0
        summaries.append(timeless(read_json(tmp_path / name / "summary.json")))
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("reader", READERS)
def test_a_world_file_that_has_moved_is_named_in_one_line(tmp_path, capsys, reader):
    world = tmp_path / "mine.json"
    shutil.copy(vocabulary.FOLDER / "voyage.json", world)
    data = DataConfig("tiny", {"ops": 2, "edges": 4, "world": str(world)})
    model = save_untrained(tmp_path / "run", seed=1, data=data)
    world.unlink()
    for cached in (vocabulary.read, vocabulary.load):  # as in another process
        cached.cache_clear()
    assert READERS[reader](model, tmp_path / "out") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "mine.json" in said.err and "accepted: " in said.err
    assert not (tmp_path / "out").exists()
