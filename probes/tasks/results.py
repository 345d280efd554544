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
from probes.runs import ClusterBootstrap, Estimate, Table
from probes.tables import cell

MAJORITY, SELECTIVITY = "majority", "selectivity"
CONTROLS = (MAJORITY, RANDOM, SHUFFLED, POSITION)
FARTHEST = 8  # distances from here on are one group


def rows(
    task: str, probe: str, split: Split, classes: int, readings: Mapping[str, Sequence[Reading]], position: Reading
) -> list[dict[str, Any]]:
    """One row for each site. `readings`: of the trained model and of its controls, each with the same sites.

    Those of the control `names` may lack.
    """
    bootstrap, groups = ClusterBootstrap(split.test.row), _groups(task, split.test, classes)
    same_for_all = _control(MAJORITY, bootstrap.rate(majority(split.fit, split.test)))
    same_for_all |= _control(POSITION, bootstrap.rate(position.right))
    result = []
    for i, trained in enumerate(readings[TRAINED]):
        controls = dict(same_for_all)
        for kind in (RANDOM, SHUFFLED):
            controls |= _control(kind, bootstrap.rate(readings[kind][i].right))
        if NAMES in readings:
            names = readings[NAMES][i].right
            controls |= _control(NAMES, bootstrap.rate(names))
            controls |= _control(SELECTIVITY, bootstrap.ratio(trained.right.astype(float) - names, within=(-1, 1)))
        else:
            controls |= {NAMES: None, SELECTIVITY: None}
        by_group = {
            split_by: {name: cell(bootstrap.rate(trained.right, among_Q), "accuracy") for name, among_Q in of.items()}
            for split_by, of in groups.items()
        }
        row = {"task": task, "probe": probe, "site": trained.site, "layer": trained.layer}
        row |= cell(bootstrap.rate(trained.right), "accuracy") | controls
        result.append(row | {"problems": bootstrap.n, "validation": trained.validation, **trained.chosen} | by_group)
    return result


def _control(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _groups(task: str, test: Queries, classes: int) -> dict[str, dict[str, np.ndarray]]:
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
    test, bootstrap = split.test, ClusterBootstrap(split.test.row)
    chosen = {kind: max(readings[kind], key=lambda r: r.validation).right for kind in (TRAINED, RANDOM, SHUFFLED)}
    trained = chosen.pop(TRAINED)
    controls = {MAJORITY: majority(split.fit, test), POSITION: position.right, **chosen}
    every_Q, value = np.ones(len(test), dtype=bool), float(trained.mean())
    accuracy = {name: float(right.mean()) for name, right in controls.items()}
    above = {
        name: bootstrap.statistic(
            np.subtract, value - accuracy[name], len(test), (trained, every_Q), (right, every_Q), within=(-1, 1)
        )
        for name, right in controls.items()
    }
    strongest = max(accuracy, key=lambda name: accuracy[name])
    above_all = bootstrap.statistic(
        lambda trained_D, *controls_D: trained_D - np.max(controls_D, axis=0),
        value - accuracy[strongest],
        len(test),
        *((right, every_Q) for right in (trained, *controls.values())),
        within=(-1, 1),
    )
    return cell(above_all) | {
        "accuracy": value,
        "problems": bootstrap.n,
        "control": strongest,
        "controls": {name: {"accuracy": accuracy[name], "above": cell(above[name])} for name in controls},
    }


def table(summary: Mapping[str, Any]) -> str:
    """The results for a person; * marks the selected one of each task."""
    head = ["task", "probe", "layer", "accuracy [95%]", "n", *CONTROLS, "select.", "by label"]
    cells = []
    for row in summary["results"]:
        layer = f"{row['layer']}{'*' if row.get('selected') else ' '}"
        accuracy = f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"
        controls = [f"{row[name]:.1%}" for name in CONTROLS]
        selectivity = "-" if row[SELECTIVITY] is None else f"{row[SELECTIVITY]:+.1%}"
        by_label = ", ".join(f"{name} {part['accuracy']:.1%}" for name, part in row["by_label"].items() if part["n"])
        cells.append([row["task"], row["probe"], layer, accuracy, str(row["n"]), *controls, selectivity, by_label])
    lines = [Table(head, cells).text("llrrrrrrrrl")]
    for task, m in summary["margins"].items():
        interval = f"{m['value']:+.1%} [{m['low']:+.1%}, {m['high']:+.1%}]"
        lines.append(f"{task}: {interval} above its best control ({m['control']}), {m['problems']} problems")
        row = next(r for r in summary["results"] if r["task"] == task and r.get("selected"))
        if row[SELECTIVITY] is not None:
            low, high = row["selectivity_low"], row["selectivity_high"]
            lines.append(f"  selectivity {row[SELECTIVITY]:+.1%} [{low:+.1%}, {high:+.1%}] over labels dealt to names")
        lines.append(f"  {_by_group(row, 'by_need')}; steps from the query: {_by_group(row, 'by_distance')}")
    shared = ", ".join(f"{task} {share:.1%}" for task, share in summary["shared_templates"].items())
    return "\n".join([*lines, f"test problems with a solution template that was fitted on: {shared}"])


def _by_group(row: Mapping[str, Any], name: str) -> str:
    return ", ".join(f"{k} {v['accuracy']:.1%} (n = {v['n']})" for k, v in row[name].items() if v["n"])
