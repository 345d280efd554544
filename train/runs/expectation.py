"""What a recipe claims: a measure of a stage, and the value that it must reach.

A recipe's YAML holds expectations, its plan file keeps them, and `train.report.verdicts` decides whether they are met.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml

from synth.ranges import settings
from train.config.schema import REQUIRED, build

COMPARING = ("lead", "lead_out")  # measures that compare a stage with another one
MEASURES = ("full", "gap_share", "probe_margin", *COMPARING, "cell", "collapsed", "stable")


@dataclass(frozen=True)
class Cell:
    """One number of an analysis: `column` of the only row of `table` that has these values."""

    table: str = REQUIRED  # of the stage's tables
    column: str = REQUIRED  # of the table
    row: dict[str, Any] = field(default_factory=dict)  # values that name the row


@dataclass(frozen=True)
class Expectation:
    """A claim: `measure` of `stage` (and `task`, for a probe) reaches `at_least`.

    measure=lead: how far `stage` is ahead of `against`, in fully correct solutions of the same problems. measure=cell:
    the number that `cell` names in a table of the stage.
    """

    claim: str = REQUIRED  # in words
    measure: str = REQUIRED  # what is measured
    stage: str = REQUIRED  # on which stage
    at_least: float = REQUIRED  # the bar that the interval must clear
    task: str | None = None  # of a probe
    against: str | None = None  # the stage it is compared with
    cell: Cell | None = None

    def __post_init__(self) -> None:
        name = f"recipe.expect measure={self.measure}"
        if self.measure not in MEASURES:
            raise ValueError(f"{name}: accepted: {', '.join(MEASURES)}")
        if (self.measure == "cell") != (self.cell is not None):
            raise ValueError(f"{name}: accepted: measure=cell with a cell, others without")
        if (self.measure in COMPARING) != (self.against is not None):
            needs = "a stage" if self.measure in COMPARING else f"null; it goes with {', '.join(COMPARING)}"
            raise ValueError(f"recipe.expect against={self.against} with measure={self.measure}: accepted: {needs}")

    def __str__(self) -> str:
        place = f"{self.cell.column} in {self.cell.table}" if self.cell else self.task and f"for {self.task}"
        against = self.against and f"over `{self.against}`"
        return " ".join(filter(None, [self.measure, f"of `{self.stage}`", against, place]))


@settings
class Result:
    """What came out for a claim of a paper (`train.claims`), if anything did (`seeds`). An end that is not known is
    infinite. `world`: the preset of its data."""

    verdict: Literal["supported", "contradicted", "not decided", "not reached"]
    value: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    n: int = 0
    seeds: int = 0
    world: str = ""

    def __str__(self) -> str:
        known = {name: value for name, value in asdict(self).items() if value not in (math.inf, -math.inf)}
        return yaml.safe_dump(known, default_flow_style=True, sort_keys=False, width=1000).strip()


def expectations(plan: Mapping[str, Any]) -> list[Expectation]:
    """The expectations that a plan file holds as JSON."""
    return [build(Expectation, row) for row in plan.get("expect", [])]
