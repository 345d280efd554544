"""The course of one distillation: every diagnostic that it logged, over its steps, one panel for each kind.

`python -m train.opd.metrics` defines what is drawn. A panel without data is left out, so a method without teacher has
fewer. Lines are told apart by dashes and markers too, so that a print without colour can be read. Try: `python -m
train.report runs/opd/opd-1a2b3c4d`.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from train.plotting import BLUE, GREEN, ORANGE, RED, CaptionedFigure, legend_once, smooth
from train.report.stage_styles import label
from train.runs.results import Experiment, Run
from train.tables import plural

COLUMNS = 3
STYLES = ((BLUE, "-"), (RED, "--"), (GREEN, ":"), (ORANGE, "-."))
SPARSE = 2  # a curve with fewer points for each SPARSE logged steps is an evaluation's, drawn with markers


class Panel(NamedTuple):
    """A title, metrics by their name in the legend, whether they are shares, and where chance lies, if anywhere."""

    title: str
    lines: dict[str, str]
    share: bool = False
    chance: float | None = None


PANELS = [Panel(**panel) for panel in yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text("utf-8"))]


def figures(experiments: list[Experiment]) -> dict[str, partial]:
    """A figure for each distillation stage that logged anything, all seeds in it: file name -> maker."""
    stages = dict.fromkeys(run.name for e in experiments for run in e.arms() if any(_has(run, p) for p in PANELS))
    return {f"course-{stage}": partial(course, stage) for stage in stages}


def course(stage: str, experiments: list[Experiment]) -> CaptionedFigure:
    """The panels of one stage that have data."""
    runs = [run for e in experiments for run in e.arms() if run.name == stage]
    panels = [panel for panel in PANELS if any(_has(run, panel) for run in runs)]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(8.5, 2.1 * rows + 0.3), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for ax, panel in zip(axes, panels, strict=False):
        for run in runs:
            _lines(ax, run, panel)
        _finish(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    name = label(experiments, stage)
    return CaptionedFigure(
        figure,
        f"Course of a distillation: {name}",
        f"{plural(len(runs), 'run')}; lines over the rollouts of a step, smoothed over a twentieth of the run, dots: "
        "held-out problems. Definitions: python -m train.opd.metrics.",
    )


def _has(run: Run, panel: Panel) -> bool:
    return any(run.curve(key)[0] for key in panel.lines.values())


def _lines(ax: Axes, run: Run, panel: Panel) -> None:
    logged = len(run.curve("loss")[0])
    for (name, key), (color, dash) in zip(panel.lines.items(), STYLES, strict=False):
        x, y = run.curve(key)
        if not x:
            continue
        if SPARSE * len(x) < logged:
            ax.plot(x, y, color=color, ls=dash, lw=1, marker="o", ms=3, label=name)
        else:
            ax.plot(x, smooth(y), color=color, ls=dash, lw=1.4, label=name)


def _finish(ax: Axes, panel: Panel) -> None:
    ax.set_title(panel.title, fontsize=9.5)
    ax.tick_params(labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if panel.share:
        ax.set_ylim(0, min(1.02, max(0.05, 1.05 * ax.get_ylim()[1])))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if panel.chance is not None:
        ax.axhline(panel.chance, color="black", lw=0.8)
    legend_once(ax)
    ax.legend_.set_loc("best")
    for text in ax.legend_.get_texts():
        text.set_fontsize(7.5)
