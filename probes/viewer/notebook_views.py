"""What notebooks show beside the tour: the glass inside a notebook, mistakes by kind, and the course of a distillation.

Nothing is trained here. Figures have the report's one look (`train.plotting`), with n and 95% intervals.

    HTML(frame("runs/quickstart/teacher-1a2b3c4d", index=3))
    Image(png(mistakes, opened, range(256)))
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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from probes.glass import STREAM, GlassConfig, account, page
from probes.runs import (
    BLUE,
    HEALTH,
    RC_PARAMS,
    RED,
    STEADY,
    CaptionedFigure,
    Estimate,
    Evaluation,
    Experiment,
    OpenCheckpoint,
    Run,
    checkpoint,
    departure,
    error_bars,
    evaluate,
    label,
    legend_once,
    load,
    open_checkpoint,
    run_folder_name,
    stage_styles,
    wilson,
)
from probes.viewer.notebook_figures import MAKE_ONE, RUNS, newest
from probes.viewer.readouts import ReadoutConfig
from synth.judge.checker import KINDS, MALFORMED, reason

FITTED = 200  # problems that the read-outs of a notebook's glass are fitted on: seconds
CAPTION = 100  # characters in a line below a figure
DEPARTURES = {
    "length_mean": "longer by a quarter",
    "truncation": "cut off before the end",
    "repetition": "ending in a loop",
}


def found(setting: str = "GLASSHOUSE_RUN", runs: Path = RUNS) -> Path:
    """The checkpoint that the environment variable names, else the newest under `runs`, else one of the zoo."""
    named = os.environ.get(setting)
    return checkpoint.expand_zoo_path(named, setting) if named else newest(runs)


def nothing(runs: Path = RUNS) -> str:
    """What to do where there is no run of the kind that is wanted."""
    return f"No such run under {runs.name}/: first run `{MAKE_ONE}`, or name a run."


def frame(
    checkpoint: str | Path, beside: str | Path | None = None, index: int = 0, height: int = 820, **settings: Any
) -> str:
    """The glass as a frame inside a page; `settings` as on the command line of `probes.glass`."""
    config = GlassConfig(
        checkpoint=str(checkpoint), beside=str(beside) if beside else None, index=index,
        **{"readout": ReadoutConfig(problems=FITTED)} | settings,
    )  # fmt: skip
    paths = {"checkpoint": config.checkpoint, "beside": config.beside}
    opened = [open_checkpoint(path, name, config.preset) for name, path in paths.items() if path]
    style = f"width:100%;height:{height}px;border:1px solid #bbb;border-radius:8px;background:#fff"
    return f'<div><iframe srcdoc="{escape(page(account(opened, config)))}" style="{style}"></iframe></div>'


def png(maker: Callable[..., CaptionedFigure], *what: Any) -> bytes:
    """A figure in the house style with its caption below, as the bytes of a PNG."""
    with rc_context(RC_PARAMS):
        image, drawn = BytesIO(), maker(*what)
        drawn.figure.supxlabel(
            "\n".join(wrap(drawn.caption, CAPTION)), fontsize=8.5, color="#555555", x=0.01, ha="left"
        )
        drawn.figure.savefig(image, format="png")
    return image.getvalue()


def judged(opened: OpenCheckpoint, problems: int) -> Evaluation:
    """The model's greedy solutions of the first problems that the glass shows of the test split, with verdicts."""
    return evaluate(opened.model, opened.data.source("test", STREAM), range(problems))


def first_wrong(done: Evaluation) -> int | None:
    """Index of the first problem that is not solved, to be looked at in the glass; None where all are."""
    wrong = np.flatnonzero(~done.verdicts.right)
    return int(done.index[wrong[0]]) if len(wrong) else None


