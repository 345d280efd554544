"""task=provenance: whose steps does a distilled model write? ("Where did this sentence come from?", 2512.20908)

    python -m probes.run task=provenance checkpoint=OPD provenance.teacher=TEACHER provenance.student=STUDENT

The distilled model D answers held-out problems. Each of its steps is scored by D, by the teacher T and by the student S
before distillation, in the same text: p is the geometric mean of its tokens' probabilities. With gap g,

    teacher    p_T > g p_S                      student    p_S > g p_T
    boosted    else, and p_D > g max(p_T, p_S)  damped     else, and g p_D < min(p_T, p_S) (ours, so that none is left)
    shared     else

The paper gives no numbers for "much larger"; here g = 2, with 1.5 and 4 beside it. Crossed with the checker's verdict
on the step, and for each step number with the whole answer's: `area` is the mean over the first steps of the share of
a class among right answers less that among wrong ones, since right answers are shorter.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from probes.analyses.responses import Responses, response_budget, response_logprobs, sample_responses, step_means
from probes.runs import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    CaptionedFigure,
    ClusterBootstrap,
    Estimate,
    ResumeLog,
    error_bars,
)
from probes.settings import ProbeConfig, check_above_zero, check_at_least, check_each
from probes.tables import cell, estimate_of, percent_axis
from probes.tasks.task import Models, Summary, task_of
from synth.judge.checker import MALFORMED

CLASSES = ("teacher", "student", "boosted", "damped", "shared")
COLORS = (BLUE, ORANGE, RED, GREY, GREEN)


@dataclass(frozen=True)
class Settings:
    """`gaps`: probability ratios a token from which two models differ clearly; the first is reported in full.

    `positions`: steps from the start that the area between right and wrong answers is taken over.
    """

    teacher: str | None = None
    student: str | None = None
    problems: int = 300
    samples: int = 2
    temperature: float = 1.0
    gaps: tuple[float, ...] = (2.0, 1.5, 4.0)
    positions: int = 3

    def __post_init__(self) -> None:
        check_at_least("provenance", self, problems=1, samples=1, positions=1)
        check_above_zero("provenance", self, "temperature")
        check_each("provenance", self, "gaps", "a list of numbers above 1", lambda gap: gap > 1)


@dataclass(frozen=True)
class Config(ProbeConfig):
    """`model` is the distilled one, `student` what it was before, `teacher` whom it learned from."""

    task: str = "provenance"
    provenance: Settings = field(default_factory=Settings)


def run(config: Config, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `classes`, `area` and `positions`."""
    c, distilled = config.provenance, models["model"]
    source = config.data.source("test", "provenance")
    documents = source.documents(range(c.problems))
    settings = {"samples": c.samples, "temperature": c.temperature, "seed": config.seed}
    settings["budget"] = response_budget(distilled, documents, "model")
    responses = sample_responses(distilled, documents, source.world, log, "rollouts", **settings)
    prompts = responses.prompts()
    teacher_NS, student_NS, distilled_NS = (
        step_means(responses, response_logprobs(models[name], prompts, responses.tokens, name))
        for name in ("provenance.teacher", "provenance.student", "model")
    )
    tables: dict[str, list[dict[str, Any]]] = {"classes": [], "area": [], "positions": []}
    for gap in c.gaps:
        class_NS = classify(teacher_NS, student_NS, distilled_NS, gap)
        tables["classes"] += [{"gap": gap} | row for row in cross_with_mistakes(responses, class_NS)]
        tables["area"] += [{"gap": gap} | row for row in areas(responses, class_NS, c.positions)]
    first_gap_NS = classify(teacher_NS, student_NS, distilled_NS, c.gaps[0])
    tables["positions"] = by_position(responses, first_gap_NS, c.positions)
    steps, right = int((responses.verdicts.kind >= 0).sum()), responses.verdicts.right
    note = f"{len(documents)} problems, {len(right)} answers, {right.mean():.1%} of them right, {steps} steps"
    return {"tables": tables, "notes": [f"{note}; area: right less wrong answers, first {c.positions} steps"]}


def classify(teacher: np.ndarray, student: np.ndarray, distilled: np.ndarray, gap: float) -> np.ndarray:
    """Class of every step from its mean token log-probabilities under the three; -1 where there is no step."""
    g, ahead = np.log(gap), teacher - student
    conditions = [
        np.isnan(ahead),
        ahead > g,
        ahead < -g,
        distilled - np.maximum(teacher, student) > g,
        np.minimum(teacher, student) - distilled > g,
    ]
    return np.select(conditions, [-1, 0, 1, 2, 3], 4)


