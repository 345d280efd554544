"""Measures: what the runs of one or several seeds say about a stage, each with n and a 95% interval.

Seeds are pooled by counts, and each seed's own value is kept beside. A seed that lacks a run is left out; what no
seed has is `Missing`. Models that were judged on the same problems are compared problem by problem. Try: `python -m
train.report`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from train.runs.results import Experiment, Run, counts, is_number
from train.statistics import Estimate, difference, nested_mean, paired_difference, paired_share, share, wilson
from train.tables import NONE, format_interval

Value = TypeVar("Value")


class Missing(Exception):
    """A part of the report cannot be made; the message says what is not there."""


class NotApplicable(Missing):
    """A part that is of other experiments; a page is silent about it."""


def undistilled(experiments: list[Experiment], reason: str) -> Missing:
    """What to raise where a part finds no arm that distils: NotApplicable if the recipe has none, else Missing."""
    entries = {stage.get("entry") for e in experiments for stage in e.plan.get("stages", [])} - {None}
    return Missing(reason) if not entries or "train.opd.run" in entries else NotApplicable(reason)


class PooledEstimate(NamedTuple):
    """One quantity: over all seeds together, and for each seed alone. `detail` is what to know besides."""

    pooled: Estimate
    seeds: list[float]
    unit: str = "%"
    detail: str = ""

    def __str__(self) -> str:
        seeds = f", seeds {spread(self.seeds, self.unit)}" if len(self.seeds) > 1 else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{format_interval(self.pooled, self.unit)}{detail}, n = {self.pooled.n}{seeds}"


def spread(values: Sequence[float], unit: str = "%") -> str:
    """The range over seeds."""
    numbers = [value for value in values if is_number(value)]
    return f"{100 * min(numbers):.1f} to {100 * max(numbers):.1f}{unit}" if numbers else NONE


def roles(experiment: Experiment) -> dict[str, str]:
    """Who is "teacher" and who is "student": the stages that the distillations point at."""
    found: dict[str, str] = {}
    for run in experiment.arms():
        for role in ("teacher", "student"):
            if role not in found and (pointed := experiment.input(run, role)) is not None:
                found[role] = pointed.name
    return found


def each(experiments: list[Experiment], measure: Callable[[Experiment], Value]) -> list[Value]:
    """The measure of every seed that has what it needs. Raises Missing, with a seed's reason, when none has."""
    found, reason = [], "no runs"
    for experiment in experiments:
        try:
            found.append(measure(experiment))
        except Missing as missing:
            reason = str(missing)
    if not found:
        raise Missing(reason)
    return found


def full(experiments: list[Experiment], stage: str) -> PooledEstimate:
    """Share of fully correct solutions of the model that `stage` made."""
    pairs = each(experiments, lambda e: counts(_evaluation(e, stage)))
    return PooledEstimate(wilson(sum(r for r, _ in pairs), sum(n for _, n in pairs)), [r / n for r, n in pairs])


def gap_share(experiments: list[Experiment], stage: str) -> PooledEstimate:
    """Share of the gap between student before and teacher that `stage` closed."""
    seeds = each(experiments, lambda e: _judged(e, stage, *_ends_of_the_gap(e)))
    values = [share(*(model.counts for model in models)).value for models in seeds]
    if all(_same_problems(models) for models in seeds):
        return PooledEstimate(paired_share(*(_joined(seeds, i) for i in range(3))), values)
    return PooledEstimate(share(*(_summed(seeds, i) for i in range(3))), values)


def _ends_of_the_gap(experiment: Experiment) -> tuple[str, str]:
    part = roles(experiment)
    if len(part) < 2:
        raise Missing("no teacher and student to measure a gap between")
    return part["student"], part["teacher"]


def full_difference(experiments: list[Experiment], stage: str, other: str) -> PooledEstimate:
    """Fully correct share of `stage` minus that of `other`."""
    seeds = each(experiments, lambda e: _judged(e, stage, other))
    values = [a.counts[0] / a.counts[1] - b.counts[0] / b.counts[1] for a, b in seeds]
    if all(_same_problems(models) for models in seeds):
        return PooledEstimate(paired_difference(_joined(seeds, 0), _joined(seeds, 1)), values)
    return PooledEstimate(difference(*_summed(seeds, 0), *_summed(seeds, 1)), values)


