"""Figures of training: loss above the oracle's floor, rollouts while distilling, and the course of one distillation.

The floor is the generator's exact entropy of the very tokens in the batch, so `loss - floor` is the distance from a
perfect model in nats per token. The rollout figures are where a collapse shows first: length grows, rollouts stop
ending, and repeat. A course has every diagnostic that was logged (`python -m train.opd.metrics` defines them), a panel
for each kind in panels.yaml; a panel without data is left out.
"""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from train.plotting import BLUE, GREEN, ORANGE, RED, CaptionedFigure, finish, legend_once, panels, smooth
from train.report.estimates import Missing, no_distillation
from train.report.page import label, stage_styles
from train.runs.results import Experiment, Run
from train.tables import plural

# panel title -> the metric as distillation logs it, and whether it is a fraction
HEALTH = {
    "mean length, tokens": ("length_mean", False),
    "cut off before the end": ("truncation", True),
    "ending in a loop": ("repetition", True),
    "KL to the teacher, nats a token": ("rkl", False),
}
STYLES = ((BLUE, "-"), (RED, "--"), (GREEN, ":"), (ORANGE, "-."))  # also told apart in a print without colour
SPARSE = 2  # a curve with fewer points for each SPARSE logged steps is an evaluation's, drawn with markers


def loss(experiments: list[Experiment]) -> CaptionedFigure:
    """Pretraining loss over tokens, the oracle's entropy of the same tokens, and the distance between the two."""
    runs = [run for e in experiments for run in e.of("training") if run.curve("loss")[0]]
    if not runs:
        raise Missing("no training run with logged losses")
    axis = "tokens" if all(run.curve("loss", "tokens")[0] for run in runs) else "step"
    with_floor = any(run.curve("floor", axis)[0] for run in runs)
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 2 if with_floor else 1))
    for run in runs:
        _loss_lines(axes, run, axis, experiments)
    for ax, title in zip(axes, ("loss", "loss above the oracle"), strict=False):
        ax.set(yscale="log", xlabel="tokens read" if axis == "tokens" else "step", title=title)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # labels 0.2, 0.5, 1, 2 instead of powers of ten
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    axes[0].set_ylabel("nats per solution token")
    if with_floor:
        _floor_line(axes[0], runs)
    legend_once(axes[0])
    floor = "Oracle: the generator's exact entropy of the same tokens, which no model can beat." if with_floor else ""
    dots = "Dots: KL to the oracle on held-out documents." if any(run.curve("kl_to_oracle")[0] for run in runs) else ""
    caption = f"{plural(len(runs), 'run')}, smoothed over a twentieth of each. {floor} {dots}"
    return CaptionedFigure(figure, "Pretraining loss and the oracle's floor", caption.strip())


def _floor_line(ax: Axes, runs: list[Run]) -> None:
    """The mean entropy of the tokens read. In a world that is nearly determined it may lie far below every loss."""
    floor = float(np.mean([value for run in runs for value in run.curve("floor")[1]]))
    bottom = max(floor / 2, min(smooth(run.curve("loss")[1]).min() for run in runs) / 5, 1e-6)
    ax.set_ylim(bottom=bottom)
    where = "" if floor > bottom else ", below the axis"
    ax.axhline(floor, color="black", lw=1, ls="--", label=f"oracle: {floor:.2g}{where}")


def _loss_lines(axes: np.ndarray, run: Run, axis: str, experiments: list[Experiment]) -> None:
    color = stage_styles(experiments)[run.name].color
    x, y = run.curve("loss", axis)
    axes[0].plot(x, smooth(y), color=color, label=label(experiments, run.name))
    floor_x, floor = run.curve("floor", axis)
    if floor:
        # The difference is taken before smoothing: both move with the luck of the batch, their distance hardly does.
        excess = smooth(np.interp(floor_x, x, y) - np.asarray(floor))
        axes[1].plot(floor_x, np.where(excess > 0, excess, np.nan), color=color)
        axes[1].plot(*run.curve("kl_to_oracle", axis), "o", ms=3, color=color)


