"""Many arms from one student, ranked by what each gained for the compute it spent: one table, one figure.

For a recipe that names `controls`. Gains are in fully correct solutions, paired by problem with the student before;
leads over a control are paired likewise. Intervals redraw seeds, then problems (`train.statistics.nested_test`);
p-values come from the same draws and are corrected over all arms of a control (Holm 1979).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.plotting import BLUE, GREY, ORANGE, CaptionedFigure, error_bars, stacked_bars
from train.report.estimates import Missing, mean_or_none
from train.report.page import Piece, label, note
from train.runs.results import Experiment, Run, run_folder_name
from train.statistics import CHANGE, SHARE, Estimate, holm, nested_mean, nested_test
from train.tables import NONE, Table, format_interval, plural

HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")  # beside the colours, for print
UNIT = 1e12  # FLOPs that a gain is divided by


class Lead(NamedTuple):
    """An arm against a control: the difference with its interval, and Holm's p over all arms."""

    difference: Estimate
    p: float

    def __str__(self) -> str:
        p = "< 0.01" if self.p < 0.01 else f"{self.p:.2f}"
        return f"{format_interval(self.difference, '', '+')}, p {p}"


class RankedArm(NamedTuple):
    """One arm, over the seeds that have it. What was not measured is None or empty.

    accuracy: share of fully correct solutions; gain: the same minus that of the student before; ood_: out of
    distribution. context_gain: what the teacher's context adds to the checkpoint's own accuracy.
    """

    stage: str
    seeds: int
    accuracy: Estimate
    gain: Estimate
    ood_accuracy: Estimate | None
    ood_gain: Estimate | None
    pass_at_k: dict[str, float]
    kl_to_oracle: float | None
    length: float
    flops: dict[str, float]
    cpu_seconds: float
    context_gain: float | None
    leads: dict[str, Lead]

    @property
    def spent(self) -> float:
        return sum(self.flops.values())

    @property
    def gain_per_unit(self) -> float:
        """Gain for 1e12 FLOPs; 0 without compute."""
        return self.gain.value * UNIT / self.spent if self.spent else 0.0


def controls_of(experiments: list[Experiment]) -> list[str]:
    """The stages that the recipe compares every arm with; none where it asks for no ranking."""
    return next((e.plan["controls"] for e in experiments if e.plan.get("controls")), [])


def ranked_arms(experiments: list[Experiment]) -> list[RankedArm]:
    """Every evaluated arm, most gained per FLOP first. Raises Missing when there is none."""
    stages = list(dict.fromkeys(run.name for e in experiments for run in e.arms()))
    arms = [arm for stage in stages if (arm := _arm(experiments, stage)) is not None]
    if not arms:
        raise Missing("no arm that was evaluated on the same problems as the student before")
    controls = controls_of(experiments)
    leads = {control: _leads(experiments, control, [arm.stage for arm in arms]) for control in controls}
    arms = [arm._replace(leads={c: leads[c][arm.stage] for c in controls if arm.stage in leads[c]}) for arm in arms]
    return sorted(arms, key=lambda arm: -arm.gain_per_unit)


def _arm(experiments: list[Experiment], stage: str) -> RankedArm | None:
    """What is known of one arm; None where no seed has it and its student judged on the same problems."""
    found = [(e.runs[stage], e, pair) for e in experiments if stage in e.runs and (pair := _pair(e, e.runs[stage]))]
    if not found:
        return None
    runs, inside = [run for run, *_ in found], [pair for *_, pair in found]
    outside = [pair for run, e, _ in found if (pair := _pair(e, run, out_of_distribution=True))]
    summaries = [after.summary for after, _ in inside]
    passes = [s["passes"]["at"] for s in summaries if "passes" in s]
    kinds = dict.fromkeys(kind for run in runs for kind in run.ledger.get("flops", {}))
    return RankedArm(
        stage,
        len(found),
        *_accuracy_and_gain(inside),
        *(_accuracy_and_gain(outside) if outside else (None, None)),
        {k: float(np.mean([one[k]["rate"] for one in passes])) for k in list(passes[0] if passes else {})[::2]},
        mean_or_none([s.get("held_out", {}).get("kl") for s in summaries]),
        float(np.mean([s["length_mean"] for s in summaries])),
        {kind: float(np.mean([run.ledger["flops"].get(kind, 0.0) for run in runs])) for kind in kinds},
        float(np.mean([run.total("cpu_seconds") for run in runs])),
        mean_or_none([(run.json("skill").get("gain") or {}).get("value") for run in runs]),
        {},
    )


def _accuracy_and_gain(pairs: list[tuple[Run, Run]]) -> tuple[Estimate, Estimate]:
    accuracy = nested_mean([after.verdicts for after, _ in pairs], SHARE)
    return accuracy, nested_mean([after.verdicts - before.verdicts for after, before in pairs], CHANGE)


def _pair(experiment: Experiment, arm: Run, out_of_distribution: bool = False) -> tuple[Run, Run] | None:
    """The evaluations of an arm and of the student it started from, if both saw the same problems."""
    after = experiment.evaluation_of(arm.name, out_of_distribution)
    student = run_folder_name(str(arm.config.get("student")))
    for run in experiment.of("evaluation"):
        judged = run_folder_name(str(run.config.get("checkpoint")))
        if after and judged == student and run.judged_problems == after.judged_problems:
            return after, run
    return None


