"""The collapse laboratory: which distillations collapsed and when, what the cures do, and which signs came before.

Shown where a run collapsed (`train.runs.collapse` defines it). Early warning: a sign (a metric and a direction) fires
at the first step at which its mean over the last three logged steps lies further from its own start (the mean of logged
steps 1 to 5) than it ever did in a quiet run, one whose TruncRate, a mean over five logged steps, never passed a tenth.
Its lead is the onset minus that step; firing in a run that inflated and turned back is a false alarm. Runs under the
exact teacher do not count: its log-probabilities of minus infinity are not on a comparable scale.
"""

from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.plotting import GREY, RED, CaptionedFigure
from train.report.estimates import Missing, NotApplicable, PooledEstimate
from train.report.page import Piece, label, note, piece
from train.runs.collapse import STEADY, TRUNCATED, onset, trailing_mean
from train.runs.results import Experiment, Run, is_number
from train.statistics import wilson
from train.tables import NONE, Table, format_interval, plural

# row of the figure -> metric of the log, and the ends of its axis where they are known
ROWS = {
    "answers right": ("accuracy_answer", (0.0, 1.0)),
    "TruncRate": ("truncation", (0.0, 1.0)),
    "ending in a loop": ("repetition", (0.0, 1.0)),
    "teacher advantage": ("advantage", None),
}
WIDTH = 5  # logged steps that a line is a mean of
PER_BAND = 7  # arms side by side
ENDS = ("accuracy_answer", "length_mean", "truncation", "repetition")  # whose last ten logged steps the table has

QUIET = 0.1  # TruncRate
START, SMOOTH = 5, 3  # logged steps
UP, DOWN, AWAY = 1, -1, 0
WAYS = {"up": UP, "down": DOWN, "away": AWAY}
_FILE = yaml.safe_load(Path(__file__).with_name("collapse_signs.yaml").read_text("utf-8"))
SIGNS = {name: (sign["metric"], WAYS[sign["direction"]]) for name, sign in _FILE.items()}  # name -> metric, way
# metric -> which way it goes in the published phenomenon (2604.08527): the loss improves while the text falls apart.
# Right answers, as published: on problems beyond training no solution is right from its first step to its last.
SIGNATURE = {"truncation": UP, "repetition": UP, "length_mean": UP, "accuracy_answer": DOWN, "advantage": UP}


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
        ax.tick_params(labelsize=8, labelleft=column == 0)
        ax.set_title(label(experiments, name) if row == 0 else "", fontsize=9)
        ax.set_xlabel("step" if row == len(ROWS) - 1 else "", fontsize=9)
        ax.set_ylabel(title if column == 0 else "", fontsize=9)
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
        ends = [[run.curve(key)[1][-10:] for run in runs] for key in ENDS]
        right, length, cut, loops = (float(np.mean([np.mean(end) for end in of if end] or [np.nan])) for of in ends)
        when = ", ".join("none" if step is None else str(step) for step in map(onset, runs))
        flops = np.mean([run.total("flops") for run in runs])
        row = [label(experiments, name), greedy(runs), f"{right:.0%}", f"{length:.0f}", f"{cut:.0%}", f"{loops:.0%}"]
        rows.append([*row, when, f"{flops:.2g}", str(len(runs))])
    head = ["arm", "greedy, fully correct [95%]", "answers right", "tokens", "TruncRate", "in a loop"]
    return Table([*head, "onset, by seed", "FLOPs", "seeds"], rows)


def greedy(runs: list[Run]) -> str:
    """Fully correct share at the last evaluation of the runs, pooled, with n."""
    evaluated = [[line for line in run.metrics if is_number(line.get("eval_full"))] for run in runs]
    last = [(lines[-1]["eval_full"], int(lines[-1]["eval_n"])) for lines in evaluated if lines]
    rate = wilson(sum(round(share * n) for share, n in last), sum(n for _, n in last))
    return f"{format_interval(rate)}, n = {rate.n}" if last else NONE


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


