"""Correction data (Part 2.2, 2408.16293): arms trained on mistakes that are taken back, beside error-free data.

What an arm is, is read from its run folder: the mistakes in its data, what it started from, whether LoRA trained it,
and the tokens that it and what it started from have read. Its difference is against the error-free arm that has read as
many, problem by problem. Try: `python -m train.recipe recipe=retry`.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synth.store.files import read_json
from train.plotting import CYCLE, MARKERS, CaptionedFigure, error_bars, finish
from train.report import estimates
from train.report.page import Piece, label, note
from train.runs.results import Experiment, Run, counts
from train.statistics import wilson
from train.tables import NONE, Table, format_interval, plural

EQUAL = 0.1  # arms have read equally many tokens when they differ by less than this share


class Mistakes(NamedTuple):
    """The mistakes in an arm's data: their kind, their rate, and whether they carry no loss."""

    kind: str = "none"
    rate: float = 0.0
    masked: bool = False


class Arm(NamedTuple):
    """A stage; the mistakes in the data it trained on last; the stage whose weights it started from; the rank of its
    LoRA updates; the tokens that it and its origin have read, mean over seeds."""

    stage: str
    mistakes: Mistakes
    origin: str | None
    lora: int | None
    tokens: float

    @property
    def error_free(self) -> bool:
        return not self.mistakes.rate and self.origin is None

    def reads_as_much_as(self, other: "Arm") -> bool:
        return bool(other.tokens) and abs(self.tokens / other.tokens - 1) < EQUAL


class Side(NamedTuple):
    """What an arm does on problems in, or out of, distribution; retries are mistakes taken back in a solution."""

    accuracy: estimates.PooledEstimate | None
    lead: estimates.PooledEstimate | None
    retries_right: float | None
    retries: float | None
    unneeded_right: float | None


class Row(NamedTuple):
    """An arm, the error-free arm it is compared with, what the two do, and the published numbers of the same data."""

    arm: Arm
    against: str | None
    inside: Side
    outside: Side
    kl_to_oracle: float | None
    published: dict[str, Any] | None


def arms(experiments: list[Experiment]) -> list[Arm]:
    """The evaluated pretrainings. Raises NotApplicable where none read mistakes."""
    found: dict[str, list[tuple[Experiment, Run]]] = {}
    for e in experiments:
        for run in e.of("training"):
            if e.evaluation_of(run.name) is not None:
                found.setdefault(run.name, []).append((e, run))
    result = [_arm(stage, pairs) for stage, pairs in found.items()]
    if not any(arm.mistakes.rate for arm in result):
        raise estimates.NotApplicable("no arm that was trained on mistakes")
    return result


def _arm(stage: str, pairs: list[tuple[Experiment, Run]]) -> Arm:
    e, run = pairs[0]
    origin, overrides = e.input(run, "init"), _overrides(run)
    tokens = [run.total("tokens") + (o.total("tokens") if (o := e.input(run, "init")) else 0) for e, run in pairs]
    rate, masked = float(overrides.get("retry_rate", 0.0)), overrides.get("mask_mistakes", "none") != "none"
    mistakes = Mistakes(str(overrides.get("retry_kind", "retry")), rate, masked) if rate else Mistakes()
    rank = (run.config.get("lora") or {}).get("rank")
    return Arm(stage, mistakes, origin.name if origin else None, rank, float(np.mean(tokens)))


def _overrides(run: Run) -> dict[str, Any]:
    return (run.config.get("data") or {}).get("overrides") or {}


def equally_trained(arm: Arm, others: list[Arm]) -> Arm | None:
    """The error-free arm, trained from scratch, that has read as many tokens."""
    near = [o for o in others if o.error_free and o.stage != arm.stage and o.reads_as_much_as(arm)]
    return min(near, key=lambda o: abs(o.tokens - arm.tokens), default=None)


@cache
def published() -> dict[str, Any]:
    """The published accuracies, in percent; the file says under which conditions."""
    return read_json(Path(__file__).with_name("published_corrections.json"))


def published_row(arm: Arm, others: list[Arm]) -> dict[str, Any] | None:
    """The published numbers of the same data, trained in the same way."""
    twice = arm.tokens > 1.5 * min(o.tokens for o in others if o.origin is None)
    training = "lora" if arm.lora else "continued" if arm.origin else "double" if twice else "scratch"
    wanted = {"training": training, "mistakes": arm.mistakes.kind, "rate": arm.mistakes.rate}
    return next((row for row in published()["rows"] if row | wanted | {"masked": arm.mistakes.masked} == row), None)


def rows(experiments: list[Experiment]) -> list[Row]:
    """One row for each arm: what the table shows, as numbers."""
    found, result = arms(experiments), []
    for arm in found:
        other = equally_trained(arm, found)
        against = other.stage if other else None
        inside, outside = (_side(experiments, arm.stage, against, outside) for outside in (False, True))
        runs = [e.runs[arm.stage] for e in experiments if arm.stage in e.runs]
        kl = estimates.mean_or_none([run.summary.get("last", {}).get("kl_to_oracle") for run in runs])
        result.append(Row(arm, against, inside, outside, kl, published_row(arm, found)))
    return result


def _side(experiments: list[Experiment], stage: str, against: str | None, outside: bool) -> Side:
    summaries = [run.summary for e in experiments if (run := e.evaluation_of(stage, outside))]
    means = [estimates.mean_or_none([summary.get(key) for summary in summaries]) for key in Side._fields[2:]]
    accuracy = estimates.or_none(estimates.solution_accuracy, experiments, stage, outside)
    lead = estimates.or_none(estimates.lead, experiments, stage, against, outside) if against else None
    return Side(accuracy, lead, *means)