def _leads(experiments: list[Experiment], control: str, stages: Sequence[str]) -> dict[str, Lead]:
    """The arms against one control, on the seeds that have both."""
    differences, p_values = {}, {}
    for stage in (s for s in stages if s != control):
        pairs = [(e.evaluation_of(stage), e.evaluation_of(control)) for e in experiments]
        pairs = [(a, b) for a, b in pairs if a and b and a.judged_problems == b.judged_problems]
        if pairs:
            differences[stage], p_values[stage] = nested_test([a.verdicts - b.verdicts for a, b in pairs], CHANGE)
    adjusted = holm(p_values)
    return {stage: Lead(difference, adjusted[stage]) for stage, difference in differences.items()}


def table(experiments: list[Experiment]) -> Table:
    """One row for each arm, best first; columns that no arm has are left out."""
    arms = ranked_arms(experiments)
    controls = list(dict.fromkeys(control for arm in arms for control in arm.leads))
    optional = {
        "out of distribution [95%]": lambda a: format_interval(a.ood_accuracy) if a.ood_accuracy else NONE,
        "pass@k": lambda a: ", ".join(f"{k}: {100 * v:.1f}" for k, v in a.pass_at_k.items()) or NONE,
        "KL to oracle": lambda a: f"{a.kl_to_oracle:.4f}" if a.kl_to_oracle is not None else NONE,
        "what the context adds": lambda a: f"{100 * a.context_gain:+.1f}" if a.context_gain is not None else NONE,
    }
    shown = {name: cell for name, cell in optional.items() if any(cell(arm) != NONE for arm in arms)}
    head = ["arm", "gain per 1e12 FLOPs", "gain, points [95%]", "fully correct [95%]", *shown, "length", "FLOPs"]
    head += ["CPU s", *(f"against {label(experiments, c)}, points [95%], p" for c in controls), "seeds"]
    rows = []
    for arm in arms:
        row = [label(experiments, arm.stage), f"{100 * arm.gain_per_unit:+.1f}", format_interval(arm.gain, "", "+")]
        row += [format_interval(arm.accuracy), *(cell(arm) for cell in shown.values()), f"{arm.length:.1f}"]
        leads = [str(arm.leads.get(control, NONE)) for control in controls]
        rows.append([*row, f"{arm.spent:.2e}", f"{arm.cpu_seconds:.0f}", *leads, str(arm.seeds)])
    return Table(head, rows)


def section(experiments: list[Experiment]) -> list[Piece]:
    """The table on the page, and how to read it."""
    found = table(experiments)
    return [found, note("ranking", seeds=plural(len(experiments), "seed"), arms=len(found.rows))]


def figure(experiments: list[Experiment]) -> CaptionedFigure:
    """Gain of every arm with its interval, in and out of distribution, and what it spent."""
    arms = ranked_arms(experiments)
    drawn = Figure(figsize=(7.5, 1.6 + 0.27 * len(arms)), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    _gains(left, dict(enumerate(arm.gain for arm in arms)), color=BLUE, mfc=BLUE, marker="o", label="as trained")
    outside = {i + 0.28: arm.ood_gain for i, arm in enumerate(arms) if arm.ood_gain is not None}
    if outside:
        _gains(left, outside, color=ORANGE, mfc="white", marker="D", label="out of distribution")
    left.axvline(0, color="black", lw=0.8)
    controls = dict.fromkeys(control for arm in arms for control in arm.leads)
    for control, style in zip(controls, ("--", ":", "-."), strict=False):
        for arm in (arm for arm in arms if arm.stage == control):
            left.axvline(100 * arm.gain.value, color=GREY, lw=1, ls=style, label=label(experiments, control))
    kinds = dict.fromkeys(kind for arm in arms for kind in arm.flops)
    amounts = {kind: np.array([arm.flops.get(kind, 0.0) for arm in arms]) for kind in kinds}
    stacked_bars(right, amounts, HATCHES, height=0.7, lw=0.3, edgecolor="white")
    right.set(title="FLOPs spent")
    left.set_yticks(range(len(arms)), [label(experiments, arm.stage) for arm in arms], fontsize=9)
    left.set(title="gain over the student before, points", ylim=(len(arms) - 0.4, -0.7))
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    drawn.legend(loc="outside lower center", ncols=4, fontsize=8.5)
    sizes, seeds = " or ".join(map(str, sorted({arm.gain.n for arm in arms}))), plural(len(experiments), "seed")
    caption = f"Best gain per FLOP first. Fully correct solutions, n = {sizes} problems over {seeds}, paired with the "
    caption += "student before; 95% intervals redraw seeds, then problems. Vertical lines: the controls."
    return CaptionedFigure(drawn, "What every arm gained, and what it spent", caption)


def _gains(ax: Axes, gains: dict[float, Estimate], **style: Any) -> None:
    """Gains in points by their place on the vertical axis."""
    value, error = error_bars(list(gains.values()))
    ax.errorbar(100 * np.array(value), list(gains), xerr=100 * error, ms=4.5, elinewidth=1.2, ls="none", **style)
