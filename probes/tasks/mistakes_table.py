"""The summary of task=mistakes for a person."""

from collections.abc import Mapping
from typing import Any

from probes.runs import Table
from probes.tables import accuracy_text


def table(summary: Mapping[str, Any]) -> str:
    """All of it as lines: ways to solve, kinds of mistakes, what the probes knew."""
    return "\n".join([*_solutions(summary), "", *_taxonomy(summary["taxonomy"]), "", *_knew(summary)])


def _solutions(summary: Mapping[str, Any]) -> list[str]:
    head = ["way", "fully right [95%]", "above greedy [95%]", "taken back a right, wrong solution", "BACK written"]
    cells = []
    for row in summary["solutions"]:
        full, gain = row["full"], row["gain"]
        right = f"{full['rate']:.1%} [{full['low']:.1%}, {full['high']:.1%}]"
        above = f"{gain['value']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]"
        taken_back, back = (f"{_count(row[f'{k}_right'])}, {_count(row[f'{k}_wrong'])}" for k in ("retries", "back"))
        cells.append([row["name"], right, above, taken_back, back])
    return [Table(head, cells).text("lrrl")]


def _count(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.2f}"


def _taxonomy(taxonomy: Mapping[str, Any]) -> list[str]:
    problems = {int(ops): n for ops, n in taxonomy["problems_by_ops"].items()}
    cells = []
    for kind in sorted({row["kind"] for row in taxonomy["by_ops"]}):
        count = {row["ops"]: row["n"] for row in taxonomy["by_ops"] if row["kind"] == kind}
        steps = [row for row in taxonomy["by_step"] if row["kind"] == kind]
        by_step = [f"{'the end' if row['step'] is None else row['step'] + 1} {row['n']}" for row in steps]
        cells.append([kind, *(str(count.get(ops, 0)) for ops in problems), ", ".join(by_step)])
    head = (
        f"{taxonomy['wrong']} of {taxonomy['n']} greedy solutions are wrong; first mistake by operations, then by step"
    )
    columns = ["problems", *(f"op={ops}: {n}" for ops, n in problems.items()), "step"]
    return [head, Table(columns, cells).text("l" + "r" * len(problems) + "l")]


def _knew(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f"probe for {name}: {accuracy_text(found)} on the generator's documents"
        for name, found in summary["probes"].items()
    ]
    for name, when in (("first_wrong", "before it was written"), ("first_wrong_after", "once it was written")):
        for task, found in summary[name].items():
            lines.append(f"first wrong parameter, {when}: {task} says no to {accuracy_text(found)}")
    lines.append(
        f"unneeded ones: nece called {accuracy_text(summary['unneeded'])} of them not needed before the solution"
    )
    for name, found in summary["detection"].items():
        if found["suspected"] is not None:
            lines.append(
                f"{name}: finds {accuracy_text(found['found'])} of the parameters written where it is no, suspects "
                f"{accuracy_text(found['suspected'])} of those where it is yes"
            )
    after = summary["after_step"]
    lines.append(
        "after each step, is it a mistake: too few mistakes to fit a probe"
        if after is None
        else f"after each step, is it a mistake: balanced accuracy {accuracy_text(after)}, random weights "
        f"{after['random']:.1%}, {after['mistakes']} mistakes"
    )
    return lines
