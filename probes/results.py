"""From the queries that a probe got right to the rows of `summary.json`: accuracy, its interval, and both controls.

Queries of one problem are not independent, so intervals are Wilson's at the effective number of queries: n divided by
the design effect, how much wider the spread between problems is than that of independent queries (Kish 1965). One row
of each task is `selected`: the best on the validation part, so that its test accuracy is not flattered by the choice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probes.controls import majority
from probes.labels import TASKS
from probes.linear import Reading, Split
from train.intervals import Rate, wilson


def interval(right_Q: np.ndarray, problem_Q: np.ndarray) -> Rate:
    """Share of `right_Q` with its 95% interval; `problem_Q` tells which queries belong together. n counts queries.

    Where all queries have one outcome the design effect is unknown; problems then count once each.
    """
    n, problems = len(right_Q), len(np.unique(problem_Q))
    if n == 0:
        return wilson(0, 0)
    p = float(np.mean(right_Q))
    if p in (0.0, 1.0):
        effective = float(problems)
    else:
        _, group_Q = np.unique(problem_Q, return_inverse=True)
        deviation = np.bincount(group_Q, weights=right_Q - p)
        effective = n / max(1.0, float(np.square(deviation).sum()) / (n * p * (1 - p)))
    rate = wilson(p * effective, effective)
    return Rate(p, rate.low, rate.high, n)


def rows(
    task: str, probe: str, split: Split, classes: int, trained: Sequence[Reading], random: Sequence[Reading]
) -> list[dict[str, Any]]:
    """One row for each site. `random` holds the same sites, read from the model with random weights."""
    test, names = split.test, TASKS[task].groups
    group_Q = TASKS[task].group(test.label, classes)
    base = float(majority(split.fit, test).mean())
    result = []
    for mine, control in zip(trained, random, strict=True):
        whole, other = interval(mine.right, test.row), interval(control.right, test.row)
        parts = {name: interval(mine.right[group_Q == g], test.row[group_Q == g]) for g, name in enumerate(names)}
        result.append(
            {"task": task, "probe": probe, "site": mine.site, "layer": mine.layer, **_numbers(whole), "majority": base}
            | {"random": other.value, "random_low": other.low, "random_high": other.high}
            | {"problems": len(np.unique(test.row)), "validation": mine.validation, **mine.chosen}
            | {"by_label": {name: _numbers(rate) for name, rate in parts.items()}}
        )
    return result


def select(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, the best of each task on the validation part (the first of equals) marked `selected`."""
    best: dict[str, int] = {}
    for i, row in enumerate(results):
        if row["task"] not in best or row["validation"] > results[best[row["task"]]]["validation"]:
            best[row["task"]] = i
    return [row | {"selected": True} if best[row["task"]] == i else row for i, row in enumerate(results)]


def _numbers(rate: Rate) -> dict[str, float]:
    return {"accuracy": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}


def table(summary: Mapping[str, Any]) -> str:
    """The results for a person; * marks the selected one of each task."""
    lines = [
        f"{'task':<8} {'probe':<8} {'layer':>5} {'accuracy [95%]':>24} {'n':>6} {'majority':>9} {'random':>8}  by label"
    ]
    for row in summary["results"]:
        accuracy = f"{row['accuracy']:6.1%} [{row['low']:5.1%}, {row['high']:6.1%}]"
        parts = ", ".join(f"{name} {part['accuracy']:.1%}" for name, part in row["by_label"].items() if part["n"])
        head = f"{row['task']:<8} {row['probe']:<8} {row['layer']:>4}{'*' if row.get('selected') else ' '}"
        controls = f"{row['majority']:9.1%} {row['random']:8.1%}"
        lines.append(f"{head} {accuracy:>24} {row['n']:6} {controls}  {parts}")
    return "\n".join(lines)
