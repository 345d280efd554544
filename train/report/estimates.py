"""Numbers about a stage of an experiment, each with n and a 95% interval, from the runs of all its seeds.

The counts of all seeds are added up; each seed's own value is kept, too. A seed without the runs that a number needs is
left out; `Missing` is raised where no seed has them. Two models that solved the same problems are compared problem by
problem.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from train import statistics
from train.runs.expectation import Cell
from train.runs.results import Experiment, Run, counts, is_number
from train.statistics import Estimate
from train.tables import NONE, format_interval

Value = TypeVar("Value")


class Missing(Exception):
    """A part of the report cannot be made; the message says what is not there."""


class NotApplicable(Missing):
    """A part that belongs to other experiments; the page does not mention it."""


def no_distillation(experiments: list[Experiment], reason: str) -> Missing:
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
        seeds = f", seeds {seed_range(self.seeds, self.unit)}" if len(self.seeds) > 1 else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{format_interval(self.pooled, self.unit)}{detail}, n = {self.pooled.n}{seeds}"


def seed_range(values: Sequence[float], unit: str = "%") -> str:
    """The smallest and the largest value of the seeds."""
    numbers = [value for value in values if is_number(value)]
    return f"{100 * min(numbers):.1f} to {100 * max(numbers):.1f}{unit}" if numbers else NONE


def each_seed(experiments: list[Experiment], measure: Callable[[Experiment], Value]) -> list[Value]:
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


def or_none(measure: Callable[..., Value], *arguments: Any) -> Value | None:
    """What the measure gives; None where it is Missing."""
    try:
        return measure(*arguments)
    except Missing:
        return None


def mean_or_none(values: Sequence[Any]) -> float | None:
    """The mean of those values that are numbers; None without any."""
    numbers = [value for value in values if is_number(value)]
    return float(np.mean(numbers)) if numbers else None


def solution_accuracy(experiments: list[Experiment], stage: str, out_of_distribution: bool = False) -> PooledEstimate:
    """Share of fully correct solutions of the model that `stage` made."""
    seeds = [runs for (runs,) in _evaluations(experiments, lambda e: [stage], out_of_distribution)]
    return PooledEstimate(statistics.wilson(*_summed_counts(seeds)), [r / n for r, n in map(counts, seeds)])


def gap_share(experiments: list[Experiment], stage: str) -> PooledEstimate:
    """Share of the gap between student before and teacher that `stage` closed."""

    def stages(experiment: Experiment) -> list[str]:
        roles = experiment.roles()
        if len(roles) < 2:
            raise Missing("no teacher and student to measure a gap between")
        return [stage, roles["student"], roles["teacher"]]

    seeds = _evaluations(experiments, stages)
    values = [statistics.gap_closed(*map(counts, runs)).value for runs in seeds]
    if all(map(_same_problems, seeds)):
        return PooledEstimate(statistics.paired_gap_closed(*map(_joined_verdicts, zip(*seeds, strict=True))), values)
    return PooledEstimate(statistics.gap_closed(*map(_summed_counts, zip(*seeds, strict=True))), values)


def accuracy_difference(experiments: list[Experiment], stage: str, other: str) -> PooledEstimate:
    """Fully correct share of `stage` minus that of `other`, problems of all seeds pooled."""
    seeds = _evaluations(experiments, lambda e: [stage, other])
    values = [statistics.difference(*counts(a), *counts(b)).value for a, b in seeds]
    if all(map(_same_problems, seeds)):
        return PooledEstimate(statistics.paired_difference(*map(_joined_verdicts, zip(*seeds, strict=True))), values)
    (a, n_a), (b, n_b) = map(_summed_counts, zip(*seeds, strict=True))
    return PooledEstimate(statistics.difference(a, n_a, b, n_b), values)


def lead(experiments: list[Experiment], stage: str, other: str, out_of_distribution: bool = False) -> PooledEstimate:
    """Fully correct share of `stage` minus that of `other`; its interval redraws seeds, then their problems.

    Raises Missing where a seed judged the two on different problems: nothing else is a paired comparison."""
    seeds = _evaluations(experiments, lambda e: [stage, other], out_of_distribution)
    if not all(map(_same_problems, seeds)):
        raise Missing(f"{stage} and {other} were not judged on the same problems")
    differences = [a.verdicts - b.verdicts for a, b in seeds]
    pooled = statistics.nested_mean(differences, statistics.CHANGE)
    return PooledEstimate(pooled, [float(d.mean()) for d in differences], " points")


def _evaluations(
    experiments: list[Experiment], stages: Callable[[Experiment], list[str]], out_of_distribution: bool = False
) -> list[list[Run]]:
    """The evaluations of these stages, for every seed that has all of them."""

    def of_seed(experiment: Experiment) -> list[Run]:
        found = []
        for stage in stages(experiment):
            if (run := experiment.evaluation_of(stage, out_of_distribution)) is None:
                raise Missing(f"no evaluation{' out of distribution' if out_of_distribution else ''} of {stage}")
            found.append(run)
        return found

    return each_seed(experiments, of_seed)


def _same_problems(evaluations: Sequence[Run]) -> bool:
    first, *others = [(run.judged_problems, len(run.verdicts)) for run in evaluations]
    return first[1] > 0 and all(other == first for other in others)


def _joined_verdicts(evaluations: Sequence[Run]) -> np.ndarray:
    return np.concatenate([run.verdicts for run in evaluations])


def _summed_counts(evaluations: Sequence[Run]) -> tuple[int, int]:
    right, n = np.sum([counts(run) for run in evaluations], axis=0)
    return int(right), int(n)


def probe_margin(experiments: list[Experiment], stage: str, task: str) -> PooledEstimate:
    """Accuracy of the best probe of a task above the best of its controls (`probes.tasks.layers.margin`).

    The interval of a seed redraws problems, of probe and controls alike. Seeds are independent: their half widths add
    in squares (`_mean_of_seeds`).
    """

    def of_seed(experiment: Experiment) -> dict[str, Any]:
        run = experiment.runs.get(stage)
        found = run.summary.get("margins", {}).get(task) if run else None
        if found is None:
            raise Missing(f"no probe result for {task} beside its controls")
        return found

    margins = each_seed(experiments, of_seed)
    details = [
        f"{m['accuracy']:.1%}; " + ", ".join(f"{name} {c['accuracy']:.1%}" for name, c in m["controls"].items())
        for m in margins
    ]
    return PooledEstimate(_mean_of_seeds(margins), [m["value"] for m in margins], " points", " | ".join(details))


def table_cell(experiments: list[Experiment], stage: str, place: Cell) -> PooledEstimate:
    """The number at `place` in a table that an analysis has left in its summary, a mean over seeds.

    Raises Missing where no seed has it, or more than one row of the table fits."""

    def of_seed(experiment: Experiment) -> dict[str, Any]:
        summary = run.summary if (run := experiment.runs.get(stage)) else {}
        table = (summary.get("tables") or summary).get(place.table, [])  # of the tasks of probes.run a list or one row
        table = [table] if isinstance(table, dict) else table
        rows = [row for row in table if all(row.get(key) == value for key, value in place.row.items())]
        found = rows[0] if len(rows) == 1 else {}
        for name in place.column.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and "accuracy" in found:
            found = found | {"value": found["accuracy"]}
        if not isinstance(found, dict) or not is_number(found.get("value")):
            where = ", ".join(f"{key}={value}" for key, value in place.row.items())
            raise Missing(f"{stage} has no one number {place.column} in its table {place.table} where {where}")
        return found

    cells = each_seed(experiments, of_seed)
    return PooledEstimate(_mean_of_seeds(cells), [c["value"] for c in cells])


def _mean_of_seeds(cells: Sequence[Mapping[str, Any]]) -> Estimate:
    """The mean of independent numbers; its half width is the root of the sum of their squared half widths, over n."""
    value = float(np.mean([c["value"] for c in cells]))
    ends = [[np.inf if c[end] is None else c[end] for c in cells] for end in ("low", "high")]  # JSON has no infinity
    below, above = (float(np.hypot.reduce([e - c["value"] for e, c in zip(of, cells, strict=True)])) for of in ends)
    return Estimate(value, value - below / len(cells), value + above / len(cells), sum(c["n"] for c in cells))
