"""Verdicts: a recipe states what should come out, the runs say what came out, this decides whether it did.

An expectation names a measure, the stages it is taken on, and a bar. Its value has an interval and an n, one for each
seed and one for the seeds together; a bar is met when the value over all seeds reaches it, and clearly met when the
whole interval and every seed do. Try: `python -m train.report runs/quickstart`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.intervals import Rate, difference, paired_difference, paired_share, share, wilson
from train.report.results import Experiment, Run, counts, is_number

NONE = "-"


class Missing(Exception):
    """A part of the report cannot be made; the message says what is not there."""


class Measured(NamedTuple):
    """One quantity: over all seeds together, and for each seed alone. `detail` is what to know besides."""

    pooled: Rate
    seeds: list[float]
    unit: str = "%"
    detail: str = ""

    def __str__(self) -> str:
        seeds = f", seeds {spread(self.seeds, self.unit)}" if len(self.seeds) > 1 else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{interval(self.pooled, self.unit)}{detail}, n = {self.pooled.n}{seeds}"


def interval(rate: Rate, unit: str = "%") -> str:
    """91.4% [89.0, 93.3]"""
    if not is_number(rate.value):
        return "no gap to close"
    ends = [f"{100 * end:.1f}" if abs(end) != float("inf") else "∞" for end in (rate.low, rate.high)]
    return f"{100 * rate.value:.1f}{unit} [{', '.join(ends)}]"


def spread(values: Sequence[float], unit: str = "%") -> str:
    """The range over seeds."""
    numbers = [value for value in values if is_number(value)]
    return f"{100 * min(numbers):.1f} to {100 * max(numbers):.1f}{unit}" if numbers else NONE


class Verdict(NamedTuple):
    claim: str
    measured: Measured | None
    bar: float
    word: str  # met | met, not clearly | not met | not measured
    note: str

    @property
    def number(self) -> str:
        """What was measured and how certain it is, or why it was not."""
        if self.measured is None:
            return self.note
        return f"{self.measured}; {self.note}" if self.note else str(self.measured)


def roles(experiment: Experiment) -> dict[str, str]:
    """Who is "teacher" and who is "student": the stages that the distillations point at."""
    found: dict[str, str] = {}
    for run in experiment.arms():
        for role in ("teacher", "student"):
            if role not in found and (pointed := experiment.input(run, role)) is not None:
                found[role] = pointed.name
    return found


def full(experiments: list[Experiment], stage: str) -> Measured:
    """Share of fully correct solutions of the model that `stage` made."""
    pairs = [counts(_evaluation(e, stage)) for e in experiments]
    return Measured(wilson(sum(r for r, _ in pairs), sum(n for _, n in pairs)), [r / n for r, n in pairs])


def gap_share(experiments: list[Experiment], stage: str) -> Measured:
    """Share of the gap between student before and teacher that `stage` closed.

    On the same problems, verdicts are compared problem by problem; else as independent counts."""
    seeds, verdicts, totals = [], [], []
    for experiment in experiments:
        part = roles(experiment)
        if len(part) < 2:
            raise Missing("no teacher and student to measure a gap between")
        runs = [_evaluation(experiment, name) for name in (stage, part["student"], part["teacher"])]
        totals.append([counts(run) for run in runs])
        verdicts.append([_verdicts(run) for run in runs])
        seeds.append(share(*totals[-1]).value)
    if all(_same_problems(v) for v in verdicts):
        return Measured(paired_share(*(_joined(verdicts, i) for i in range(3))), seeds)
    summed = np.array(totals).sum(axis=0)
    return Measured(share(*(tuple(map(int, pair)) for pair in summed)), seeds)


def full_difference(experiments: list[Experiment], stage: str, other: str) -> Measured:
    """Fully correct share of `stage` minus that of `other`; problem by problem where both met the same ones."""
    pairs = [(_evaluation(e, stage), _evaluation(e, other)) for e in experiments]
    totals = [(counts(a), counts(b)) for a, b in pairs]
    seeds = [a[0] / a[1] - b[0] / b[1] for a, b in totals]
    verdicts = [[_verdicts(a), _verdicts(b)] for a, b in pairs]
    if all(_same_problems(both) for both in verdicts):
        return Measured(paired_difference(_joined(verdicts, 0), _joined(verdicts, 1)), seeds)
    (right_a, n_a), (right_b, n_b) = (map(sum, zip(*(pair[i] for pair in totals), strict=True)) for i in (0, 1))
    return Measured(difference(right_a, n_a, right_b, n_b), seeds)


class Judged(NamedTuple):
    """Verdict (0 or 1) on each problem of an evaluation that kept them, and which problems these were."""

    problems: tuple
    right: list[int]


def _verdicts(run: Run) -> Judged:
    verdicts, data = run.summary.get("verdicts") or {}, run.config.get("data") or {}
    source = (run.manifest.get("data"), data.get("seed"), run.config.get("split"))
    return Judged((*source, *verdicts.get("index", [])), verdicts.get("right", []))


def _joined(verdicts: list[list[Judged]], i: int) -> list[bool]:
    """The verdicts of model i on the problems of all seeds, one after another."""
    return [right == 1 for models in verdicts for right in models[i].right]


def _same_problems(models: list[Judged]) -> bool:
    first = models[0]
    return bool(first.right) and all(m.problems == first.problems and len(m.right) == len(first.right) for m in models)


def _evaluation(experiment: Experiment, stage: str) -> Run:
    run = experiment.evaluation_of(stage)
    if run is None:
        raise Missing(f"no evaluation of {stage}")
    return run


def probe_margin(experiments: list[Experiment], stage: str, task: str) -> Measured:
    """Accuracy of the best probe of a task above the better of its two controls, in the interval of the accuracy."""
    rates, details = [], []
    for experiment in experiments:
        run = experiment.runs.get(stage)
        best = best_probe(run.summary.get("results", []) if run else [], task)
        if best is None:
            raise Missing(f"no probe result for {task}")
        controls = [best[key] for key in ("majority", "random") if best.get(key) is not None]
        if len(controls) < 2:
            raise Missing(f"the probe for {task} lacks a control")
        values = (best[key] - max(controls) for key in ("accuracy", "low", "high"))
        rates.append(Rate(*values, best["n"]))
        details.append(
            f"{best['probe']} probe, layer {best['layer']}: {best['accuracy']:.1%}; majority {best['majority']:.1%}; "
            f"random weights {best['random']:.1%}"
        )
    value, low, high = (float(np.mean([getattr(r, key) for r in rates])) for key in ("value", "low", "high"))
    return Measured(
        Rate(value, low, high, sum(r.n for r in rates)), [r.value for r in rates], " points", " | ".join(details)
    )


def best_probe(results: list[dict[str, Any]], task: str) -> dict[str, Any] | None:
    """The result marked as selected (on a validation part), else the one with the highest accuracy."""
    mine = [r for r in results if r.get("task") == task]
    chosen = [r for r in mine if r.get("selected")] or mine
    return max(chosen, key=lambda r: r["accuracy"], default=None)


MEASURES: Mapping[str, Callable[..., Measured]] = {
    "full": lambda experiments, expectation: full(experiments, expectation["stage"]),
    "gap_share": lambda experiments, expectation: gap_share(experiments, expectation["stage"]),
    "probe_margin": lambda experiments, expectation: probe_margin(
        experiments, expectation["stage"], expectation.get("task") or "nece"
    ),
}


def judge(experiments: list[Experiment], expectation: Mapping[str, Any]) -> Verdict:
    """The verdict on one expectation {claim, measure, stage, at_least, task?}."""
    bar = float(expectation["at_least"])
    try:
        measured = MEASURES[expectation["measure"]](experiments, expectation)
    except Missing as missing:
        return Verdict(expectation["claim"], None, bar, "not measured", str(missing))
    value, low = measured.pooled.value, measured.pooled.low
    reached = sum(v >= bar for v in measured.seeds)
    if not value >= bar:
        word = "not met"
    else:
        word = "met" if low >= bar and reached == len(measured.seeds) else "met, not clearly"
    note = f"{reached} of {len(measured.seeds)} seeds reach it" if len(measured.seeds) > 1 else ""
    return Verdict(expectation["claim"], measured, bar, word, note)
