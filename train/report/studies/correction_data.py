"""Correction data (Part 2.2, 2408.16293): arms trained on mistakes that are taken back, beside error-free data.

What an arm is, is read from its run folder: the mistakes in its data, what it started from, whether LoRA trained it,
and the tokens that it and what it started from have read. Its difference is against the error-free arm that has read as
many, problem by problem. Try: `python -m train.recipe recipe=retry`.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from train.plotting import CYCLE, MARKERS, CaptionedFigure, error_bars
from train.report import page
from train.report.estimates import Missing, NotApplicable, PooledEstimate, lead, spread
from train.report.stage_styles import label
from train.report.studies import published
from train.runs.results import Experiment, Run, counts, is_number
from train.statistics import Estimate, wilson
from train.tables import NONE, format_interval, plural

EQUAL = 0.1  # arms have read equally many tokens when they differ by less than this share
ERROR_FREE = ("none", 0.0, False)


class Arm(NamedTuple):
    """mistakes: (kind, rate, masked) in the data it trained on last. origin: the stage whose weights it started from.

    lora: rank of its updates. tokens: read by it and its origin, mean over seeds.
    """

    stage: str
    mistakes: tuple[str, float, bool]
    origin: str | None
    lora: int | None
    tokens: float

    @property
    def error_free(self) -> bool:
        return self.mistakes == ERROR_FREE and self.origin is None


def arms(experiments: list[Experiment]) -> list[Arm]:
    """The evaluated pretrainings. Raises NotApplicable where none read mistakes."""
    found: dict[str, list[tuple[Experiment, Run]]] = {}
    for e in experiments:
        for run in e.of("training"):
            if e.evaluation_of(run.name) is not None:
                found.setdefault(run.name, []).append((e, run))
    result = [_arm(stage, pairs) for stage, pairs in found.items()]
    if all(arm.mistakes == ERROR_FREE for arm in result):
        raise NotApplicable("no arm that was trained on mistakes")
    return result


def _arm(stage: str, pairs: list[tuple[Experiment, Run]]) -> Arm:
    e, run = pairs[0]
    origin = e.input(run, "init")
    tokens = [run.total("tokens") + (o.total("tokens") if (o := e.input(run, "init")) else 0) for e, run in pairs]
    rank = (run.config.get("lora") or {}).get("rank")
    return Arm(stage, mistakes(run), origin.name if origin else None, rank, float(np.mean(tokens)))


def mistakes(run: Run) -> tuple[str, float, bool]:
    """(kind, rate, masked) of the mistakes in a run's data."""
    overrides = (run.config.get("data") or {}).get("overrides") or {}
    rate = float(overrides.get("retry_rate", 0.0))
    if not rate:
        return ERROR_FREE
    return str(overrides.get("retry_kind", "retry")), rate, overrides.get("mask_mistakes", "none") != "none"


def equal(arm: Arm, others: list[Arm]) -> Arm | None:
    """The error-free arm, trained from scratch, that has read as many tokens."""
    same = [o for o in others if o.error_free and o.stage != arm.stage and arm.tokens]
    near = [o for o in same if abs(o.tokens / arm.tokens - 1) < EQUAL]
    return min(near, key=lambda o: abs(o.tokens - arm.tokens), default=None)


def accuracy(experiments: list[Experiment], stage: str, which: int) -> PooledEstimate:
    """Fully right solutions in (which=0) or out of distribution (1), seeds pooled."""
    pairs = [counts(runs[which]) for e in experiments if len(runs := e.evaluations_of(stage)) > which]
    if not pairs:
        raise Missing(f"no evaluation {which} of {stage}")
    return PooledEstimate(wilson(sum(r for r, _ in pairs), sum(n for _, n in pairs)), [r / n for r, n in pairs])


