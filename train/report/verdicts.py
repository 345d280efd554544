"""Verdicts: a recipe states what should come out, the runs say what came out, this decides whether it did.

An expectation names a measure, the stages it is taken on, and a bar. Its value has an interval and an n, one for each
seed and one for the seeds together; a bar is met when the value over all seeds reaches it, and clearly met when the
whole interval and every seed do. A claim that compares two stages (`against`), or is about a number of an analysis
(`cell`), is supported when the whole interval lies above the bar, contradicted when it lies below, and else not
decided. Try: `python -m train.report runs/quickstart`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from train.report.estimates import Missing, PooledEstimate, cell, full, gap_share, lead, probe_margin
from train.report.studies.collapse import collapsed_share, stable_share
from train.runs.results import Experiment


class Verdict(NamedTuple):
    claim: str
    measured: PooledEstimate | None
    bar: float
    word: str  # met | met, not clearly | not met | supported | contradicted | not decided | not measured
    note: str

    @property
    def number(self) -> str:
        """What was measured and how certain it is, or why it was not."""
        if self.measured is None:
            return self.note
        return f"{self.measured}; {self.note}" if self.note else str(self.measured)


MEASURES: Mapping[str, Callable[..., PooledEstimate]] = {
    "full": lambda experiments, expectation: full(experiments, expectation["stage"]),
    "gap_share": lambda experiments, expectation: gap_share(experiments, expectation["stage"]),
    "probe_margin": lambda experiments, expectation: probe_margin(
        experiments, expectation["stage"], expectation.get("task") or "nece"
    ),
    "lead": lambda experiments, expectation: lead(experiments, expectation["stage"], expectation["against"]),
    "lead_out": lambda experiments, expectation: lead(experiments, expectation["stage"], expectation["against"], 1),
    "cell": lambda experiments, expectation: cell(experiments, expectation["stage"], expectation["cell"]),
    "collapsed": lambda experiments, expectation: collapsed_share(experiments, expectation["stage"]),
    "stable": lambda experiments, expectation: stable_share(experiments, expectation["stage"]),
}
COMPARING = ("lead", "lead_out")


def judge(experiments: list[Experiment], expectation: Mapping[str, Any]) -> Verdict:
    """The verdict on one expectation {claim, measure, stage, at_least, task?}."""
    bar = float(expectation["at_least"])
    try:
        measured = MEASURES[expectation["measure"]](experiments, expectation)
    except Missing as missing:
        return Verdict(expectation["claim"], None, bar, "not measured", str(missing))
    value, low = measured.pooled.value, measured.pooled.low
    reached = sum(v >= bar for v in measured.seeds)
    if expectation["measure"] in (*COMPARING, "cell"):
        word = "supported" if low > bar else "contradicted" if measured.pooled.high < bar else "not decided"
    elif not value >= bar:
        word = "not met"
    else:
        word = "met" if low >= bar and reached == len(measured.seeds) else "met, not clearly"
    note = f"{reached} of {len(measured.seeds)} seeds reach it" if len(measured.seeds) > 1 else ""
    return Verdict(expectation["claim"], measured, bar, word, note)
