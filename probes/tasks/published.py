"""The papers' numbers (`published.yaml`) beside ours, line by line.

for line in beside(summary, spec): print(line)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from probes.tables import render
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


def beside(summary: Mapping[str, Any], spec: Spec) -> list[str]:
    """Our results and the published ones, a line each, and what differs. Nothing for what the papers do not have."""
    if not {"margins", "solutions"} & summary.keys():
        return []
    column = column_of(spec)
    preset, ops = column or COLUMNS[0]
    near = min(PUBLISHED["retries"], key=lambda p: abs(p - spec.retry_rate))
    place = {"preset": preset, "ops": ops, "exact": column, "at": COLUMNS.index((preset, ops)), "near": near}
    return render("published.jinja", **summary, **place, spec=spec, published=PUBLISHED).splitlines()
