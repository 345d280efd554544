"""The papers' numbers (`published.yaml`) beside ours, line by line.

for line in beside(summary, spec): print(line)
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from synth.spec import Spec

PUBLISHED: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
COLUMNS = [(preset, column) for preset, columns in PUBLISHED["columns"].items() for column in columns]


def column_of(spec: Spec) -> tuple[str, str] | None:
    """The published column that a world's problems are of, or None."""
    for preset, edges in (("med", 20), ("hard", 28)):
        column = f"{'' if spec.exact_ops else '<='}{spec.ops}"
        if (spec.modulus, spec.edges) == (23, edges) and (preset, column) in COLUMNS and not spec.reask:
            return preset, column
    return None


def beside(summary: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    """Our results and the published ones, a line each, and what differs. Nothing for what the papers do not have."""
    if "margins" in summary:
        yield from _probes(summary, spec)
    elif "solutions" in summary:
        yield from _mistakes(summary, spec)
    else:
        return
    yield (
        f"why they differ: {summary['parameters']:,} weights in a world of up to {spec.ops} operations mod "
        f"{spec.modulus} among {spec.edges} sentences; theirs 124,000,000 weights, up to 15 or 21 operations mod 23, "
        "39 or 52 thousand million tokens, 4096 problems and more for each number"
    )


def _probes(summary: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    column = column_of(spec)
    preset, ops = column or COLUMNS[0]
    at = COLUMNS.index((preset, ops))
    near = "" if column else ", the nearest that is published"
    yield f"{'':<9} {'ours':>7} {'majority':>8} | {'theirs':>7} {'majority':>8}   {preset} {ops} {spec.order}{near}"
    for task, margin in summary["margins"].items():
        theirs = PUBLISHED["vprobes"][task]
        ours = f"{task:<9} {margin['accuracy']:7.1%} {margin['controls']['majority']['accuracy']:8.1%}"
        yield f"{ours} | {theirs[spec.order][at]:6.1f}% {theirs['majority'][at]:7.1f}%"


def _mistakes(summary: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    yield "published, averages of the columns (Part 2.2 Fig. 3b; Part 2.1 Fig. 8):"
    for row in summary["solutions"]:
        if row["name"] in PUBLISHED["solutions"]:
            second = row["name"] == "probe" and summary["attention_rank"]
            theirs = PUBLISHED["second_version"] if second else PUBLISHED["solutions"][row["name"]]
            yield f"  fully right, {row['name']:<14} ours {row['full']['rate']:6.1%}   theirs {theirs:5.1f}%"
    for task, numbers in PUBLISHED["first_wrong"].items():
        ours = summary["first_wrong"][task]
        theirs = f"{_range(numbers[spec.order])} ({spec.order})"
        yield f"  {task} on the first wrong parameter: ours {_share(ours)}, theirs {theirs}"
    ours, theirs = _share(summary["unneeded"]), _range(PUBLISHED["unneeded"][spec.order])
    yield f"  nece on unneeded ones written: ours {ours}, theirs {theirs} ({spec.order}, asked again)"
    back = summary["solutions"][0]["back_right"]
    if spec.retry_rate > 0 and spec.retry_kind == "retry" and back is not None:
        near = min(PUBLISHED["retries"], key=lambda p: abs(p - spec.retry_rate))
        low, *_, high = PUBLISHED["retries"][near]
        theirs = f"theirs {low:.2f} to {high:.2f} at {near:g}"
        yield f"  BACK in a right solution: ours {back:.2f} at p = {spec.retry_rate:g}, {theirs}"


def _share(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['accuracy']:.1%} (n = {numbers['n']})" if numbers["n"] else "none"


def _range(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.1f} to {max(numbers):.1f}%"
