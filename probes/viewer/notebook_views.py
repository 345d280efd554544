"""What notebooks look up in saved runs: which run, its problems and solutions, its probes, its neighbours.

Nothing is trained here. A notebook shows what is saved under runs/, or a model of the zoo where there is nothing.

    HTML(frame("runs/quickstart/teacher-1a2b3c4d", index=3))
    Image(png(mistakes, solve(opened, 256)))
"""

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import rc_context

from probes.glass import STREAM, GlassConfig, page, page_json
from probes.runs import (
    RC_PARAMS,
    CaptionedFigure,
    Evaluation,
    Experiment,
    OpenCheckpoint,
    Run,
    checkpoint,
    evaluate,
    load,
    open_checkpoint,
    rollout_fragment,
    run_folder_name,
)
from probes.viewer.readouts import ReadoutConfig
from synth.view.text import show

RUNS = Path(__file__).resolve().parents[2] / "runs"
QUICKSTART, ZOO_MODEL = "python -m train.recipe recipe=quickstart", "zoo/tiny-teacher-0"
FITTED = 200  # problems that the read-outs of a notebook's page are fitted on: seconds
CAPTION = 100  # characters in a line below a figure


def find_run(setting: str = "GLASSHOUSE_RUN", runs: Path = RUNS) -> Path:
    """The checkpoint that the environment variable names, else the newest under `runs`, else one of the zoo.

    The newest teacher of the quickstart comes before other runs.
    """
    if named := os.environ.get(setting):
        return checkpoint.expand_zoo_path(named, setting)
    for pattern in ("quickstart/teacher-*/checkpoints.jsonl", "*/*/checkpoints.jsonl"):
        found = [index for index in runs.glob(pattern) if checkpoint.latest(index.parent) is not None]
        if found:
            return max(found, key=lambda index: index.stat().st_mtime).parent
    return checkpoint.expand_zoo_path(ZOO_MODEL)


def no_such_run(runs: Path = RUNS) -> str:
    """What to do where there is no run of the kind that is wanted."""
    return f"No such run under {runs.name}/: first run `{QUICKSTART}`, or name a run."


def frame(
    checkpoint: str | Path, beside: str | Path | None = None, index: int = 0, height: int = 820, **settings: Any
) -> str:
    """The page of `probes.glass` as a frame in a notebook; `settings` as on its command line."""
    paths = {"checkpoint": str(checkpoint)} | ({"beside": str(beside)} if beside else {})
    settings = {"readout": ReadoutConfig(problems=FITTED), "index": index, **paths, **settings}
    config = GlassConfig(**settings)
    opened = [open_checkpoint(path, name, config.preset) for name, path in paths.items()]
    style = f"width:100%;height:{height}px;border:1px solid #bbb;border-radius:8px;background:#fff"
    return f'<div><iframe srcdoc="{escape(page(page_json(opened, config)))}" style="{style}"></iframe></div>'


def png(maker: Callable[..., CaptionedFigure], *arguments: Any) -> bytes:
    """A figure in the common style with its caption below, as the bytes of a PNG."""
    with rc_context(RC_PARAMS):
        image, drawn = BytesIO(), maker(*arguments)
        caption = "\n".join(wrap(drawn.caption, CAPTION))
        drawn.figure.supxlabel(caption, fontsize=8.5, color="#555555", x=0.01, ha="left")
        drawn.figure.savefig(image, format="png")
    return image.getvalue()


def problem_text(opened: OpenCheckpoint, index: int) -> str:
    """Problem `index` of the test split: the question, the graph of parameters, and the generator's own solution."""
    source = opened.data.source("test", STREAM)
    return show(source, source.documents([index]), 0, index, colour=False)


def solution_html(opened: OpenCheckpoint, index: int) -> str:
    """The model's greedy solution of problem `index`, each step with the checker's verdict."""
    source = opened.data.source("test", STREAM)
    return rollout_fragment(evaluate(opened.model, source, [index]).samples(source, 1)[0])


def solve(opened: OpenCheckpoint, problems: int) -> Evaluation:
    """The model's greedy solutions of the first problems that the glass shows of the test split, with verdicts."""
    return evaluate(opened.model, opened.data.source("test", STREAM), range(problems))


def first_wrong(done: Evaluation) -> int | None:
    """Index of the first problem that is not solved, to be looked at in the glass; None where all are."""
    wrong = np.flatnonzero(~done.verdicts.right)
    return int(done.index[wrong[0]]) if len(wrong) else None


def probe_run(path: str | Path, stage: str, runs: Path = RUNS) -> Run | None:
    """The newest finished run of probes.run on this model, beside it or under runs/probes.

    stage: what its summary says it is, `probe` (task=layers) or `mistakes`.
    """
    name = run_folder_name(str(path))
    home = next((parent.parent for parent in (Path(path), *Path(path).parents) if parent.name == name), runs)
    found = [Run(p.parent) for folder in (home, runs / "probes") for p in folder.glob("*/summary.json")]
    found = [run for run in found if run.summary.get("stage") == stage]
    found = [run for run in found if run_folder_name(str(run.config.get("model"))) == name]
    return max(found, key=lambda run: (run.folder / "summary.json").stat().st_mtime, default=None)


def mistakes_summary(path: str | Path, runs: Path = RUNS) -> Mapping[str, Any] | None:
    """What the newest `probes.run task=mistakes` of this model found."""
    run = probe_run(path, "mistakes", runs)
    return run.summary if run else None


def distillations(path: Path) -> list[Experiment]:
    """The experiment around a run folder or one of its checkpoints, if it has distillations; else none."""
    folder = next((p for p in (path, *path.parents) if (p / "config.yaml").is_file()), None)
    experiments = load([folder.parent]) if folder else []
    return [experiment for experiment in experiments if experiment.arms()]


def before_and_after(experiments: Sequence[Experiment]) -> tuple[Path, Path] | None:
    """The student before and after its first distillation that still has both checkpoints."""
    for experiment in experiments:
        for arm in experiment.arms():
            student = experiment.input(arm, "student")
            if student and all((run.folder / "checkpoints.jsonl").is_file() for run in (student, arm)):
                return student.folder, arm.folder
    return None
