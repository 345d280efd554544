"""One look for all figures of a report: colours, markers, sizes, and how series are named and ordered.

Colours are Okabe and Ito's (2008), which colour-blind readers tell apart, and every series has a marker of its own
besides. A stage has the same colour and marker in all figures: the teacher is blue, the student before is grey.
Figures are made without pyplot, so nothing global is left behind. Try: `python -m train.report runs/quickstart`.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.report.measures import roles
from train.runs.results import Experiment
from train.statistics import Rate

BLUE, GREY, RED, GREEN, PINK, ORANGE, SKY = "#0072B2", "#666666", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
CYCLE = (RED, GREEN, PINK, ORANGE, SKY)
KINDS_OF_WORK = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "figure.dpi": 150,
    "axes.formatter.useoffset": False,
}


class Drawn(NamedTuple):
    """A figure, what it shows in one line (also its text alternative), and how to read it."""

    figure: Figure
    title: str
    caption: str


class Look(NamedTuple):
    color: str
    marker: str


def draw(maker: Callable[[list[Experiment]], Drawn], experiments: list[Experiment]) -> Drawn:
    """One figure in the house style. Raises Missing when its data are not there."""
    with rc_context(STYLE):
        return maker(experiments)


def save(drawn: Drawn, path: Path) -> None:
    """Writes the PNG under a temporary name, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with rc_context(STYLE):
        drawn.figure.savefig(temporary, format="png")
    temporary.replace(path)


def looks(experiments: list[Experiment]) -> dict[str, Look]:
    """Colour and marker of every stage that made a model: teacher, student, then the others in the recipe's order."""
    special: dict[str, str] = {}
    stages: list[str] = []
    for experiment in experiments:
        part = roles(experiment)
        special |= {part[role]: color for role, color in (("teacher", BLUE), ("student", GREY)) if role in part}
        stages += [name for name, run in experiment.runs.items() if run.kind in ("training", "distillation")]
    order = list(dict.fromkeys([*special, *stages]))
    rest = [stage for stage in order if stage not in special]
    colors = special | {stage: CYCLE[i % len(CYCLE)] for i, stage in enumerate(rest)}
    return {stage: Look(colors[stage], MARKERS[i % len(MARKERS)]) for i, stage in enumerate(order)}


def label(experiments: list[Experiment], stage: str) -> str:
    """What the recipe calls a stage, else its name."""
    return next((text for e in experiments if (text := e.label(stage)) != stage), stage)


def smooth(values: Iterable[float]) -> np.ndarray:
    """Running mean over a twentieth of the points, centred; at the ends over those of them that are there."""
    y = np.asarray(list(values), dtype=float)
    total = np.concatenate([[0.0], np.cumsum(y)])
    index, half = np.arange(len(y)), len(y) // 40
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)


def several(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def bars(rates: list[Rate]) -> tuple[list[float], np.ndarray]:
    """Values and the (2, N) distances to low and high that `errorbar` wants; an endless interval has no bar."""
    distances = [[max(0.0, r.value - r.low), max(0.0, r.high - r.value)] for r in rates]
    return [r.value for r in rates], np.nan_to_num(np.array(distances).T, posinf=0.0)


def legend_once(ax: Axes) -> None:
    """A legend with one entry for each name, however many seeds have drawn under it."""
    entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(entries.values(), entries.keys())