def lead(experiments: list[Experiment], stage: str, other: str, which: int = 0) -> PooledEstimate:
    """Fully correct share of `stage` minus that of `other`; its interval redraws seeds, then their problems.

    which: of each stage's evaluations, 0 the first, in distribution, 1 the next, out of it.
    Raises Missing where a seed judged the two on different problems: nothing else is a paired comparison."""
    seeds = each(experiments, lambda e: _judged(e, stage, other, which=which))
    if not all(_same_problems(models) for models in seeds):
        raise Missing(f"{stage} and {other} were not judged on the same problems")
    differences = [np.subtract(*(np.array(model.right, dtype=float) for model in models)) for models in seeds]
    return PooledEstimate(nested_mean(differences), [float(d.mean()) for d in differences], " points")


class Judged(NamedTuple):
    """An evaluation's (right, n), its verdict (0 or 1) on each problem, and what tells which problems these were."""

    counts: tuple[int, int]
    problems: tuple
    right: list[int]


def _judged(experiment: Experiment, *stages: str, which: int = 0) -> list[Judged]:
    judged = []
    for run in (_evaluation(experiment, stage, which) for stage in stages):
        verdicts, data = run.summary.get("verdicts") or {}, run.config.get("data") or {}
        source = (run.manifest.get("data"), data.get("seed"), run.config.get("split"))
        problems = (*source, *verdicts.get("index", []))
        judged.append(Judged(counts(run), problems, verdicts.get("right", [])))
    return judged


def _same_problems(models: list[Judged]) -> bool:
    first = models[0]
    return bool(first.right) and all(m.problems == first.problems and len(m.right) == len(first.right) for m in models)


def _joined(seeds: list[list[Judged]], i: int) -> list[bool]:
    """The verdicts of model i on the problems of all seeds, one after another."""
    return [right == 1 for models in seeds for right in models[i].right]


def _summed(seeds: list[list[Judged]], i: int) -> tuple[int, int]:
    return sum(models[i].counts[0] for models in seeds), sum(models[i].counts[1] for models in seeds)


def _evaluation(experiment: Experiment, stage: str, which: int = 0) -> Run:
    runs = experiment.evaluations_of(stage)
    if len(runs) <= which:
        raise Missing(f"no {'evaluation' if which == 0 else 'evaluation out of distribution'} of {stage}")
    return runs[which]


def probe_margin(experiments: list[Experiment], stage: str, task: str) -> PooledEstimate:
    """Accuracy of the best probe of a task above the best of its controls (`probes.tasks.results.margin`).

    The interval is a paired bootstrap over problems, which redraws the probe and its controls together; over seeds,
    which are independent, half widths add as the roots of their squares.
    """
    margins = each(experiments, lambda e: _margin(e, stage, task))
    details = [
        f"{m['accuracy']:.1%}; " + ", ".join(f"{name} {c['accuracy']:.1%}" for name, c in m["controls"].items())
        for m in margins
    ]
    return PooledEstimate(_mean_of_seeds(margins), [m["value"] for m in margins], " points", " | ".join(details))


def cell(experiments: list[Experiment], stage: str, place: Mapping[str, Any]) -> PooledEstimate:
    """What {table, row, column} says of a table that an analysis has left in its summary, a mean over seeds.

    Raises Missing where no seed has it, or more than one row of the table fits."""
    cells = each(experiments, lambda e: _cell(e, stage, place))
    return PooledEstimate(_mean_of_seeds(cells), [c["value"] for c in cells])


def _cell(experiment: Experiment, stage: str, place: Mapping[str, Any]) -> dict[str, Any]:
    run = experiment.runs.get(stage)
    table = (run.summary.get("tables") or {}).get(place["table"], []) if run else []
    rows = [row for row in table if all(row.get(key) == value for key, value in place["row"].items())]
    found = rows[0].get(place["column"]) if len(rows) == 1 else None
    if not isinstance(found, dict) or not is_number(found.get("value")):
        where = ", ".join(f"{key}={value}" for key, value in place["row"].items())
        raise Missing(f"{stage} has no one number {place['column']} in its table {place['table']} where {where}")
    return found


def _mean_of_seeds(cells: Sequence[Mapping[str, Any]]) -> Estimate:
    """The mean of independent numbers, whose half widths add as the roots of their squares."""
    value = float(np.mean([c["value"] for c in cells]))
    below, above = (
        float(np.sqrt(sum((c[end] - c["value"]) ** 2 for c in cells))) / len(cells) for end in ("low", "high")
    )
    return Estimate(value, value - below, value + above, sum(c["n"] for c in cells))


def _margin(experiment: Experiment, stage: str, task: str) -> dict[str, Any]:
    run = experiment.runs.get(stage)
    margins = run.summary.get("margins", {}) if run else {}
    if task not in margins:
        raise Missing(f"no probe result for {task} beside its controls")
    return margins[task]
