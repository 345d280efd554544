"""What notebooks look up in saved runs: which run, its problems and solutions, its probes, its neighbours.

Nothing is trained here. A notebook shows what is saved under runs/, or a model of the zoo where there is nothing.

    HTML(frame("runs/quickstart/teacher-1a2b3c4d", index=3))
    Image(png(mistakes, solve(opened, 256)))
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

import probes.runs as R
from probes.glass import STREAM, GlassConfig, page, page_json
from probes.runs import (
    CaptionedFigure,
    Evaluation,
    Experiment,
    OpenCheckpoint,
    Run,
    checkpoint,
    error_bars,
    wilson,
    zoo_paths,
)
from probes.tables import estimate_of, percent_axis
from probes.viewer.readouts import ReadoutConfig
from synth.judge.checker import KINDS, MALFORMED, reason
from synth.view.text import show

RUNS = Path(__file__).resolve().parents[2] / "runs"
QUICKSTART, ZOO_MODEL = "python -m train.recipe recipe=quickstart", "zoo/tiny-teacher-0"
FITTED = 200  # problems that the read-outs of a notebook's page are fitted on: seconds
SIGNS = {"length_mean": "longer by a quarter", "truncation": "cut off before the end", "repetition": "ending in a loop"}
CAPTION = 100  # characters in a line below a figure


def find_run(setting: str = "GLASSHOUSE_RUN", runs: Path = RUNS) -> Path:
    """The checkpoint that the environment variable names, else the newest under `runs`, else one of the zoo. The newest
    teacher of the quickstart comes before other runs."""
    if named := os.environ.get(setting):
        return zoo_paths.expand(named, setting)
    for pattern in ("quickstart/teacher-*/checkpoints.jsonl", "*/*/checkpoints.jsonl"):
        if found := [index for index in runs.glob(pattern) if checkpoint.latest(index.parent) is not None]:
            return max(found, key=lambda index: index.stat().st_mtime).parent
    return zoo_paths.expand(ZOO_MODEL)


def no_such_run() -> str:
    """What to do where there is no run of the kind that is wanted."""
    return f"No such run under {RUNS.name}/: first run `{QUICKSTART}`, or name a run."


def frame(
    checkpoint: str | Path, beside: str | Path | None = None, index: int = 0, height: int = 820, **settings: Any
) -> str:
    """The page of `probes.glass` as a frame in a notebook; `settings` as on its command line."""
    paths = {"checkpoint": str(checkpoint)} | ({"beside": str(beside)} if beside else {})
    settings = {"readout": ReadoutConfig(problems=FITTED), "index": index, **paths, **settings}
    config = GlassConfig(**settings)
    opened = [R.open_checkpoint(path, name, config.preset) for name, path in paths.items()]
    style = f"width:100%;height:{height}px;border:1px solid #bbb;border-radius:8px;background:#fff"
    return f'<div><iframe srcdoc="{escape(page(page_json(opened, config)))}" style="{style}"></iframe></div>'


def png(maker: Callable[..., CaptionedFigure], *arguments: Any) -> bytes:
    """A figure in the common style with its caption below, as the bytes of a PNG."""
    with rc_context(R.RC_PARAMS):
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
    return R.rollout_fragment(R.evaluate(opened.model, source, [index]).samples(source, 1)[0])


def solve(opened: OpenCheckpoint, problems: int) -> Evaluation:
    """The model's greedy solutions of the first problems that the glass shows of the test split, with verdicts."""
    return R.evaluate(opened.model, opened.data.source("test", STREAM), range(problems))


def first_wrong(done: Evaluation) -> int | None:
    """Index of the first problem that is not solved, to be looked at in the glass; None where all are."""
    wrong = np.flatnonzero(~done.verdicts.right)
    return int(done.index[wrong[0]]) if len(wrong) else None


def probe_run(path: str | Path, stage: str, runs: Path = RUNS) -> Run | None:
    """The newest finished run of probes.run on this model, beside it or under runs/probes. stage: what its summary says
    it is, `probe` (task=layers) or `mistakes`."""
    name = R.run_folder_name(str(path))
    home = next((parent.parent for parent in (Path(path), *Path(path).parents) if parent.name == name), runs)
    found = [Run(p.parent) for folder in (home, runs / "probes") for p in folder.glob("*/summary.json")]
    found = [run for run in found if run.summary.get("stage") == stage]
    found = [run for run in found if R.run_folder_name(str(run.config.get("model"))) == name]
    return max(found, key=lambda run: (run.folder / "summary.json").stat().st_mtime, default=None)


def mistakes_summary(path: str | Path, runs: Path = RUNS) -> Mapping[str, Any] | None:
    """What the newest `probes.run task=mistakes` of this model found."""
    run = probe_run(path, "mistakes", runs)
    return run.summary if run else None


def distillations(path: Path) -> list[Experiment]:
    """The experiment around a run folder or one of its checkpoints, if it has distillations; else none."""
    folder = next((p for p in (path, *path.parents) if (p / "config.yaml").is_file()), None)
    experiments = R.load([folder.parent]) if folder else []
    return [experiment for experiment in experiments if experiment.arms()]


def before_and_after(experiments: Sequence[Experiment]) -> tuple[Path, Path] | None:
    """The student before and after its first distillation that still has both checkpoints."""
    for experiment, arm in _arms(experiments):
        student = experiment.input(arm, "student")
        if student and all((run.folder / "checkpoints.jsonl").is_file() for run in (student, arm)):
            return student.folder, arm.folder
    return None


def _arms(experiments: Sequence[Experiment]) -> list[tuple[Experiment, Run]]:
    return [(experiment, arm) for experiment in experiments for arm in experiment.arms()]


