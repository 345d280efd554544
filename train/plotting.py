"""The style of all figures: colours, markers, sizes, error bars, and writing a figure to a file.

Colours are Okabe and Ito's (2008), which colour-blind readers tell apart. Figures are made without pyplot, so no global
state is left behind.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from synth.store.files import atomic_path
from train.statistics import Estimate

BLUE, GREY, RED, GREEN, PINK, ORANGE, SKY = "#0072B2", "#666666", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
CYCLE = (RED, GREEN, PINK, ORANGE, SKY)
KINDS_OF_WORK = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RC_PARAMS = rc_params_from_file(Path(__file__).with_name("figures.mplstyle"), use_default_template=False)


class CaptionedFigure(NamedTuple):
    """A figure, what it shows in one line (also its text alternative), and how to read it."""

    figure: Figure
    title: str
    caption: str


def draw(maker: Callable[..., CaptionedFigure], *arguments: Any) -> CaptionedFigure:
    """The figure that `maker` makes of the arguments, in the common style."""
    with rc_context(RC_PARAMS):
        return maker(*arguments)


def save(drawn: CaptionedFigure, path: Path) -> None:
    """Writes the PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(RC_PARAMS), atomic_path(path) as temporary:
        drawn.figure.savefig(temporary, format="png")


def panels(count: int, columns: int, width: float, height: float, more: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`; `height` of a row, `more` for the whole."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows + more), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def finish(ax: Axes, percent: str = "", whole: str = "", decimals: int | None = 0, **settings: Any) -> None:
    """Titles, labels and limits; the axes named in `percent` are shares, those in `whole` count something."""
    ax.set(**settings)
    for name in whole:
        getattr(ax, f"{name}axis").set_major_locator(MaxNLocator(integer=True))
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter(PercentFormatter(1.0, decimals=decimals))


def smooth(values: Iterable[float]) -> np.ndarray:
    """Centred running mean over a twentieth of the points; at the ends over those that exist."""
    y = np.asarray(list(values), dtype=float)
    total = np.concatenate([[0.0], np.cumsum(y)])
    index, half = np.arange(len(y)), len(y) // 40
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)


def error_bars(rates: list[Estimate]) -> tuple[list[float], np.ndarray]:
    """Values and the (2, N) distances to low and high that `errorbar` takes; an infinite interval has no bar."""
    distances = [[max(0.0, r.value - r.low), max(0.0, r.high - r.value)] for r in rates]
    return [r.value for r in rates], np.nan_to_num(np.array(distances).T, posinf=0.0)


def legend_once(place: Axes | Figure, **where: Any) -> None:
    """A legend of axes, or of all in a figure, with one entry for each name, however many lines have it."""
    axes = place.axes if isinstance(place, Figure) else [place]
    entries = {text: handle for ax in axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    place.legend(list(entries.values()), list(entries), **where)


def stacked_bars(ax: Axes, amounts: Mapping[str, np.ndarray], hatches: Sequence[str] = ("",), **style: Any) -> None:
    """One horizontal bar a row, a piece for each kind of work; amounts: kind -> its amount in each row."""
    start = 0.0
    for i, (kind, amount) in enumerate(amounts.items()):
        color, hatch = KINDS_OF_WORK[i % len(KINDS_OF_WORK)], hatches[i % len(hatches)]
        ax.barh(range(len(amount)), amount, left=start, color=color, hatch=hatch, label=kind, **style)
        start = start + amount
