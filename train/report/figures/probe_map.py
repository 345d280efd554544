"""The layer-wise map of what probes read from hidden states, against what the controls read without the model's help.

Majority is the most frequent label; random is the same probe on the same architecture with random weights, so what it
reads is in the input and the probe, not in what was learned.
"""

from typing import Any

from matplotlib.axes import Axes

from train.plotting import BLUE, GREY, MARKERS, ORANGE, RED, CaptionedFigure, error_bars, finish, legend_once, panels
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
    figure, axes = panels(len(tasks), min(2, len(tasks)), 7, 3.4, 0.6)
    for ax, task in zip(axes, tasks, strict=True):
        _task(ax, [result for result in results if result["task"] == task], len(runs))
        finish(ax, "y", "x", title=task, xlabel="layer (0 = embedding)", ylim=(0, 1.03))
    legend_once(figure, loc="outside lower center", ncols=3)
    sizes = sorted({int(result["n"]) for result in results})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    seeds = f", {len(runs)} seeds, one line each" if len(runs) > 1 else ""
    caption = (
        f"n = {size} test items for each point; 95% bootstrap intervals over problems{seeds}. Filled: the trained "
    )
    caption += "model. Hollow, dashed: the same probe on random weights. Dotted: always the most frequent label."
    return CaptionedFigure(figure, "What probes read from the hidden states, layer by layer", caption)


def _task(ax: Axes, results: list[dict[str, Any]], seeds: int) -> None:
    for i, line in enumerate(dict.fromkeys(map(_line, results))):
        for seed in range(seeds):
            found = [r for r in results if _line(r) == line and r["seed"] == seed]
            if found:
                found.sort(key=lambda r: r["layer"])
                _probe(ax, found, COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], line)
    majority = [r["majority"] for r in results if r.get("majority") is not None]
    if majority:
        ax.axhline(sum(majority) / len(majority), color=GREY, ls=":", label="majority")


def _line(result: dict[str, Any]) -> str:
    """Name of the line that a result is a point of: its probe, and its kind of site where that is not the residual."""
    kind = result["site"].rsplit(".", 1)[-1]
    return str(NAMES.get(result["probe"], result["probe"])) + ("" if kind in RESIDUAL else f", {kind}")


def _probe(ax: Axes, results: list[dict[str, Any]], color: str, marker: str, name: str) -> None:
    ends = [[r.get(end, r["accuracy"]) for end in ("low", "high")] for r in results]
    rates = [Estimate(r["accuracy"], low, high, r["n"]) for r, (low, high) in zip(results, ends, strict=True)]
    layers, style = [r["layer"] for r in results], dict[str, Any](color=color, marker=marker)
    ax.errorbar(layers, *error_bars(rates), elinewidth=1.2, label=name, **style)
    control = [(r["layer"], r["random"]) for r in results if r.get("random") is not None]
    if control:
        ax.plot(*zip(*control, strict=True), mfc="white", ls="--", lw=1.2, label=f"{name}, random weights", **style)
