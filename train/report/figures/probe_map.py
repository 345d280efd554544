"""The layer-wise map of what probes read from hidden states, against what the controls read without the model's help.

Majority is the most frequent label; random is the same probe on the same architecture with random weights, so what it
reads is in the input and the probe, not in what was learned. Try: `python -m train.report runs/quickstart`.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from train.plotting import BLUE, GREY, MARKERS, ORANGE, RED, CaptionedFigure, error_bars
from train.report.estimates import Missing
from train.runs.results import Experiment
from train.statistics import Estimate

COLORS = (BLUE, RED, ORANGE)
RESIDUAL = ("hook_embed", "hook_resid_post", "hook_normalized")
NAMES = {"linear": "linear probe", "vprobe": "V-probe"}


def layer_map(experiments: list[Experiment]) -> CaptionedFigure:
    """One panel for each task: probe accuracy over layers, with the two controls."""
    runs = [run for e in experiments for run in e.of("probe")]
    results = [result | {"seed": i} for i, run in enumerate(runs) for result in run.summary["results"]]
    tasks = list(dict.fromkeys(result["task"] for result in results))
    if not tasks:
        raise Missing("no probe results")
    columns = min(2, len(tasks))
    rows = (len(tasks) + columns - 1) // columns
    figure = Figure(figsize=(7, 3.4 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, task in zip(axes, tasks, strict=False):
        _task(ax, [result for result in results if result["task"] == task], len(runs))
        ax.set(title=task, xlabel="layer (0 = embedding)", ylim=(0, 1.03))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for ax in list(figure.axes)[len(tasks) :]:
        ax.set_visible(False)
    entries = {text: handle for ax in figure.axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    sizes = sorted({int(result["n"]) for result in results})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return CaptionedFigure(
        figure,
        "What probes read from the hidden states, layer by layer",
        f"n = {size} test items for each point; 95% bootstrap intervals over problems{_of_seeds(len(runs))}. "
        "Filled: the trained model. Hollow, dashed: the same probe on random weights. Dotted: always the most frequent "
        "label.",
    )


def _of_seeds(count: int) -> str:
    return f", {count} seeds, one line each" if count > 1 else ""


def _task(ax: Axes, results: list[dict[str, Any]], seeds: int) -> None:
    for i, line in enumerate(dict.fromkeys(_line(result) for result in results)):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        for seed in range(seeds):
            mine = [r for r in results if _line(r) == line and r["seed"] == seed]
            mine.sort(key=lambda result: result["layer"])
            if mine:
                _probe(ax, mine, color, marker, line)
    majority = [r["majority"] for r in results if r.get("majority") is not None]
    if majority:
        ax.axhline(sum(majority) / len(majority), color=GREY, ls=":", label="majority")


def _line(result: dict[str, Any]) -> str:
    """Name of the line that a result is a point of: its probe, and its kind of site where that is not the residual."""
    kind = result["site"].rsplit(".", 1)[-1]
    return NAMES.get(result["probe"], result["probe"]) + ("" if kind in RESIDUAL else f", {kind}")


def _probe(ax: Axes, results: list[dict[str, Any]], color: str, marker: str, name: str) -> None:
    layers = [r["layer"] for r in results]
    value, error = error_bars(
        [Estimate(r["accuracy"], r.get("low", r["accuracy"]), r.get("high", r["accuracy"]), r["n"]) for r in results]
    )
    ax.errorbar(layers, value, error, color=color, marker=marker, elinewidth=1.2, label=name)
    control = [(r["layer"], r["random"]) for r in results if r.get("random") is not None]
    if control:
        ax.plot(
            *zip(*control, strict=True),
            color=color,
            marker=marker,
            mfc="white",
            ls="--",
            lw=1.2,
            label=f"{name}, random weights",
        )
