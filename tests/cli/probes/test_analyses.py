"""The analyses of `probes.run` as a user meets them: tables, a figure, done once, and what is refused."""

import pytest
from markupsafe import escape

from probes import run
from synth.store.files import read_json
from tests.helpers.untrained_models import save_untrained
from train import report
from train.data.batches import DataConfig

DATA = DataConfig("tiny", {"ops": 2, "edges": 4})
PROBES = [
    "probe.queries.fit=60",
    "probe.queries.validation=40",
    "probe.queries.test=40",
    "collapse.states=[known,done]",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {name: save_untrained(root / f"{name}-0000000{i}", i, i + 5) for i, name in enumerate(("a", "b", "c"))}


def analyse(*words):
    return run.entry(["data=smoke", "probe=smoke", *words])


WORDS = {
    "signal": ["signal.problems=6", "signal.samples=3", "signal.student={b}"],
    "provenance": ["provenance.problems=6", "provenance.teacher={b}", "provenance.student={c}"],
    "capability": ["capability.problems=6", "capability.samples=4", "capability.k=[1,4]", "capability.before={b}"],
    "recovery": ["recovery.problems=6", "recovery.samples=1", "recovery.cuts=[0.5]", "recovery.student={b}"],
    "futures": ["futures.problems=4", "futures.tokens=20", "futures.teacher={b}"],
    "premise": ["premise.problems=20", "premise.before={b}"],
    "merge": ["merge.problems=6", "merge.weights=[0.5,1.0]", "merge.sft={b}", "merge.base={c}"],
    "collapse": ["collapse.problems=4", "collapse.strengths=[2.0]", "collapse.random=1", *PROBES],
}


@pytest.mark.parametrize("task", WORDS)
def test_an_analysis_leaves_tables_and_a_figure_and_is_done_once(task, models, tmp_path, capsys):
    words = [word.format(**models) for word in WORDS[task]]
    words = [f"task={task}", f"checkpoint={models['a']}", f"out.root={tmp_path}", f"out.name={task}", *words]
    assert analyse(*words) == 0
    printed = capsys.readouterr().out.splitlines()
    folder = next(tmp_path.glob(f"{task}-????????"))
    summary = read_json(folder / "summary.json")
    assert printed[-1] == str(folder) and (summary["stage"], summary["task"]) == ("analysis", task)
    assert (folder / "figures" / f"{task}.png").stat().st_size > 5000
    for name, rows in summary["tables"].items():
        assert name in printed or f"{name} (n = 0)" in printed
        written = (folder / "tables" / f"{name}.csv").read_text().splitlines()
        assert len(written) == len(rows) + 1
    before = (folder / "summary.json").stat().st_mtime_ns
    assert analyse(*words) == 0 and (folder / "summary.json").stat().st_mtime_ns == before
    (folder / "summary.json").unlink()
    lines = (folder / "metrics.jsonl").read_text()
    assert analyse(*words) == 0 and read_json(folder / "summary.json") == summary
    assert (folder / "metrics.jsonl").read_text() == lines, "what was drawn is not drawn again"
    text = report.build([folder]).read_text()
    assert escape(summary["figure"]["title"]) in text and f"tables of {folder.name}" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=signl"], "task=signl: accepted: layers, mistakes, export, signal,"),
        (["task=provenance"], "provenance.teacher=null: task=provenance needs it"),
        (["task=provenance", "provenance.gaps=[1.0]"], "provenance.gaps=[1.0]: accepted: a list of numbers above 1"),
        (["task=capability", "capability.k=[64]"], "capability.k=[64]: accepted: a list of numbers from 1 to 32"),
        (["task=recovery", "recovery.cuts=[1.0]"], "recovery.cuts=[1.0]: accepted: a list of numbers 0 to below 1"),
        (["task=futures", "futures.share=0"], "futures.share=0.0: accepted: above 0, up to 1"),
        (["task=merge", "merge.sft=nowhere", "merge.base=nowhere"], "merge.sft=nowhere: does not exist"),
        (["task=collapse", "collapse.states=[name]"], "collapse.states=['name']: accepted: a list with some of known"),
        (["task=collapse", "model={step}"], "task=collapse reads the checkpoints of a run; accepted: a run folder"),
        (["task=signal", "signal.samples=1"], "signal.samples=1: accepted: 2 or more"),
    ],
)
def test_bad_input_is_one_line(words, said, models, tmp_path, capsys):
    step = models["a"] / "checkpoints" / "step-5"
    words = [f"model={models['a']}", *(word.format(step=step) for word in words)]
    assert analyse(*words, f"out.root={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_without_room_is_refused(tmp_path, capsys):
    small = save_untrained(tmp_path / "small", 1, context=48)
    assert (
        analyse("task=capability", f"model={small}", f"capability.before={small}", f"out.root={tmp_path / 'out'}") == 2
    )
    assert not list((tmp_path / "out").iterdir())
    assert "accepted: a model with a longer context" in capsys.readouterr().err


def test_every_analysis_is_tried_here_and_has_a_section_of_its_own(models, capsys):
    """A task accepts the settings of its own section and those that all tasks have, and no others."""
    assert [module.TASK.config.task for module in run.ANALYSES] == list(WORDS)
    assert analyse("task=merge", f"model={models['a']}", "capability.before=x") == 2
    assert "capability.before=x: unknown setting" in capsys.readouterr().err
    assert run.entry(["task=capability", "--help"]) == 0
    assert "capability:" in (shown := capsys.readouterr().out) and "merge:" not in shown
