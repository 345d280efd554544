"""Verdicts: a recipe states what should come out, the runs say what came out, this decides whether it did.

An expectation names a measure, the stages it is taken on, and a bar. Its value has an interval and an n, one for each
seed and one for the seeds together; a bar is met when the value over all seeds reaches it, and clearly met when the
whole interval and every seed do. A claim that compares two stages (`against`), or is about a number of an analysis
(`cell`), is supported when the whole interval lies above the bar, contradicted when it lies below, and else not
decided. Fewer than FEWEST problems decide nothing. Try: `python -m train.report runs/quickstart`.
"""

from typing import NamedTuple

from train.report import estimates
from train.report.studies.collapse import collapsed_share, stable_share
from train.runs.expectation import COMPARING, Expectation
from train.runs.results import Experiment

FEWEST = 30  # problems; below it an interval says little about the population
OF_RUNS = ("collapsed", "stable")  # measures whose n counts runs, of which there are never many


class Verdict(NamedTuple):
    claim: str
    measured: estimates.PooledEstimate | None
    bar: float
    word: str  # met | met, not clearly | not met | supported | contradicted | not decided | not measured
    note: str

    @property
    def number(self) -> str:
        """What was measured and how certain it is, or why it was not."""
        return "; ".join(filter(None, [str(self.measured or ""), self.note]))


def measure(experiments: list[Experiment], wanted: Expectation) -> estimates.PooledEstimate:
    """What the runs say about the measure of an expectation. Raises Missing where they do not have it."""
    stage, kind = wanted.stage, wanted.measure
    if kind in COMPARING and wanted.against:
        return estimates.lead(experiments, stage, wanted.against, kind == "lead_out")
    if kind == "probe_margin":
        return estimates.probe_margin(experiments, stage, wanted.task or "nece")
    if kind == "cell" and wanted.cell:
        return estimates.table_cell(experiments, stage, wanted.cell)
    simple = {"full": estimates.solution_accuracy, "gap_share": estimates.gap_share}
    return (simple | {"collapsed": collapsed_share, "stable": stable_share})[kind](experiments, stage)


def word_of(low: float, high: float, bar: float) -> str:
    """On which side of the bar an interval lies."""
    return "supported" if low > bar else "contradicted" if high < bar else "not decided"


def judge(experiments: list[Experiment], expectation: Expectation) -> Verdict:
    """The verdict on one expectation."""
    claim, bar = expectation.claim, expectation.at_least
    try:
        measured = measure(experiments, expectation)
    except estimates.Missing as missing:
        return Verdict(claim, None, bar, "not measured", str(missing))
    (value, low, high, n), reached = measured.pooled, sum(v >= bar for v in measured.seeds)
    if n < FEWEST and expectation.measure not in OF_RUNS:
        return Verdict(claim, measured, bar, "not decided", f"a verdict takes at least {FEWEST} problems")
    if expectation.measure in (*COMPARING, "cell"):
        word = word_of(low, high, bar)
    elif not value >= bar:
        word = "not met"
    else:
        word = "met" if low >= bar and reached == len(measured.seeds) else "met, not clearly"
    note = f"{reached} of {len(measured.seeds)} seeds reach it" if len(measured.seeds) > 1 else ""
    return Verdict(claim, measured, bar, word, note)