def mistakes(done: Evaluation) -> CaptionedFigure:
    """Fully right solutions by operations, and why the others are wrong, each with its interval."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    ops = np.unique(done.ops)
    rates = [wilson(int(done.verdicts.right[done.ops == k].sum()), int((done.ops == k).sum())) for k in ops]
    value, error = error_bars(rates)
    left.errorbar(ops, value, error, color=BLUE, marker="o", elinewidth=1.2)
    left.set(title="every step right", xlabel="operations", ylim=(-0.03, 1.06))
    left.set_xticks(
        ops, [f"{k}\nn={rate.n}" for k, rate in zip(ops, rates, strict=True)], fontsize=9 if len(ops) < 7 else 6
    )
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _reasons(right, [reason(done.verdicts, i) for i in range(len(done.index))])
    caption = f"n = {len(done.index)} held-out problems, greedy; 95% Wilson intervals."
    return CaptionedFigure(figure, "Where solutions go wrong", caption)


def _reasons(ax: Axes, reasons: Sequence[str]) -> None:
    """The first thing that is wrong with each solution, the commonest on top."""
    count = {why: reasons.count(why) for why in dict.fromkeys(reasons) if why != "right"}
    names = sorted(count, key=lambda why: count[why])
    value, error = error_bars([wilson(count[why], len(reasons)) for why in names])
    ax.barh(range(len(names)), value, color=RED, height=0.62, xerr=error if names else None, ecolor="black")
    ax.set_yticks(range(len(names)), [f"{why} ({count[why]})" for why in names])
    ax.set(title="first mistake, share of all solutions")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if not names:
        ax.text(0.5, 0.5, "none is wrong", transform=ax.transAxes, ha="center", color="#555555")


def mistaken_steps(done: Evaluation) -> dict[str, int]:
    """How many steps are of each kind that is a mistake, over all solutions."""
    kind = done.verdicts.kind[done.verdicts.kind >= MALFORMED]
    return {KINDS[k]: int(n) for k, n in enumerate(np.bincount(kind, minlength=len(KINDS))) if n}


def knew(summary: Mapping[str, Any]) -> CaptionedFigure:
    """What the probes of `probes.run task=mistakes` said where the model was about to go wrong, or just had."""
    rows = {
        f"{task} says no, {when}": found
        for key, when in (("first_wrong", "before the name"), ("first_wrong_after", "after the name"))
        for task, found in summary[key].items()
    }
    rows = {f"first wrong parameter:\n{name}": found for name, found in rows.items()}
    rows["unneeded parameter:\nnece says no, before the solution"] = summary["unneeded"]
    rows = {name: found for name, found in rows.items() if found["n"]}
    figure = Figure(figsize=(8.4, 1.1 + 0.5 * max(2, len(rows))), layout="constrained")
    ax = figure.subplots()
    rates = [Estimate(found["accuracy"], found["low"], found["high"], found["n"]) for found in rows.values()]
    value, error = error_bars(rates)
    if rates:
        ax.errorbar(value, range(len(rates)), xerr=error, fmt="o", color=BLUE, elinewidth=1.2)
    ax.set_yticks(range(len(rates)), [f"{name} (n={found['n']})" for name, found in rows.items()])
    ax.set(title="the hidden state knew better", xlim=(-0.03, 1.03), ylim=(len(rates) - 0.5, -0.5))
    ax.axvline(0.5, color="black", lw=1, ls=":")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    caption = "n counts parameters that the model wrote wrongly; 95% intervals over problems."
    return CaptionedFigure(figure, "What the model knew of its mistakes", caption)


def mistakes_run(checkpoint: str | Path, runs: Path = RUNS) -> Mapping[str, Any] | None:
    """The summary of the newest finished `probes.run task=mistakes` of this model, beside it or under runs/probes."""
    home = next((p for p in Path(checkpoint).resolve().parents if p.name != "checkpoints"), runs)
    name = run_folder_name(str(checkpoint))
    found = [Run(p.parent) for folder in (home, home.parent, runs / "probes") for p in folder.glob("*/summary.json")]
    mine = [
        r for r in found if r.summary.get("stage") == "mistakes" and run_folder_name(str(r.config.get("model"))) == name
    ]
    newest_run = max(mine, key=lambda run: (run.folder / "summary.json").stat().st_mtime, default=None)
    return newest_run.summary if newest_run else None


def distillations(path: Path) -> list[Experiment]:
    """The experiment around a run folder or one of its checkpoints, if it has distillations; else none."""
    folder = next((p for p in (path, *path.parents) if (p / "config.yaml").is_file()), None)
    experiments = load([folder.parent]) if folder else []
    return [e for e in experiments if e.arms()]


def pair(experiments: Sequence[Experiment]) -> tuple[Path, Path] | None:
    """The student before and after its first distillation that still has both checkpoints."""
    for experiment in experiments:
        for arm in experiment.arms():
            student = experiment.input(arm, "student")
            if student and all((run.folder / "checkpoints.jsonl").is_file() for run in (student, arm)):
                return student.folder, arm.folder
    return None


def course(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy on held-out problems and the distance from the oracle while distilling, one line for each arm."""
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    solved, far = figure.subplots(1, 2)
    look, sizes = stage_styles(experiments), set()
    for run in (run for experiment in experiments for run in experiment.arms()):
        points = [line for line in run.metrics if "eval_full" in line and line.get("eval_n")]
        rates = [wilson(round(line["eval_full"] * line["eval_n"]), line["eval_n"]) for line in points]
        sizes |= {rate.n for rate in rates}
        value, error = error_bars(rates)
        kind = {"color": look[run.name].color, "marker": look[run.name].marker, "label": label(experiments, run.name)}
        solved.errorbar([line["step"] for line in points], value, error if points else None, elinewidth=1, **kind)
        x, y = run.curve("kl_to_oracle")
        far.plot(x, y, **kind)
    solved.set(title="every step right", xlabel="step", ylim=(-0.03, 1.03))
    solved.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    far.set(title="KL from the oracle, nats a token", xlabel="step", ylim=(0, None))
    legend_once(solved)
    caption = f"n = {' or '.join(map(str, sorted(sizes)))} held-out problems at each mark; 95% Wilson intervals."
    return CaptionedFigure(figure, "The course of distillation", caption)


def signs(experiments: Sequence[Experiment]) -> str:
    """For each distillation, where its rollouts first grew long, were cut off or looped, beyond its own first steps."""
    lines = [f"{'run':<24} {'length':>16} {'cut off':>16} {'looping':>16}  first sign"]
    for run in (run for experiment in experiments for run in experiment.arms()):
        cells, firsts = [f"{run.name:<24}"], []
        for key in HEALTH:
            x, y = run.curve(key)
            cells.append(f"{_span(y, key):>16}")
            if (step := departure(x, y, key)) is not None:
                firsts.append((step, DEPARTURES[key]))
        first = f"step {min(firsts)[0]:g}: {min(firsts)[1]}" if firsts else "none"
        lines.append(" ".join(cells) + f"  {first}")
    return "\n".join(lines)


def _span(y: Sequence[float], key: str) -> str:
    """From the first steps to the last ones."""
    if not y:
        return "-"
    ends = float(np.mean(y[:STEADY])), float(np.mean(y[-STEADY:]))
    return "{:.1f} to {:.1f}".format(*ends) if key == "length_mean" else "{:.1%} to {:.1%}".format(*ends)