def probe_map(run: Run) -> CaptionedFigure:
    """Accuracy of a model's probes over its layers, beside the controls."""
    return R.layer_map([Experiment({run.name: run})])


def mistakes(done: Evaluation) -> CaptionedFigure:
    """Fully right solutions by operations, and why the others are wrong, each with its interval."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    ops = np.unique(done.ops)
    rates = [wilson(int(done.verdicts.right[done.ops == k].sum()), int((done.ops == k).sum())) for k in ops]
    value, error = error_bars(rates)
    left.errorbar(ops, value, error, color=R.BLUE, marker="o", elinewidth=1.2)
    left.set(title="every step right", xlabel="operations", ylim=(-0.03, 1.06))
    ticks = [f"{k}\nn={rate.n}" for k, rate in zip(ops, rates, strict=True)]
    left.set_xticks(ops, ticks, fontsize=9 if len(ops) < 7 else 6)
    percent_axis(left)
    reasons = Counter(reason(done.verdicts, i) for i in range(len(done.index)))
    names = sorted((why for why in reasons if why != "right"), key=lambda why: reasons[why])  # the commonest on top
    value, error = error_bars([wilson(reasons[why], len(done.index)) for why in names])
    right.barh(range(len(names)), value, color=R.RED, height=0.62, xerr=error if names else None, ecolor="black")
    right.set_yticks(range(len(names)), [f"{why} ({reasons[why]})" for why in names])
    right.set(title="first mistake, share of all solutions")
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if not names:
        right.text(0.5, 0.5, "none is wrong", transform=right.transAxes, ha="center", color="#555555")
    caption = f"n = {len(done.index)} held-out problems, greedy; 95% Wilson intervals."
    return CaptionedFigure(figure, "Where solutions go wrong", caption)


def mistaken_steps(done: Evaluation) -> dict[str, int]:
    """How many steps are of each kind that is a mistake, over all solutions."""
    kind = done.verdicts.kind[done.verdicts.kind >= MALFORMED]
    return {KINDS[k]: int(n) for k, n in enumerate(np.bincount(kind, minlength=len(KINDS))) if n}


def knew(summary: Mapping[str, Any]) -> CaptionedFigure:
    """What the probes of `probes.run task=mistakes` said where the model was about to go wrong, or just had."""
    rows = {
        f"first wrong parameter:\n{task} says no, {when}": found
        for key, when in (("first_wrong", "before the name"), ("first_wrong_after", "after the name"))
        for task, found in summary[key].items()
    }
    rows["unneeded parameter:\nnece says no, before the solution"] = summary["unneeded"]
    rows = {name: found for name, found in rows.items() if found["n"]}
    figure = Figure(figsize=(8.4, 1.1 + 0.5 * max(2, len(rows))), layout="constrained")
    ax = figure.subplots()
    value, error = error_bars([estimate_of(found, "accuracy") for found in rows.values()])
    if rows:
        ax.errorbar(value, range(len(rows)), xerr=error, fmt="o", color=R.BLUE, elinewidth=1.2)
    ax.set_yticks(range(len(rows)), [f"{name} (n={found['n']})" for name, found in rows.items()])
    ax.set(title="the hidden state knew better", xlim=(-0.03, 1.03), ylim=(len(rows) - 0.5, -0.5))
    ax.axvline(0.5, color="black", lw=1, ls=":")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    caption = "n counts parameters that the model wrote wrongly; 95% intervals over problems."
    return CaptionedFigure(figure, "What the model knew of its mistakes", caption)


def course(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy on held-out problems and the distance from the oracle while distilling, one line for each arm."""
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    solved, far = figure.subplots(1, 2)
    styles, sizes = R.stage_styles(experiments), set()
    for _, run in _arms(experiments):
        points = [line for line in run.metrics if "eval_full" in line and line.get("eval_n")]
        rates = [wilson(round(line["eval_full"] * line["eval_n"]), line["eval_n"]) for line in points]
        sizes |= {rate.n for rate in rates}
        value, error = error_bars(rates)
        style = {"color": styles[run.name].color, "marker": styles[run.name].marker}
        style["label"] = R.label(experiments, run.name)
        solved.errorbar([line["step"] for line in points], value, error if points else None, elinewidth=1, **style)
        far.plot(*run.curve("kl_to_oracle"), **style)
    solved.set(title="every step right", xlabel="step", ylim=(-0.03, 1.03))
    percent_axis(solved)
    far.set(title="KL from the oracle, nats a token", xlabel="step", ylim=(0, None))
    R.legend_once(solved)
    caption = f"n = {' or '.join(map(str, sorted(sizes)))} held-out problems at each mark; 95% Wilson intervals."
    return CaptionedFigure(figure, "The course of distillation", caption)


def signs(experiments: Sequence[Experiment]) -> str:
    """For each distillation, where its rollouts first grew long, were cut off or looped (`train.runs.collapse`)."""
    cells = []
    for _, run in _arms(experiments):
        curves = {key: run.curve(key) for key in R.HEALTH}
        firsts = [(step, SIGNS[key]) for key, curve in curves.items() if (step := R.departure(*curve, key)) is not None]
        first = f"step {min(firsts)[0]:g}: {min(firsts)[1]}" if firsts else "none"
        ends = []  # from the first logged steps to the last ones
        for key, (_, values) in curves.items():
            start, end = (float(np.mean(part)) if part else None for part in (values[: R.STEADY], values[-R.STEADY :]))
            unit = ".1f" if key == "length_mean" else ".1%"
            ends.append("-" if start is None else f"{start:{unit}} to {end:{unit}}")
        cells.append([run.name, *ends, first])
    return R.Table(["run", "length", "cut off", "looping", "first sign"], cells).text()
