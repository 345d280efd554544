"""A map of regimes: where do the arms of one family beat all others, at equal compute? For a recipe that has a `map`.

A cell is an item of the list `rows` with one of `columns` (say: student and number of gold documents). Its arms are the
distillations with these items; those that are not over `columns` (they need no gold) stand in every cell of their row,
and alone in the column "none". What each arm has chosen among, say learning rates: `train.runs.choices`. The best arm
of the family and the best of the others are found on every second problem of the evaluation and compared on those
between, so that the best of many is not best by luck.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from train.plotting import CYCLE, MARKERS, CaptionedFigure, error_bars, finish, legend_once, panels
from train.report.estimates import Missing, NotApplicable
from train.report.page import Piece, note
from train.runs.results import Experiment, Run, plan_of
from train.statistics import CHANGE, SHARE, Estimate, nested_mean
from train.tables import NONE, Table, format_interval, plural

NOWHERE = "none"  # the column of arms that are over no column
TIE = 0.02  # a difference whose whole interval is within this, on either side, is a tie
WORDS = {"W": "the family wins", "T": "a tie", "L": "the family loses", "?": "not decided"}


class Arm(NamedTuple):
    """An arm in a cell, over the seeds that have it: its stage, its name, what was chosen for it, the evaluation of
    each seed, and how often it read each gold document (None: they do not end)."""

    stage: str
    name: str
    chosen: str
    evaluations: dict[int, Run]  # place of the seed -> evaluation
    epochs: float | None

    def verdicts(self, first: int) -> list[np.ndarray]:
        """Every second verdict of each seed, from the `first` on, float64[n / 2]."""
        return [run.verdicts[first::2] for run in self.evaluations.values()]

    @property
    def accuracy(self) -> Estimate:
        return nested_mean([run.verdicts for run in self.evaluations.values()], SHARE)


class Cell(NamedTuple):
    """The arms of a cell, the best of the family and of the others, by how much the family is ahead, and the verdict
    (a key of WORDS)."""

    arms: list[Arm]
    ours: Arm
    others: Arm
    lead: Estimate

    @property
    def verdict(self) -> str:
        if self.lead.low > 0:
            return "W"
        if self.lead.high < 0:
            return "L"
        return "T" if self.lead.low >= -TIE and self.lead.high <= TIE else "?"


def cells(experiments: list[Experiment]) -> dict[tuple[str, str], Cell]:
    """(row, column) -> cell, in the recipe's order; cells without an arm on either side are left out. Raises
    NotApplicable for a recipe without a map, Missing where no cell is there."""
    plan = plan_of(experiments)
    wanted: Mapping[str, Any] = plan.get("map") or {}
    if not wanted:
        raise NotApplicable("the recipe has no map")
    found = {}
    by_place = _arms_by_place(experiments, plan, wanted)
    for row in dict.fromkeys(row for row, _ in by_place):
        everywhere = by_place.get((row, NOWHERE), [])
        for place in (place for place in by_place if place[0] == row):
            arms = everywhere + (by_place[place] if place[1] != NOWHERE else [])
            if cell := _cell(arms, wanted["family"]):
                found[place] = cell
    if not found:
        raise Missing("no cell of the map has an evaluated arm on both sides")
    return found


def _arms_by_place(
    experiments: list[Experiment], plan: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[tuple[str, str], list[Arm]]:
    """(row, column) -> its arms."""
    found: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for stage in plan["stages"]:
        items = {name: str(item) for name, item in (stage.get("items") or {}).items()}
        evaluations = {i: run for i, e in enumerate(experiments) if (run := _judged(e, stage["name"]))}
        if wanted["rows"] in items and evaluations:
            base = stage["name"].removesuffix("-" + "-".join(items.values()))
            row, column = items.pop(wanted["rows"]), items.pop(wanted["columns"], NOWHERE)
            name, epochs = "-".join(items.values()) or base, _epochs(experiments, stage["name"])
            found[row, column].append(Arm(stage["name"], name, stage.get("chosen", ""), evaluations, epochs))
    return found


def _judged(experiment: Experiment, stage: str) -> Run | None:
    """The evaluation of the distillation that is this stage."""
    run = experiment.runs.get(stage)
    return experiment.evaluation_of(stage) if run is not None and run.kind == "distillation" else None


def _epochs(experiments: list[Experiment], stage: str) -> float | None:
    """How often the stage's runs read each gold document; None where these do not end."""
    runs = [run for e in experiments if (run := e.runs.get(stage))]
    counts = [run.config["data"].get("documents") for run in runs]
    if not all(counts):
        return None
    read = [run.total("documents") / n for run, n in zip(runs, counts, strict=True)]
    return float(np.mean(read))