def section(experiments: list[Experiment]) -> list[Piece]:
    """The arms, what they solve, what they take back, and what the paper has; then how to read it."""
    body = []
    for row in rows(experiments):
        cells = [label(experiments, row.arm.stage), f"{row.arm.tokens / 1e6:.2f}M"]
        for side in (row.inside, row.outside):
            seeds = f" ({estimates.seed_range(side.accuracy.seeds)})" if side.accuracy and len(experiments) > 1 else ""
            cells.append(format_interval(side.accuracy.pooled) + seeds if side.accuracy else NONE)
            cells.append(format_interval(side.lead.pooled, "") if side.lead else NONE)
        cells.append(_number(row.kl_to_oracle, 4))
        cells += [f"{_number(a)} / {_number(b)}" for a, b in zip(row.inside[2:], row.outside[2:], strict=True)]
        cells.append(f"{row.published['mean']:g} / {_number(row.published['far'], 1)}" if row.published else NONE)
        body.append(cells)
    head = ["arm", "tokens", "in distribution [95%]", "against error-free", "out of it [95%]", "against error-free"]
    head += ["KL to its oracle", "BACK, right (in / out)", "BACK, all", "unneeded steps, right"]
    table = Table([*head, "published mean / 23 ops"], body)
    return [table, _how_to_read(experiments), *_retry_upon_regret(experiments)]


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _how_to_read(experiments: list[Experiment]) -> Piece:
    trained = [(e, run) for e in experiments for run in e.of("training")]
    found = [[e.evaluation_of(run.name, outside) for e, run in trained] for outside in (False, True)]
    firsts = [first for runs in found if (first := next(filter(None, runs), None))]
    weights = max((int(run.summary.get("parameters", 0)) for _, run in trained), default=0)
    asked = [(_overrides(run).get("exact_ops"), _overrides(run).get("ops", "all")) for run in firsts]
    operations = "; ".join(f"{'exactly' if exact else 'up to'} {ops} operations" for exact, ops in asked)
    sizes, seeds = " and ".join(str(counts(run)[1]) for run in firsts), plural(len(experiments), "seed")
    return note("corrections", seeds=seeds, sizes=sizes, operations=operations, weights=f"{weights:,}")


def _retry_upon_regret(experiments: list[Experiment]) -> list[Piece]:
    """What detecting mistakes brings without training on them: retry upon regret, ours and the published."""
    runs = [(e, run) for e in experiments for run in e.runs.values() if "solutions" in run.summary]
    if not runs:
        return []
    found = []
    for name, percent in published()["retry_upon_regret"].items():
        same = [row for _, run in runs for row in run.summary["solutions"] if row["name"] == name]
        right = sum(round(row["full"]["rate"] * row["n"]) for row in same)
        found.append(f"{name} {format_interval(wilson(right, sum(row['n'] for row in same)))} (published {percent})")
    subject = runs[0][0].subject(runs[0][1])
    model = label(experiments, subject.name) if subject else "a model"
    return [note("retry_upon_regret", model=model, found="; ".join(found))]


def figure(experiments: list[Experiment]) -> CaptionedFigure:
    """Accuracy over the rate of mistakes, a line for each kind, in and out of distribution; equal tokens, no start."""
    found = arms(experiments)
    free = [arm for arm in found if arm.error_free]
    if not free:
        raise estimates.Missing("no error-free arm to compare with")
    start = min(free, key=lambda arm: arm.tokens)
    lines: dict[str, list[Arm]] = {}
    for arm in sorted(found, key=lambda arm: arm.mistakes.rate):
        if arm.mistakes.rate and arm.origin is None and arm.reads_as_much_as(start):
            name = f"{arm.mistakes.kind}, masked" if arm.mistakes.masked else arm.mistakes.kind
            lines.setdefault(name, [start]).append(arm)
    if not lines:
        raise estimates.Missing("no arm from scratch with as many tokens as the error-free one")
    drawn = Figure(figsize=(7, 3.8), layout="constrained")
    for ax, outside in zip(drawn.subplots(1, 2, sharex=True), (False, True), strict=True):
        for i, (name, points) in enumerate(lines.items()):
            _line(ax, experiments, points, outside, i, name if not outside else None)
        title = "out of distribution" if outside else "in distribution"
        finish(ax, "y", title=title, xlabel="probability of a mistake")
    drawn.legend(loc="outside lower center", ncols=4)
    caption = "Fully right solutions, greedy, at equal tokens; the point at 0 is the error-free arm. 95% Wilson "
    caption += f"intervals over the problems of {plural(len(experiments), 'seed')}."
    return CaptionedFigure(drawn, "Accuracy over the rate of mistakes in the data", caption)


def _line(ax: Axes, experiments: list[Experiment], points: list[Arm], outside: bool, i: int, name: str | None) -> None:
    found = [estimates.or_none(estimates.solution_accuracy, experiments, arm.stage, outside) for arm in points]
    measured = [(arm.mistakes.rate, one.pooled) for arm, one in zip(points, found, strict=True) if one is not None]
    if measured:
        at = [rate + 0.006 * (i - 1.5) for rate, _ in measured]
        style = {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)], "label": name}
        ax.errorbar(at, *error_bars([accuracy for _, accuracy in measured]), elinewidth=1.2, **style)