def is_quiet(run: Run) -> bool:
    """Whether its TruncRate, a mean over five logged steps, never passed a tenth, under a trained teacher."""
    values = trailing_mean(np.asarray(run.curve("truncation")[1], dtype=float), STEADY)
    return not is_exact(run) and bool((values <= QUIET).all())


def is_exact(run: Run) -> bool:
    """Whether the teacher is the exact oracle."""
    teacher = (run.config.get("method") or {}).get("teacher") or {}
    return teacher.get("kind", teacher.get("params")) == "oracle"  # `params` in runs of before the options had a kind


def _curve(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    step_K, value_K = (np.asarray(axis, dtype=float) for axis in run.curve(key))
    return step_K, value_K


class Change(NamedTuple):
    """A metric before the collapse and at the end of the run, and whether it went the published way."""

    before: float
    after: float
    published: bool


def signature(run: Run, at: int) -> dict[str, Change]:
    """What a collapse at step `at` changed: the mean of up to ten logged steps that end ten steps before it, and of the
    last ten of the run. Metrics that were not logged are left out."""
    found = {}
    for key, way in SIGNATURE.items():
        step_K, value_K = _curve(run, key)
        if len(step_K) == 0:
            continue
        early = value_K[step_K < at - 10][-10:] if (step_K < at - 10).any() else value_K[:SMOOTH]
        before, after = float(early.mean()), float(value_K[-10:].mean())
        found[key] = Change(before, after, (after - before) * way > 0)
    return found


def is_published(changes: dict[str, Change]) -> bool:
    """Whether all of the signature is there. Without the advantage's rise it is divergence: the loss got worse."""
    return len(changes) == len(SIGNATURE) and all(change.published for change in changes.values())


def deviation(run: Run, sign: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and how far the sign has moved in its direction since the start, from logged step START on."""
    key, way = SIGNS[sign]
    step_K, value_K = _curve(run, key)
    if len(step_K) <= START:
        return None
    moved_K = trailing_mean(value_K, SMOOTH)[START:] - value_K[:START].mean()
    return step_K[START:], np.abs(moved_K) if way == AWAY else way * moved_K


class Sign(NamedTuple):
    """How well one sign warns. leads: onset minus first firing, for each collapsed run in which it fired before the
    onset. collapsed, quiet, recovered: runs that logged it. false_alarms: in how many that recovered it fired."""

    name: str
    threshold: float
    leads: list[int]
    collapsed: int
    quiet: int
    recovered: int
    false_alarms: int

    @property
    def lead(self) -> float:
        """Median lead in steps over all collapsed runs, a run without warning counted as 0."""
        return float(median([*self.leads, *[0] * (self.collapsed - len(self.leads))])) if self.collapsed else 0.0


def early_warnings(collapsed: list[tuple[Run, int]], others: list[Run]) -> list[Sign]:
    """The signs, best first: by how many collapses they announce, then by lead, then by false alarms. collapsed: runs
    with their onsets. Signs that no collapsed or fewer than two quiet runs have logged are left out."""
    quiet = [run for run in others if is_quiet(run)]
    recovered, found = [run for run in others if run not in quiet and not is_exact(run)], []
    for name in SIGNS:
        of_collapsed = [(moved, at) for run, at in collapsed if (moved := deviation(run, name)) is not None]
        quiet_peaks, recovered_peaks = (
            np.array([moved[1].max() for run in runs if (moved := deviation(run, name)) is not None])
            for runs in (quiet, recovered)
        )
        if not of_collapsed or len(quiet_peaks) < 2:
            continue
        threshold, leads = float(quiet_peaks.max()), []
        for (step_K, moved_K), at in of_collapsed:
            fired = step_K[(moved_K > threshold) & (step_K < at)]
            leads += [int(at - fired[0])] if len(fired) else []
        counts = (len(of_collapsed), len(quiet_peaks), len(recovered_peaks), int((recovered_peaks > threshold).sum()))
        found.append(Sign(name, threshold, leads, *counts))
    return sorted(found, key=lambda sign: (-len(sign.leads), -sign.lead, sign.false_alarms))
