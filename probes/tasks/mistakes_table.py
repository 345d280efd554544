"""The summary of task=mistakes for a person."""

from collections.abc import Mapping
from typing import Any


def table(summary: Mapping[str, Any]) -> str:
    """All of it as lines: ways to solve, kinds of mistakes, what the probes knew."""
    return "\n".join([*_solutions(summary), "", *_taxonomy(summary["taxonomy"]), "", *_knew(summary)])


def _solutions(summary: Mapping[str, Any]) -> list[str]:
    head = f"{'way':<14} {'fully right [95%]':>24} {'above greedy [95%]':>26}"
    lines = [f"{head}   taken back a right, wrong solution   BACK written"]
    for row in summary["solutions"]:
        full, gain = row["full"], row["gain"]
        right = f"{full['rate']:6.1%} [{full['low']:5.1%}, {full['high']:6.1%}]"
        above = f"{gain['value']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]"
        counts = [_count(row[name]) for name in ("retries_right", "retries_wrong", "back_right", "back_wrong")]
        lines.append(
            f"{row['name']:<14} {right:>24} {above:>26}   {counts[0]}, {counts[1]:<27} {counts[2]}, {counts[3]}"
        )
    return lines


def _count(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.2f}"


def _taxonomy(taxonomy: Mapping[str, Any]) -> list[str]:
    problems = {int(ops): n for ops, n in taxonomy["problems_by_ops"].items()}
    kinds = sorted({row["kind"] for row in taxonomy["by_ops"]})
    lines = [
        f"{taxonomy['wrong']} of {taxonomy['n']} greedy solutions are wrong; first mistake by operations, then by step"
    ]
    lines.append(f"{'problems':<30}" + "".join(f"{f'op={ops}: {n}':>12}" for ops, n in problems.items()))
    for kind in kinds:
        count = {row["ops"]: row["n"] for row in taxonomy["by_ops"] if row["kind"] == kind}
        steps = [
            f"{'the end' if row['step'] is None else row['step'] + 1} {row['n']}"
            for row in taxonomy["by_step"]
            if row["kind"] == kind
        ]
        lines.append(f"{kind:<30}" + "".join(f"{count.get(ops, 0):>12}" for ops in problems) + "   " + ", ".join(steps))
    return lines


def _knew(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f"probe for {name}: {_share(found)} on the generator's documents" for name, found in summary["probes"].items()
    ]
    for name, when in (("first_wrong", "before it was written"), ("first_wrong_after", "once it was written")):
        for task, found in summary[name].items():
            lines.append(f"first wrong parameter, {when}: {task} says no to {_share(found)}")
    lines.append(
        f"unneeded ones written: nece called {_share(summary['unneeded'])} of them not needed before the solution"
    )
    for name, found in summary["detection"].items():
        if found["suspected"] is not None:
            lines.append(
                f"{name}: finds {_share(found['found'])} of the parameters written where it is no, suspects "
                f"{_share(found['suspected'])} of those where it is yes"
            )
    after = summary["after_step"]
    lines.append(
        "after each step, is it a mistake: too few mistakes to fit a probe"
        if after is None
        else f"after each step, is it a mistake: balanced accuracy {_share(after)}, random weights "
        f"{after['random']:.1%}, {after['mistakes']} mistakes"
    )
    return lines


def _share(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return "none (n = 0)"
    return f"{found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}] (n = {found['n']})"