def rows(experiments: list[Experiment]) -> list[dict[str, Any]]:
    """One row for each arm: what `table` shows, as numbers."""
    found, result = arms(experiments), []
    for arm in found:
        other = equal(arm, found)
        row: dict[str, Any] = {"arm": arm, "against": other.stage if other else None}
        for which, side in enumerate(("in", "out")):
            row[side] = _or_none(accuracy, experiments, arm.stage, which)
            row[f"lead_{side}"] = _or_none(lead, experiments, arm.stage, other.stage, which) if other else None
            for key in ("retries_right", "retries", "unneeded_right"):
                row[f"{key}_{side}"] = _mean(experiments, arm.stage, which, key)
        last = [
            e.runs[arm.stage].summary.get("last", {}).get("kl_to_oracle") for e in experiments if arm.stage in e.runs
        ]
        row["kl"] = _average(last)
        result.append(row | {"published": beside(arm, found)})
    return result


def _or_none(measure: Any, *arguments: Any) -> PooledEstimate | None:
    try:
        return measure(*arguments)
    except Missing:
        return None


def _mean(experiments: list[Experiment], stage: str, which: int, key: str) -> float | None:
    """The mean over seeds of a number of the evaluations' summaries."""
    return _average([runs[which].summary.get(key) for e in experiments if len(runs := e.evaluations_of(stage)) > which])


def _average(values: list[Any]) -> float | None:
    numbers = [value for value in values if is_number(value)]
    return float(np.mean(numbers)) if numbers else None


def beside(arm: Arm, others: list[Arm]) -> published.Row | None:
    """The published row of the same data, trained in the same way."""
    if arm.lora is not None:
        return published.LORA.get(arm.mistakes)
    if arm.origin is not None:
        return published.CONTINUED.get(arm.mistakes)
    least = min(o.tokens for o in others if o.origin is None)
    return (published.DOUBLE if arm.tokens > 1.5 * least else published.SCRATCH).get(arm.mistakes)


def table(experiments: list[Experiment]) -> list[str]:
    """The arms, what they solve, what they take back, and what the paper has; then how to read it."""
    body, several_seeds = [], len(experiments) > 1
    for row in rows(experiments):
        arm, theirs = row["arm"], row["published"]
        cells = [label(experiments, arm.stage), f"{arm.tokens / 1e6:.2f}M"]
        for side in ("in", "out"):
            cells.append(_accuracy(row[side], several_seeds))
            cells.append(format_interval(row[f"lead_{side}"].pooled, "") if row[f"lead_{side}"] else NONE)
        cells.append(_number(row["kl"], 4))
        cells += [f"{_number(row[f'{key}_in'])} / {_number(row[f'{key}_out'])}" for key in ("retries_right", "retries")]
        cells.append(f"{_number(row['unneeded_right_in'])} / {_number(row['unneeded_right_out'])}")
        cells.append(f"{theirs.average:g} / {_number(theirs.far, 1)}" if theirs else NONE)
        body.append(cells)
    head = [
        "arm",
        "tokens",
        "in distribution [95%]",
        "against error-free",
        "out of it [95%]",
        "against error-free",
        "KL to its oracle",
        "BACK, right (in / out)",
        "BACK, all",
        "unneeded steps, right",
        "published mean / 23 ops",
    ]
    notes = [_how_to_read(experiments), *_regret(experiments)]
    return [page.table(head, body), *(page.paragraph(note, "soft") for note in notes)]