def health(experiments: list[Experiment]) -> CaptionedFigure:
    """Length, truncation and repetition of the student's rollouts while it is distilled, and the divergence."""
    runs = [run for e in experiments for run in e.arms() if run.curve("length_mean")[0]]
    if not runs:
        raise no_distillation(experiments, "no distillation that logged its rollouts")
    shown = {title: spec for title, spec in HEALTH.items() if any(run.curve(spec[0])[0] for run in runs)}
    figure, axes = panels(len(shown), 2, 7, 2.4, 0.4)
    for ax, (title, (key, fraction)) in zip(axes, shown.items(), strict=True):
        for run in runs:
            x, y = run.curve(key)
            color = stage_styles(experiments)[run.name].color
            ax.plot(x, smooth(y), color=color, label=label(experiments, run.name))
        finish(ax, "y" if fraction else "", decimals=None, title=title, xlabel="step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_ylim(0, max(0.05 if fraction else 1e-3, 1.05 * ax.get_ylim()[1]))
    legend_once(axes[0])
    caption = f"Mean over the rollouts of a step, smoothed over a twentieth of the run; {plural(len(runs), 'run')}. "
    caption += "A collapse would show as growing length with truncation and repetition rising."
    return CaptionedFigure(figure, "Rollouts while distilling", caption)


class Panel(NamedTuple):
    """A title, metrics by their name in the legend, whether they are shares, and where chance lies, if anywhere."""

    title: str
    lines: dict[str, str]
    share: bool = False
    chance: float | None = None

    def has_data(self, run: Run) -> bool:
        return any(run.curve(key)[0] for key in self.lines.values())


PANELS = [Panel(**panel) for panel in yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text("utf-8"))]


def courses(experiments: list[Experiment]) -> dict[str, partial]:
    """A figure for each distillation stage that logged anything, all seeds in it: file name -> maker."""
    stages = dict.fromkeys(run.name for e in experiments for run in e.arms() if any(p.has_data(run) for p in PANELS))
    return {re.sub(r"[^\w.=+-]+", "-", f"course-{stage}"): partial(course, stage) for stage in stages}


def course(stage: str, experiments: list[Experiment]) -> CaptionedFigure:
    """The panels of one stage that have data."""
    runs = [run for e in experiments for run in e.arms() if run.name == stage]
    shown = [panel for panel in PANELS if any(panel.has_data(run) for run in runs)]
    figure, axes = panels(len(shown), 3, 8.5, 2.1, 0.3)
    for ax, panel in zip(axes, shown, strict=True):
        for run in runs:
            _course_lines(ax, run, panel)
        ax.set_title(panel.title, fontsize=9.5)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if panel.share:
            finish(ax, "y", decimals=None, ylim=(0, min(1.02, max(0.05, 1.05 * ax.get_ylim()[1]))))
        if panel.chance is not None:
            ax.axhline(panel.chance, color="black", lw=0.8)
        legend_once(ax, loc="best", fontsize=7.5)
    caption = f"{plural(len(runs), 'run')}; lines over the rollouts of a step, smoothed over a twentieth of the run, "
    caption += "dots: held-out problems. Definitions: python -m train.opd.metrics."
    return CaptionedFigure(figure, f"Course of a distillation: {label(experiments, stage)}", caption)


def _course_lines(ax: Axes, run: Run, panel: Panel) -> None:
    logged = len(run.curve("loss")[0])
    for (name, key), (color, dash) in zip(panel.lines.items(), STYLES, strict=False):
        x, y = run.curve(key)
        if x and SPARSE * len(x) < logged:
            ax.plot(x, y, color=color, ls=dash, lw=1, marker="o", ms=3, label=name)
        elif x:
            ax.plot(x, smooth(y), color=color, ls=dash, lw=1.4, label=name)
