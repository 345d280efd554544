"""Figures of notebooks: mistakes by kind, what the model knew of them, and the course of a distillation.

Figures have the reports' style (`train.plotting`), with n and 95% intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from probes.analyses.analysis import percent_axis
from probes.runs import (
    BLUE,
    HEALTH,
    RED,
    STEADY,
    CaptionedFigure,
    Evaluation,
    Experiment,
    Run,
    Table,
    departure,
    error_bars,
    label,
    layer_map,
    legend_once,
    stage_styles,
    wilson,
)
from probes.tables import estimate_of
from synth.judge.checker import KINDS, MALFORMED, reason

SIGNS = {"length_mean": "longer by a quarter", "truncation": "cut off before the end", "repetition": "ending in a loop"}


def probe_map(run: Run) -> CaptionedFigure:
    """Accuracy of a model's probes over its layers, beside the controls."""
    return layer_map([Experiment({run.name: run})])


def mistakes(done: Evaluation) -> CaptionedFigure:
    """Fully right solutions by operations, and why the others are wrong, each with its interval."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    ops = np.unique(done.ops)
    rates = [wilson(int(done.verdicts.right[done.ops == k].sum()), int((done.ops == k).sum())) for k in ops]
    value, error = error_bars(rates)
    left.errorbar(ops, value, error, color=BLUE, marker="o", elinewidth=1.2)
    left.set(title="every step right", xlabel="operations", ylim=(-0.03, 1.06))
    ticks = [f"{k}\nn={rate.n}" for k, rate in zip(ops, rates, strict=True)]
    left.set_xticks(ops, ticks, fontsize=9 if len(ops) < 7 else 6)
    percent_axis(left)
    _draw_reasons(right, [reason(done.verdicts, i) for i in range(len(done.index))])
    caption = f"n = {len(done.index)} held-out problems, greedy; 95% Wilson intervals."
    return CaptionedFigure(figure, "Where solutions go wrong", caption)


def _draw_reasons(ax: Axes, reasons: Sequence[str]) -> None:
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
        ax.errorbar(value, range(len(rows)), xerr=error, fmt="o", color=BLUE, elinewidth=1.2)
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
    styles, sizes = stage_styles(experiments), set()
    for run in (run for experiment in experiments for run in experiment.arms()):
        points = [line for line in run.metrics if "eval_full" in line and line.get("eval_n")]
        rates = [wilson(round(line["eval_full"] * line["eval_n"]), line["eval_n"]) for line in points]
        sizes |= {rate.n for rate in rates}
        value, error = error_bars(rates)
        style = {"color": styles[run.name].color, "marker": styles[run.name].marker}
        style["label"] = label(experiments, run.name)
        solved.errorbar([line["step"] for line in points], value, error if points else None, elinewidth=1, **style)
        far.plot(*run.curve("kl_to_oracle"), **style)
    solved.set(title="every step right", xlabel="step", ylim=(-0.03, 1.03))
    percent_axis(solved)
    far.set(title="KL from the oracle, nats a token", xlabel="step", ylim=(0, None))
    legend_once(solved)
    caption = f"n = {' or '.join(map(str, sorted(sizes)))} held-out problems at each mark; 95% Wilson intervals."
    return CaptionedFigure(figure, "The course of distillation", caption)


def signs(experiments: Sequence[Experiment]) -> str:
    """For each distillation, where its rollouts first grew long, were cut off or looped (`train.runs.collapse`)."""
    cells = []
    for run in (run for experiment in experiments for run in experiment.arms()):
        curves = {key: run.curve(key) for key in HEALTH}
        firsts = [(step, SIGNS[key]) for key, curve in curves.items() if (step := departure(*curve, key)) is not None]
        first = f"step {min(firsts)[0]:g}: {min(firsts)[1]}" if firsts else "none"
        cells.append([run.name, *(_start_to_end(values, key) for key, (_, values) in curves.items()), first])
    return Table(["run", "length", "cut off", "looping", "first sign"], cells).text()


def _start_to_end(values: Sequence[float], key: str) -> str:
    """From the first logged steps to the last ones."""
    if not values:
        return "-"
    start, end = float(np.mean(values[:STEADY])), float(np.mean(values[-STEADY:]))
    return f"{start:.1f} to {end:.1f}" if key == "length_mean" else f"{start:.1%} to {end:.1%}"
