"""From the queries that a probe got right to `summary.json`: accuracy, its interval, and the controls beside it.

Intervals are 95% bootstrap intervals over problems, for queries of one problem are not independent. One row of each
task is `selected`: the best on the validation part, so that its test accuracy is not flattered by the choice; a control
that is a probe is chosen in the same way. `margins` compares the two query by query.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probes.queries import dependencies
from probes.queries.labels import TASKS
from probes.queries.table import Queries
from probes.readout.controls import NAMES, POSITION, RANDOM, SHUFFLED, TRAINED, majority
from probes.readout.linear import Reading, Split
from probes.runs import ClusterBootstrap, Estimate

MAJORITY, SELECTIVITY = "majority", "selectivity"
FARTHEST = 8  # distances from here on are one group


def rows(
    task: str, probe: str, split: Split, classes: int, readings: Mapping[str, Sequence[Reading]], position: Reading
) -> list[dict[str, Any]]:
    """One row for each site. `readings`: by kind of `probes.readout.controls`, each with the same sites; `names` may lack."""
    test, draws = split.test, ClusterBootstrap(split.test.row)
    parts = _parts(task, test, classes)
    alike = _with_interval(MAJORITY, draws.rate(majority(split.fit, test)))
    alike |= _with_interval(POSITION, draws.rate(position.right))
    result = []
    for i, mine in enumerate(readings[TRAINED]):
        whole = draws.rate(mine.right)
        controls = alike.copy()
        for kind in (RANDOM, SHUFFLED):
            controls |= _with_interval(kind, draws.rate(readings[kind][i].right))
        if NAMES in readings:
            names = readings[NAMES][i].right
            controls |= _with_interval(NAMES, draws.rate(names))
            controls |= _with_interval(SELECTIVITY, draws.ratio(mine.right.astype(float) - names, within=(-1, 1)))
        else:
            controls |= {NAMES: None, SELECTIVITY: None}
        result.append(
            {"task": task, "probe": probe, "site": mine.site, "layer": mine.layer, **_numbers(whole)}
            | controls
            | {"problems": draws.n, "validation": mine.validation, **mine.chosen}
            | {
                split_by: {name: _numbers(draws.rate(mine.right, among_Q)) for name, among_Q in groups.items()}
                for split_by, groups in parts.items()
            }
        )
    return result


def _with_interval(name: str, rate: Estimate) -> dict[str, float]:
    return {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}


def _parts(task: str, test: Queries, classes: int) -> dict[str, dict[str, np.ndarray]]:
    """The groups that results are split into, each a mask bool[Q]: by label, by A's need, by A's way to the query."""
    group_Q = TASKS[task].group(test.label, classes)
    problems = test.documents.problems
    needed_Q = problems.needed[test.row, test.slot] > 0
    distance_Q = np.minimum(dependencies.distance(problems)[test.row, test.slot], FARTHEST)
    far = {str(d) if d < FARTHEST else f"{d}+": distance_Q == d for d in range(FARTHEST + 1)}
    return {
        "by_label": {name: group_Q == g for g, name in enumerate(TASKS[task].groups)},
        "by_need": {"needed": needed_Q, "not needed": ~needed_Q},
        "by_distance": {name: among_Q for name, among_Q in far.items() if among_Q.any()},
    }


def select(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, the best of each task on the validation part (the first of equals) marked `selected`."""
    best: dict[str, int] = {}
    for i, row in enumerate(results):
        if row["task"] not in best or row["validation"] > results[best[row["task"]]]["validation"]:
            best[row["task"]] = i
    return [row | {"selected": True} if best[row["task"]] == i else row for i, row in enumerate(results)]


