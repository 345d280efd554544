"""The collapse laboratory: which distillations collapsed and when, what the cures do, and which signs gave notice.

Shown where a run collapsed (`onset.py` defines it). Of several seeds each is a line. Try: `python -m train.report
runs/collapse`.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.plotting import GREY, RED, CaptionedFigure
from train.report import page
from train.report.estimates import Missing, NotApplicable, PooledEstimate
from train.report.stage_styles import label
from train.report.studies.collapse_onset import (
    LEVEL,
    QUIET,
    SIGNATURE,
    is_published,
    onset,
    rolling,
    signature,
    warnings,
)
from train.runs.results import Experiment, Run, is_number
from train.statistics import wilson
from train.tables import NONE, format_interval, plural

# row of the figure -> metric of the log, and the ends of its axis where they are known
ROWS = {
    "rollouts right": ("accuracy_strict", (0.0, 1.0)),
    "TruncRate": ("truncation", (0.0, 1.0)),
    "ending in a loop": ("repetition", (0.0, 1.0)),
    "teacher advantage": ("advantage", None),
}
WIDTH = 5  # logged steps that a line is a mean of
PER_BAND = 7  # arms side by side


def sampled(experiments: list[Experiment]) -> dict[str, list[Run]]:
    """Stage -> its runs that sampled from their student, one for each seed, in the recipe's order."""
    found: dict[str, list[Run]] = {}
    for experiment in experiments:
        for run in experiment.arms():
            if run.curve("truncation")[0]:
                found.setdefault(run.name, []).append(run)
    return found


def collapses(experiments: list[Experiment]) -> tuple[list[tuple[Run, int]], list[Run]]:
    """The runs that collapsed with their onsets, and the others. Raises NotApplicable where none did."""
    runs = [run for several_runs in sampled(experiments).values() for run in several_runs]
    found = [(run, at) for run in runs if (at := onset(run)) is not None]
    if not found:
        raise NotApplicable("no distillation collapsed")
    return found, [run for run in runs if all(run is not ill for ill, _ in found)]


def collapsed_share(experiments: list[Experiment], stage: str) -> PooledEstimate:
    """Share of the seeds in which `stage` collapsed with the published signature."""
    runs = _of(experiments, stage)
    return _share([(at := onset(run)) is not None and is_published(signature(run, at)) for run in runs])


def stable_share(experiments: list[Experiment], stage: str) -> PooledEstimate:
    """Share of the seeds in which `stage` came to its end without an onset."""
    return _share([onset(run) is None for run in _of(experiments, stage) if run.complete])


def _of(experiments: list[Experiment], stage: str) -> list[Run]:
    runs = sampled(experiments).get(stage)
    if not runs:
        raise Missing(f"no rollouts of {stage}")
    return runs


def _share(held: list[bool]) -> PooledEstimate:
    if not held:
        raise Missing("no run came to its end")
    return PooledEstimate(wilson(sum(held), len(held)), [float(yes) for yes in held])