def _accuracy(measured: PooledEstimate | None, several_seeds: bool) -> str:
    if measured is None:
        return NONE
    return format_interval(measured.pooled) + (f" ({spread(measured.seeds)})" if several_seeds else "")


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _how_to_read(experiments: list[Experiment]) -> str:
    sizes, worlds, weights = [], [], 0
    for which in (0, 1):
        runs = [
            r[which] for e in experiments for run in e.of("training") if len(r := e.evaluations_of(run.name)) > which
        ]
        sizes += [str(counts(runs[0])[1])] if runs else []
        worlds += [_world(runs[0])] if runs else []
    for e in experiments:
        weights = max([weights, *(int(run.summary.get("parameters", 0)) for run in e.of("training"))])
    size = f"{plural(len(experiments), 'seed')}; {' and '.join(sizes)} problems a seed and arm ({'; '.join(worlds)})"
    return (
        f"{size}, greedy, the same for all arms. Differences, in points, are paired by problem against the error- "
        "free arm that has read as many tokens (those of the start included); their intervals redraw seeds, then "
        "problems. KL is to the law of the arm's own data, also at tokens that a mask takes out of the loss. "
        "BACK: mistakes taken back in a solution. Published: mean over all test sets, and the farthest of med pq; "
        f"124,000,000 weights after 39 or 52 thousand million tokens, here {weights:,} weights; the best of two "
        "seeds and of greedy and beam search, here the mean of all seeds, greedy."
    )


def _world(run: Run) -> str:
    overrides = (run.config.get("data") or {}).get("overrides") or {}
    return f"{'exactly' if overrides.get('exact_ops') else 'up to'} {overrides.get('ops', 'all')} operations"


def _regret(experiments: list[Experiment]) -> list[str]:
    """What detecting mistakes brings without training on them: retry upon regret, ours and theirs."""
    runs = [(e, run) for e in experiments for run in e.runs.values() if "solutions" in run.summary]
    if not runs:
        return []
    found = []
    for name, theirs in published.REGRET.items():
        same = [row for _, run in runs for row in run.summary["solutions"] if row["name"] == name]
        right = sum(round(row["full"]["rate"] * row["n"]) for row in same)
        found.append(f"{name} {format_interval(wilson(right, sum(row['n'] for row in same)))} (published {theirs})")
    subject = runs[0][0].subject(runs[0][1])
    of = label(experiments, subject.name) if subject else "a model"
    return [
        f"Retry upon regret with the weights of “{of}”, where a detector has doubted sentences drawn again: "
        + "; ".join(found)
        + "."
    ]


def over_rates(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy over the rate of mistakes, a line for each kind, in and out of distribution; equal tokens, no start."""
    found = arms(experiments)
    free = [arm for arm in found if arm.error_free]
    if not free:
        raise Missing("no error-free arm to compare with")
    start = min(free, key=lambda arm: arm.tokens)
    lines: dict[str, list[Arm]] = {}
    for arm in sorted(found, key=lambda arm: arm.mistakes[1]):
        kind, rate, masked = arm.mistakes
        if rate and arm.origin is None and abs(arm.tokens / start.tokens - 1) < EQUAL:
            lines.setdefault(f"{kind}, masked" if masked else kind, []).append(arm)
    if not lines:
        raise Missing("no arm from scratch with as many tokens as the error-free one")
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for which, (ax, title) in enumerate(zip(axes, ("in distribution", "out of distribution"), strict=True)):
        for i, (name, points) in enumerate(lines.items()):
            _line(ax, experiments, [start, *points], which, i, name if which == 0 else None)
        ax.set(title=title, xlabel="probability of a mistake")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=4)
    caption = (
        "Fully right solutions, greedy, at equal tokens; the point at 0 is the error-free arm. 95% Wilson intervals "
        f"over the problems of {plural(len(experiments), 'seed')}."
    )
    return CaptionedFigure(figure, "Accuracy over the rate of mistakes in the data", caption)


def _line(ax: Axes, experiments: list[Experiment], points: list[Arm], which: int, i: int, name: str | None) -> None:
    measured: list[tuple[float, Estimate]] = []
    for arm in points:
        if (value := _or_none(accuracy, experiments, arm.stage, which)) is not None:
            measured.append((arm.mistakes[1], value.pooled))
    if measured:
        value, error = error_bars([rate for _, rate in measured])
        shift = 0.006 * (i - 1.5)
        at = [x + shift for x, _ in measured]
        ax.errorbar(
            at, value, error, color=CYCLE[i % len(CYCLE)], marker=MARKERS[i % len(MARKERS)], elinewidth=1.2, label=name
        )