def margin(split: Split, readings: Mapping[str, Sequence[Reading]], position: Reading) -> dict[str, Any]:
    """The selected probe of a task above its controls, and above the best of them, on the same test queries.

    `readings`: of all probes and sites, by kind. Each kind's reading is its best on the validation part. In each draw
    of problems the best control is taken anew, so the interval holds for the control's uncertainty and its choice.
    """
    test, draws = split.test, ClusterBootstrap(split.test.row)
    chosen = {kind: max(readings[kind], key=lambda r: r.validation) for kind in (TRAINED, RANDOM, SHUFFLED)}
    mine = chosen.pop(TRAINED).right
    controls = {MAJORITY: majority(split.fit, test), POSITION: position.right}
    controls |= {kind: reading.right for kind, reading in chosen.items()}
    every_Q = np.ones(len(test), dtype=bool)
    accuracy = {name: float(right.mean()) for name, right in controls.items()}
    above = {
        name: draws.statistic(
            np.subtract, mine.mean() - right.mean(), len(test), (mine, every_Q), (right, every_Q), within=(-1, 1)
        )
        for name, right in controls.items()
    }
    strongest = max(accuracy, key=lambda name: accuracy[name])
    rate = draws.statistic(
        lambda mine_D, *other_D: mine_D - np.max(other_D, axis=0),
        float(mine.mean()) - accuracy[strongest],
        len(test),
        *((right, every_Q) for right in (mine, *controls.values())),
        within=(-1, 1),
    )
    return _value(rate) | {
        "accuracy": float(mine.mean()),
        "problems": draws.n,
        "control": strongest,
        "controls": {name: {"accuracy": accuracy[name], "above": _value(above[name])} for name in controls},
    }


def _value(rate: Estimate) -> dict[str, float]:
    return {"value": float(rate.value), "low": rate.low, "high": rate.high, "n": rate.n}


def _numbers(rate: Estimate) -> dict[str, float]:
    return {"accuracy": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}


def table(summary: Mapping[str, Any]) -> str:
    """The results for a person; * marks the selected one of each task."""
    lines = [
        f"{'task':<9} {'probe':<7} {'layer':>5} {'accuracy [95%]':>23} {'n':>6} {'majority':>8} {'random':>7} "
        f"{'shuffled':>8} {'position':>8} {'select.':>7}  by label"
    ]
    for row in summary["results"]:
        accuracy = f"{row['accuracy']:6.1%} [{row['low']:5.1%}, {row['high']:6.1%}]"
        parts = ", ".join(f"{name} {part['accuracy']:.1%}" for name, part in row["by_label"].items() if part["n"])
        head = f"{row['task']:<9} {row['probe']:<7} {row['layer']:>4}{'*' if row.get('selected') else ' '}"
        controls = f"{row['majority']:8.1%} {row['random']:7.1%} {row['shuffled']:8.1%} {row['position']:8.1%}"
        selectivity = f"{'-' if row['selectivity'] is None else format(row['selectivity'], '+.1%'):>7}"
        lines.append(f"{head} {accuracy:>23} {row['n']:6} {controls} {selectivity}  {parts}")
    for task, m in summary["margins"].items():
        interval = f"{m['value']:+.1%} [{m['low']:+.1%}, {m['high']:+.1%}]"
        lines.append(f"{task}: {interval} above its best control ({m['control']}), {m['problems']} problems")
        row = next(r for r in summary["results"] if r["task"] == task and r.get("selected"))
        if row[SELECTIVITY] is not None:
            low, high = row["selectivity_low"], row["selectivity_high"]
            lines.append(f"  selectivity {row[SELECTIVITY]:+.1%} [{low:+.1%}, {high:+.1%}] over labels dealt to names")
        lines.append(f"  {_split(row, 'by_need')}; steps from the query: {_split(row, 'by_distance')}")
    shared = ", ".join(f"{task} {share:.1%}" for task, share in summary["shared_templates"].items())
    lines.append(f"test problems with a solution template that was fitted on: {shared}")
    return "\n".join(lines)


def _split(row: Mapping[str, Any], name: str) -> str:
    return ", ".join(f"{k} {v['accuracy']:.1%} (n = {v['n']})" for k, v in row[name].items() if v["n"])
