"""The collapse laboratory: which distillations collapsed and when, what the cures do, and which signs came before.

Shown where a run collapsed (`train.runs.collapse` defines it). Of several seeds each is a line. Try: `python -m
train.report runs/collapse`.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.plotting import GREY, RED, CaptionedFigure
from train.report.estimates import Missing, NotApplicable, PooledEstimate
from train.report.page import Piece, label, note, piece
from train.report.studies.collapse_warnings import QUIET, SIGNATURE, early_warnings, is_published, signature
from train.runs.collapse import TRUNCATED, onset, trailing_mean
from train.runs.results import Experiment, Run, is_number
from train.statistics import wilson
from train.tables import NONE, Table, format_interval, plural

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
    runs = _sampled_runs(experiments, stage)
    return _share([(at := onset(run)) is not None and is_published(signature(run, at)) for run in runs])


def stable_share(experiments: list[Experiment], stage: str) -> PooledEstimate:
    """Share of the seeds in which `stage` came to its end without an onset."""
    return _share([onset(run) is None for run in _sampled_runs(experiments, stage) if run.complete])


def _sampled_runs(experiments: list[Experiment], stage: str) -> list[Run]:
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
    names, first = list(arms), next(iter(arms))
    bands, columns = -(-len(names) // PER_BAND), min(len(names), PER_BAND)
    drawn = Figure(figsize=(1.9 * columns + 0.6, 5.6 * bands), layout="constrained")
    axes = drawn.subplots(len(ROWS) * bands, columns, squeeze=False)
    ends = _advantage_axis(arms[first])
    for (line, column), ax in np.ndenumerate(axes):
        band, row = divmod(line, len(ROWS))
        if band * PER_BAND + column >= len(names):
            ax.set_visible(False)
            continue
        name, (title, (key, limits)) = names[band * PER_BAND + column], list(ROWS.items())[row]
        for run in arms[first]:
            _line(ax, run, key, GREY, 0.55)
        for run in arms[name] if name != first else []:
            _line(ax, run, key, RED, 0.9)
        ax.set_ylim(*((-0.04, 1.04) if limits else ends))
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.tick_params(labelsize=8)
        if row == 0:
            ax.set_title(label(experiments, name), fontsize=9)
        if row == len(ROWS) - 1:
            ax.set_xlabel("step", fontsize=9)
        if column == 0:
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


def _advantage_axis(runs: list[Run]) -> tuple[float, float]:
    """The ends of an axis for the advantage that show these runs well; an exact teacher's lies far below."""
    values = np.concatenate([trailing_mean(np.asarray(run.curve("advantage")[1]), WIDTH) for run in runs])
    low, high = (float(values.min()), float(values.max())) if len(values) else (-1.0, 0.0)
    return min(1.5 * low, 0.0), max(0.0, high) + 0.05 * abs(low)


def _line(ax: Axes, run: Run, key: str, color: str, alpha: float) -> None:
    step, value = run.curve(key)
    ax.plot(step, trailing_mean(np.asarray(value), WIDTH), color=color, alpha=alpha, lw=1.3)
    if (at := onset(run)) is not None:
        ax.axvline(at, color=color, lw=0.8, ls=":", alpha=alpha)


def section(experiments: list[Experiment]) -> list[Piece]:
    """The arms, what the collapses changed, and the signs in order."""
    collapsed, healthy = collapses(experiments)
    pieces = [arms_table(experiments), note("collapse", level=f"{TRUNCATED:.0%}")]
    pieces += [piece("heading", "What the collapse changed", 3), changes_table(experiments, collapsed)]
    return [*pieces, piece("heading", "Signs that came before", 3), *warnings_table(collapsed, healthy)]


def arms_table(experiments: list[Experiment]) -> Table:
    """One row an arm: what its model solves, how its rollouts ended up, and when it collapsed."""
    rows = []
    for name, runs in sampled(experiments).items():
        ends = [
            [_end(run, key) for run in runs] for key in ("accuracy_strict", "length_mean", "truncation", "repetition")
        ]
        right, length, cut, loops = (float(np.nanmean(values)) for values in ends)
        when = ", ".join("none" if step is None else str(step) for step in map(onset, runs))
        flops = np.mean([run.total("flops") for run in runs])
        row = [label(experiments, name), greedy(runs), f"{right:.0%}", f"{length:.0f}", f"{cut:.0%}", f"{loops:.0%}"]
        rows.append([*row, when, f"{flops:.2g}", str(len(runs))])
    head = ["arm", "greedy, fully correct [95%]", "rollouts right", "tokens", "TruncRate", "in a loop"]
    return Table([*head, "onset, by seed", "FLOPs", "seeds"], rows)


def greedy(runs: list[Run]) -> str:
    """Fully correct share at the last evaluation of the runs, pooled, with n."""
    evaluated = [[line for line in run.metrics if is_number(line.get("eval_full"))] for run in runs]
    last = [lines[-1] for lines in evaluated if lines]
    if not last:
        return NONE
    right, n = (
        sum(round(line["eval_full"] * line["eval_n"]) for line in last),
        sum(int(line["eval_n"]) for line in last),
    )
    return f"{format_interval(wilson(right, n))}, n = {n}"


def _end(run: Run, key: str) -> float:
    """Mean over the last ten logged steps."""
    values = run.curve(key)[1]
    return float(np.mean(values[-10:])) if values else float("nan")


def changes_table(experiments: list[Experiment], collapsed: list[tuple[Run, int]]) -> Table:
    """One row a collapsed run: each metric of the published signature before and after."""
    rows = []
    for run, at in collapsed:
        changes = signature(run, at)
        cells = [f"{c.before:.3g} → {c.after:.3g}" if (c := changes.get(key)) else NONE for key in SIGNATURE]
        seed = next((str(e.seed) for e in experiments if run in e.runs.values()), NONE)
        failure = "as published" if is_published(changes) else "another failure"
        rows.append([label(experiments, run.name), seed, str(at), *cells, failure])
    return Table(["arm", "seed", "onset", *SIGNATURE, "failure"], rows)


def warnings_table(collapsed: list[tuple[Run, int]], healthy: list[Run]) -> list[Piece]:
    """The early warnings, best first."""
    found = early_warnings(collapsed, healthy)
    if not found:
        raise Missing("no two quiet runs to calibrate warnings on")
    rows = []
    for sign in found:
        leads = ", ".join(map(str, sorted(sign.leads, reverse=True))) or NONE
        row = [sign.name, f"{len(sign.leads)} of {sign.collapsed}", f"{sign.lead:.0f}", leads]
        rows.append([*row, f"{sign.false_alarms} of {sign.recovered}", f"{sign.threshold:.3g}"])
    head = ["sign", "collapses announced", "median lead, steps", "leads", "false alarms", "threshold"]
    return [Table(head, rows), note("warnings", quiet=found[0].quiet, level=f"{QUIET:.0%}")]