def cross_with_mistakes(responses: Responses, class_NS: np.ndarray) -> list[dict[str, Any]]:
    """For each class: its share of all steps, and which of its steps are mistakes, against all others'."""
    n, s = np.nonzero(class_NS >= 0)
    class_M, wrong_M = class_NS[n, s], responses.verdicts.kind[n, s] >= MALFORMED
    bootstrap, rows = ClusterBootstrap(responses.row[n]), []
    for k, name in enumerate(CLASSES):
        inside = class_M == k
        found = {"share": bootstrap.rate(inside), "mistakes": bootstrap.rate(wrong_M, inside)}
        found |= {"mistakes_elsewhere": bootstrap.rate(wrong_M, ~inside)}
        found |= {"wrong_share": bootstrap.rate(inside & wrong_M)}
        rows.append({"class": name} | {column: cell(estimate) for column, estimate in found.items()})
    return rows


def areas(responses: Responses, class_NS: np.ndarray, positions: int) -> list[dict[str, Any]]:
    """Mean over the first steps of each class's share in right answers less that in wrong ones, with its interval."""
    right, bootstrap, rows = responses.verdicts.right, ClusterBootstrap(responses.row), []
    n = int((class_NS[:, :positions] >= 0).sum())

    def area(*rates: np.ndarray) -> np.ndarray:
        """Of rates among right and wrong answers in turn, one for each draw or one alone."""
        return np.nanmean(rates[::2], axis=0) - np.nanmean(rates[1::2], axis=0)

    for k, name in enumerate(CLASSES):
        pairs = []
        for s in range(min(positions, class_NS.shape[1])):
            there, inside = class_NS[:, s] >= 0, class_NS[:, s] == k
            if (there & right).any() and (there & ~right).any():
                pairs += [(inside, there & right), (inside, there & ~right)]
        found = Estimate(np.nan, np.nan, np.nan, 0)
        if pairs:
            value = float(area(*(inside[among].mean() for inside, among in pairs)))
            found = bootstrap.statistic(area, value, n, *pairs, within=(-1, 1))
        rows.append({"class": name, "area": cell(found)})
    return rows


def by_position(responses: Responses, class_NS: np.ndarray, positions: int) -> list[dict[str, Any]]:
    """The share of each class at each of the first steps, among right and among wrong answers."""
    bootstrap, rows = ClusterBootstrap(responses.row), []
    for s in range(min(positions, class_NS.shape[1])):
        for name, answers in (("right", responses.verdicts.right), ("wrong", ~responses.verdicts.right)):
            among = answers & (class_NS[:, s] >= 0)
            shares = {kind: cell(bootstrap.rate(class_NS[:, s] == k, among)) for k, kind in enumerate(CLASSES)}
            rows.append({"step": s + 1, "answers": name} | shares)
    return rows


def figure(summary: Summary) -> CaptionedFigure:
    """How common each class is and how often its steps are wrong; the shares along right and wrong answers."""
    drawn = Figure(figsize=(10.5, 3.8), layout="constrained")
    share, wrong, along = drawn.subplots(1, 3)
    rows = summary["tables"]["classes"]
    rows = [row for row in rows if row["gap"] == rows[0]["gap"]]
    for ax, column, title in ((share, "share", "share of all steps"), (wrong, "mistakes", "of these, mistakes")):
        rates = [estimate_of(row[column]) for row in rows]
        value, error = error_bars([r if r.n else Estimate(0.0, 0.0, 0.0, 0) for r in rates])
        ax.bar(range(len(rows)), value, yerr=error, color=COLORS, ecolor="black", width=0.7)
        labels = [f"{row['class']}\nn={row[column]['n']}" for row in rows]
        ax.set_xticks(range(len(rows)), labels, rotation=30, fontsize=9)
        ax.set(title=title)
    positions = summary["tables"]["positions"]
    for name, color in zip(CLASSES, COLORS, strict=True):
        for answers, style in (("right", "-"), ("wrong", "--")):
            points = [(r["step"], r[name]["value"]) for r in positions if r["answers"] == answers and r[name]["n"]]
            x, y = zip(*points, strict=True) if points else ((), ())
            along.plot(x, y, style, color=color, label=name if style == "-" else None)
    ticks = sorted({row["step"] for row in positions})
    along.set(title="by step: right —, wrong - -", xlabel="step", xticks=ticks)
    along.legend(fontsize=8)
    percent_axis(share, wrong, along)
    caption = (
        f"Gap of a factor {rows[0]['gap']:g} a token. Steps of the distilled model's own answers to held-out problems; "
        "95% bootstrap intervals over problems."
    )
    return CaptionedFigure(drawn, "Whose steps a distilled model writes, and how often they are wrong", caption)


TASK = task_of(Config, run, figure, needs=("teacher", "student"))
