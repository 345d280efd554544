"""Figures of what the models can do: accuracy by operations, the arms at equal compute, and what each arm spent.

Intervals are 95%; with several seeds the problems are pooled and each seed is a small mark beside. Fully correct
solutions come first: a constant final answer is right surprisingly often, and the floor says how often.
"""

from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.plotting import CaptionedFigure, error_bars, finish, legend_once, stacked_bars
from train.report.estimates import Missing, PooledEstimate, gap_share, no_distillation, solution_accuracy
from train.report.page import StageStyle, label, stage_styles
from train.runs.results import Experiment, Run, counts, is_number
from train.statistics import Estimate, wilson
from train.tables import plural


def evaluated(experiments: list[Experiment]) -> dict[str, list[Run]]:
    """Stage -> its evaluations, one for each seed: teacher, student, then the arms in the recipe's order."""
    found: dict[str, list[Run]] = {}
    for stage in stage_styles(experiments):
        if runs := [run for e in experiments if (run := e.evaluation_of(stage)) is not None]:
            found[stage] = runs
    if not found:
        raise Missing("no evaluation with counts by number of operations")
    return found


def by_operations(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy by number of operations: fully correct solutions, and final answers with the constant-answer floor."""
    found, styles = evaluated(experiments), stage_styles(experiments)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, (stage, runs) in enumerate(found.items()):
        shift = (i - (len(found) - 1) / 2) * 0.09
        _one_model(left, runs, "right", styles[stage], shift, label(experiments, stage))
        _one_model(right, runs, "answer_right", styles[stage], shift, None)
    floor = pooled_by_ops([run for runs in found.values() for run in runs], "floor_right")
    if floor:
        name = "best constant answer"
        right.plot(list(floor), [r.value for r in floor.values()], color="black", ls=":", lw=1.4, label=name)
    for ax, title in ((left, "fully correct solution"), (right, "final answer alone")):
        finish(ax, "y", "x", title=title, xlabel="operations", ylim=(-0.03, 1.03))
    figure.legend(loc="outside lower center", ncols=3)
    sizes = " or ".join(map(str, sorted({counts(run)[1] for runs in found.values() for run in runs})))
    seeds = " (small marks: single seeds)" if len(experiments) > 1 else ""
    dotted = " The dotted line answers every problem with the same number." if floor else ""
    caption = f"n = {sizes} held-out problems for each model and seed; 95% Wilson intervals{seeds}.{dotted}"
    return CaptionedFigure(figure, "Accuracy by number of operations", caption)


def _one_model(ax: Axes, runs: list[Run], key: str, style: StageStyle, shift: float, name: str | None) -> None:
    rates, look = pooled_by_ops(runs, key), style._asdict()
    if rates:
        ax.errorbar(
            np.array(list(rates)) + shift, *error_bars(list(rates.values())), elinewidth=1.2, label=name, **look
        )
    for run in runs if len(runs) > 1 else []:
        seed = pooled_by_ops([run], key)
        ax.plot(np.array(list(seed)) + shift, [r.value for r in seed.values()], "_", color=style.color, alpha=0.6)


def pooled_by_ops(runs: list[Run], key: str) -> dict[int, Estimate]:
    """Operations -> rate over all runs' problems of that many operations."""
    totals: dict[int, list[int]] = {}
    for run in runs:
        for row in run.summary.get("by_ops", []):
            if row.get(key) is not None and row["n"]:
                total = totals.setdefault(int(row["ops"]), [0, 0])
                total[0] += int(row[key])
                total[1] += int(row["n"])
    return {ops: wilson(*totals[ops]) for ops in sorted(totals)}


def compared_arms(experiments: list[Experiment]) -> list[str]:
    """Names of the arms that were evaluated, in the recipe's order."""
    found = evaluated(experiments)
    names = [name for name in dict.fromkeys(run.name for e in experiments for run in e.arms()) if name in found]
    if not names:
        raise no_distillation(experiments, "no evaluated arm")
    return names


def arms(experiments: list[Experiment]) -> CaptionedFigure:
    """Student, arms and teacher on one axis, and the share of the gap that each arm closed."""
    compared, found, styles = compared_arms(experiments), evaluated(experiments), stage_styles(experiments)
    part = experiments[0].roles()
    rows = [s for s in (part.get("student"), *compared, part.get("teacher")) if s in found]
    figure = Figure(figsize=(7, 1.4 + 0.5 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, stage in enumerate(rows):
        _dot(left, i, solution_accuracy(experiments, stage), styles[stage])
        if stage in compared:
            try:
                _dot(right, i, gap_share(experiments, stage), styles[stage])
            except Missing:
                right.set_visible(False)
    left.set_yticks(range(len(rows)), [label(experiments, stage) for stage in rows])
    cast(Any, figure.get_layout_engine()).set(w_pad=0.15)  # so that 100% of one axis keeps clear of 0% of the next
    left.xaxis.set_major_locator(MaxNLocator(4))
    finish(left, "x", title="fully correct", xlim=(0, 1), ylim=(len(rows) - 0.5, -0.7))
    finish(right, "x", title="share of the gap closed")
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    for end in (0, 1):
        right.axvline(end, color="black", lw=0.8)
    seeds = "; small marks are single seeds" if len(experiments) > 1 else ""
    caption = f"0% of the gap is the student before, 100% the teacher. 95% intervals over problems{seeds}."
    return CaptionedFigure(figure, "The arms at equal compute, from the same student", caption)


def _dot(ax: Axes, row: int, measured: PooledEstimate, style: StageStyle) -> None:
    rate = measured.pooled
    if not is_number(rate.value):
        return
    value, error = error_bars([rate])
    ax.errorbar(value, [row], xerr=error, color=style.color, marker=style.marker, ms=8, elinewidth=2, ls="none")
    place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    ax.annotate(f"{rate.value:.0%}", (rate.value, row), **place)
    if len(measured.seeds) > 1:
        ax.plot(measured.seeds, [row + 0.2] * len(measured.seeds), "|", color=style.color, ms=7)


def over_compute(experiments: list[Experiment]) -> CaptionedFigure:
    """How the arms rise with the FLOPs they spend: the evaluations made while training."""
    curves = [(run, *run.curve("eval_full", "flops")) for e in experiments for run in e.arms()]
    curves = [curve for curve in curves if len(curve[1]) > 1]
    if not curves:
        raise no_distillation(experiments, "no arm that was evaluated while it was trained")
    figure, styles = Figure(figsize=(7, 3.6), layout="constrained"), stage_styles(experiments)
    ax = figure.subplots()
    for run, flops, value in curves:
        marker, color = styles[run.name].marker, styles[run.name].color
        ax.plot(flops, value, color=color, marker=marker, ms=4, alpha=0.8, label=label(experiments, run.name))
    top = max(0.1, 1.1 * ax.get_ylim()[1])
    finish(ax, "y", title="fully correct, while training", xlabel="FLOPs spent", ylim=(-0.02, top))
    legend_once(ax)
    sizes = sorted({int(n) for run, *_ in curves for n in run.curve("eval_n")[1]})
    size = f" of n = {' or '.join(map(str, sizes))} problems of a validation stream" if sizes else ""
    caption = f"Greedy solutions{size}; {plural(len(curves), 'run')}. Work of generation, teacher and update all count."
    return CaptionedFigure(figure, "The arms over the compute they spend", caption)


def cost(experiments: list[Experiment]) -> CaptionedFigure:
    """What each arm spent, by kind of work: FLOPs, tokens and seconds."""
    runs = [run for e in experiments for run in e.arms() if run.ledger]
    if not runs:
        raise no_distillation(experiments, "no arm with a ledger")
    names = list(dict.fromkeys(run.name for run in runs))
    units = [unit for unit in ("flops", "tokens", "seconds") if any(run.ledger.get(unit) for run in runs)]
    kinds = list(dict.fromkeys(kind for run in runs for unit in units for kind in run.ledger.get(unit, {})))
    figure = Figure(figsize=(7, 1.5 + 0.4 * len(names)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(units), sharey=True))
    for ax, unit in zip(axes, units, strict=True):
        spent = [[run.ledger.get(unit, {}) for run in runs if run.name == name] for name in names]
        amounts = {kind: np.array([np.mean([of.get(kind, 0.0) for of in same]) for same in spent]) for kind in kinds}
        stacked_bars(ax, amounts, height=0.6)
        ax.set(title={"flops": "FLOPs"}.get(unit, unit))
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(names)), [label(experiments, name) for name in names])
    axes[0].invert_yaxis()
    legend_once(figure, loc="outside lower center", ncols=4)
    seeds = ", mean over seeds" if len(experiments) > 1 else ""
    return CaptionedFigure(figure, "What each arm spent, by kind of work", f"From the runs' ledgers{seeds}.")