def _cell(arms: list[Arm], family: Iterable[str]) -> Cell | None:
    sides = [[arm for arm in arms if (arm.name in family) == of_family] for of_family in (True, False)]
    if not all(sides):
        return None
    ours, others = (max(side, key=lambda arm: np.mean([v.mean() for v in arm.verdicts(0)])) for side in sides)
    seeds = ours.evaluations.keys() & others.evaluations.keys()
    pairs = [(ours.evaluations[seed], others.evaluations[seed]) for seed in sorted(seeds)]
    pairs = [(a, b) for a, b in pairs if a.judged_problems == b.judged_problems]
    if not pairs:
        return None
    return Cell(arms, ours, others, nested_mean([(a.verdicts - b.verdicts)[1::2] for a, b in pairs], CHANGE))


def section(experiments: list[Experiment]) -> list[Piece]:
    """One row for each arm of each cell, the cell's verdict on its first row, and how to read it."""
    wanted, rows = plan_of(experiments).get("map") or {}, []
    found = cells(experiments)
    for (row, column), cell in found.items():
        for i, arm in enumerate(sorted(cell.arms, key=lambda arm: -arm.accuracy.value)):
            lead = f"{cell.verdict}: {format_interval(cell.lead, '', '+')} ({cell.ours.name} - {cell.others.name})"
            epochs = f"{arm.epochs:.1f}" if arm.epochs is not None else NONE
            values = [arm.name, arm.chosen or NONE, format_interval(arm.accuracy), epochs, str(len(arm.evaluations))]
            rows.append([row, column, *values, "" if i else lead])
    head = [wanted["rows"], wanted["columns"], "arm", "chosen", "fully correct [95%]", "epochs", "seeds", "verdict"]
    family, seeds = ", ".join(wanted["family"]), plural(len(experiments), "seed")
    return [Table(head, rows), note("regime_map", family=family, seeds=seeds, tie=f"{100 * TIE:.0f}", words=WORDS)]


def map_figure(experiments: list[Experiment]) -> CaptionedFigure:
    """The verdict in each cell, coloured by the family's lead."""
    wanted, found = plan_of(experiments).get("map") or {}, cells(experiments)
    rows, columns = (list(dict.fromkeys(place[i] for place in found)) for i in (0, 1))
    lead = np.full((len(rows), len(columns)), np.nan)
    figure = Figure(figsize=(2.2 + 1.7 * len(columns), 1.3 + 1.05 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for (row, column), cell in found.items():
        i, j = rows.index(row), columns.index(column)
        lead[i, j] = 100 * cell.lead.value
        text = f"{cell.verdict}\n{format_interval(cell.lead, '', '+')}\n{cell.ours.name} : {cell.others.name}"
        ax.text(j, i, text, ha="center", va="center", fontsize=8.5)
    most = max(1.0, float(np.nanmax(np.abs(lead))))
    image = ax.imshow(lead, cmap="PuOr_r", vmin=-1.6 * most, vmax=1.6 * most, aspect="auto")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=wanted["columns"], ylabel=wanted["rows"])
    ax.grid(visible=False)
    figure.colorbar(image, ax=ax, label="lead of the family, points", shrink=0.9)
    caption = f"The best of {', '.join(wanted['family'])} minus the best of all other arms, in points, 95% interval; "
    caption += f"below it the two. {'; '.join(f'{k}: {v}' for k, v in WORDS.items())}."
    return CaptionedFigure(figure, "Where the family wins", caption)


def curves_figure(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy of every arm over the columns, a panel for each row; arms that are over no column as level lines."""
    wanted, found = plan_of(experiments).get("map") or {}, cells(experiments)
    rows, columns = (list(dict.fromkeys(place[i] for place in found)) for i in (0, 1))
    names = list(dict.fromkeys(arm.name for cell in found.values() for arm in cell.arms))
    figure, axes = panels(len(rows), 3, 9.5, 3.4)
    for ax, row in zip(axes, rows, strict=True):
        for k, name in enumerate(names):
            here = {c: arm for (r, c), cell in found.items() if r == row for arm in cell.arms if arm.name == name}
            if here:
                value, error = error_bars([arm.accuracy for arm in here.values()])
                ours = name in wanted["family"]
                style: dict[str, Any] = {
                    "color": CYCLE[k % len(CYCLE)],
                    "marker": MARKERS[k % len(MARKERS)],
                    "ls": "-" if ours else ":",
                }
                x = [columns.index(column) + 0.05 * (k - len(names) / 2) for column in here]
                ax.errorbar(x, value, yerr=error, label=name, ms=4.5, lw=1.3, elinewidth=0.9, **style)
        ax.set_xticks(range(len(columns)), columns)
        finish(ax, percent="y", title=row, xlabel=wanted["columns"])
    axes[0].set_ylabel("fully correct")
    legend_once(figure, loc="outside lower center", ncols=len(names), fontsize=9)
    caption = "All arms of a panel spent the same FLOPs. Solid: the family. 95% intervals redraw seeds, then problems."
    return CaptionedFigure(figure, "Every arm in every cell", caption)