def figure(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy, truncation, repetition and teacher advantage over the steps: an arm a column, the first arm in grey."""
    collapses(experiments)
    arms = sampled(experiments)
    names, (first, *_) = list(arms), arms
    bands = -(-len(names) // PER_BAND)
    drawn = Figure(figsize=(1.9 * min(len(names), PER_BAND) + 0.6, 5.6 * bands), layout="constrained")
    axes = drawn.subplots(len(ROWS) * bands, min(len(names), PER_BAND), sharey=False, squeeze=False)
    low, high = _ends(arms[first])
    for place, ax in np.ndenumerate(axes):
        band, row = divmod(place[0], len(ROWS))
        at = band * PER_BAND + place[1]
        if at >= len(names):
            ax.set_visible(False)
            continue
        title, (key, ends) = list(ROWS.items())[row]
        for run in arms[first]:
            _line(ax, run, key, GREY, 0.55)
        for run in arms[names[at]] if names[at] != first else []:
            _line(ax, run, key, RED, 0.9)
        ax.set_ylim(*((-0.04, 1.04) if ends else (low, high)))
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.tick_params(labelsize=8)
        if row == 0:
            ax.set_title(label(experiments, names[at]), fontsize=9)
        if row == len(ROWS) - 1:
            ax.set_xlabel("step", fontsize=9)
        if place[1] == 0:
            ax.set_ylabel(title, fontsize=9)
        else:
            ax.set_yticklabels([])
    caption = (
        f"Grey: {label(experiments, first)}, {plural(len(arms[first]), 'seed')}; orange: the arm of the column. Mean "
        f"over {WIDTH} logged steps of a training step's rollouts at temperature 1; teacher advantage is mean "
        "log p(y) - log q(y) in nats a token, whose rise is what the loss rewards. Arms stop when they have spent the "
        "same FLOPs; a dotted line is an onset."
    )
    return CaptionedFigure(drawn, "A collapse, and its cures at equal compute", caption)


def _ends(runs: list[Run]) -> tuple[float, float]:
    """An axis for the advantage in which these runs are seen well; an exact teacher's is far below it."""
    values = np.concatenate([rolling(np.asarray(run.curve("advantage")[1]), WIDTH) for run in runs])
    low, high = (float(values.min()), float(values.max())) if len(values) else (-1.0, 0.0)
    return min(1.5 * low, 0.0), max(0.0, high) + 0.05 * abs(low)


def _line(ax: Axes, run: Run, key: str, color: str, alpha: float) -> None:
    step, value = run.curve(key)
    ax.plot(step, rolling(np.asarray(value), WIDTH), color=color, alpha=alpha, lw=1.3)
    if (at := onset(run)) is not None:
        ax.axvline(at, color=color, lw=0.8, ls=":", alpha=alpha)


def tables(experiments: list[Experiment]) -> list[str]:
    """The arms, what the collapses changed, and the signs in order."""
    collapsed, healthy = collapses(experiments)
    parts = [
        arms_table(experiments),
        page.paragraph(
            f"Onset: the first logged step from which TruncRate, a mean over five logged steps, stays at {LEVEL:.0%} "
            "or above to the end. Greedy: held-out problems at the end of the run, every step right, 95% Wilson "
            "interval over the problems of all seeds.",
            "soft",
        ),
    ]
    parts += [page.heading("What the collapse changed", 3), changes_table(experiments, collapsed)]
    parts += [page.heading("Signs that came before", 3), *signs_table(collapsed, healthy)]
    return parts


def arms_table(experiments: list[Experiment]) -> str:
    """One row an arm: what its model solves, how its rollouts ended up, and when it collapsed."""
    rows = []
    for name, runs in sampled(experiments).items():
        ends = [
            [_end(run, key) for run in runs] for key in ("accuracy_strict", "length_mean", "truncation", "repetition")
        ]
        right, length, cut, loops = (float(np.nanmean(values)) for values in ends)
        at = [onset(run) for run in runs]
        when = ", ".join("none" if step is None else str(step) for step in at)
        flops = np.mean([run.total("flops") for run in runs])
        row = [label(experiments, name), greedy(runs), f"{right:.0%}", f"{length:.0f}", f"{cut:.0%}", f"{loops:.0%}"]
        rows.append([*row, when, f"{flops:.2g}", str(len(runs))])
    head = [
        "arm",
        "greedy, fully correct [95%]",
        "rollouts right",
        "tokens",
        "TruncRate",
        "in a loop",
        "onset, by seed",
    ]
    return page.table([*head, "FLOPs", "seeds"], rows)


def greedy(runs: list[Run]) -> str:
    """Fully correct share at the last evaluation of the runs, pooled, with n."""
    last = [[line for line in run.metrics if is_number(line.get("eval_full"))] for run in runs]
    counted = [
        (round(lines[-1]["eval_full"] * lines[-1]["eval_n"]), int(lines[-1]["eval_n"])) for lines in last if lines
    ]
    if not counted:
        return NONE
    right, n = (sum(column) for column in zip(*counted, strict=True))
    return f"{format_interval(wilson(right, n))}, n = {n}"


def _end(run: Run, key: str) -> float:
    """Mean over the last ten logged steps."""
    values = run.curve(key)[1]
    return float(np.mean(values[-10:])) if values else float("nan")


def changes_table(experiments: list[Experiment], collapsed: list[tuple[Run, int]]) -> str:
    """One row a collapsed run: each metric of the published signature before and after."""
    rows = []
    for run, at in collapsed:
        changes = signature(run, at)
        cells = [f"{c.before:.3g} → {c.after:.3g}" if (c := changes.get(key)) else NONE for key in SIGNATURE]
        seed = next((str(e.seed) for e in experiments if run in e.runs.values()), NONE)
        kind = "as published" if is_published(changes) else "another failure"
        rows.append([label(experiments, run.name), seed, str(at), *cells, kind])
    return page.table(["arm", "seed", "onset", *SIGNATURE, "kind"], rows)


def signs_table(collapsed: list[tuple[Run, int]], healthy: list[Run]) -> list[str]:
    """The early warnings, best first."""
    found = warnings(collapsed, healthy)
    if not found:
        raise Missing("no two quiet runs to calibrate warnings on")
    rows = []
    for warned in found:
        leads = ", ".join(map(str, sorted(warned.leads, reverse=True))) or NONE
        row = [warned.sign, f"{len(warned.leads)} of {warned.collapsed}", f"{warned.lead:.0f}", leads]
        rows.append([*row, f"{warned.wolf} of {warned.turned}", f"{warned.threshold:.3g}"])
    head = ["sign", "collapses announced", "median lead, steps", "leads", "cried wolf", "threshold"]
    how = (
        "A sign fires when its mean over three logged steps has moved further from the run's first five than in any of "
        f"{found[0].quiet} quiet runs (TruncRate over five steps never above {QUIET:.0%}). It cries wolf where it "
        "fires in a run that inflated and turned back: a sign that does so in most of them tells that something is "
        "going on, not that it ends in a collapse."
    )
    return [page.table(head, rows), page.paragraph(how, "soft")]
