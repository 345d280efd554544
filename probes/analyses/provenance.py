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

from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from probes.analyses.responses import Responses, response_budget, response_logprobs, sample_responses, step_means
from probes.runs import BLUE, GREEN, GREY, ORANGE, RED, CaptionedFigure, ClusterBootstrap, Estimate, ResumeLog
from probes.settings import ProbeConfig
from probes.tables import Rows, cell, cells, percent_axis, plot_bars
from probes.tasks.task import Models, Summary, task_of
from synth.judge.checker import MALFORMED
from synth.ranges import AboveZero, Filled, Positive, Range, settings

CLASSES = ("teacher", "student", "boosted", "damped", "shared")
COLORS = (BLUE, ORANGE, RED, GREY, GREEN)


@settings
class Settings:
    """`model` is the distilled one, `student` what it was before, `teacher` whom it learned from. `gaps`: probability
    ratios a token from which two models differ clearly; the first is reported in full. `positions`: steps from the
    start that the area between right and wrong answers is taken over."""

    teacher: str | None = None  # a run folder or checkpoint
    student: str | None = None  # a run folder or checkpoint
    problems: Positive = 300  # how many
    samples: Positive = 2  # of each problem
    temperature: AboveZero = 1.0  # of the samples
    gaps: Annotated[tuple[Annotated[float, Range(above=1)], ...], Filled] = (2.0, 1.5, 4.0)
    positions: Positive = 3


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `classes`, `area` and `positions`."""
    source, distilled = config.data.source("test", "provenance"), models["model"]
    documents = source.documents(range(c.problems))
    budget, draws = response_budget(distilled, documents, "model"), (c.samples, c.temperature)
    responses = sample_responses(distilled, documents, source.world, log, "rollouts", budget, config.seed, *draws)
    prompts = responses.prompts()
    teacher_NS, student_NS, distilled_NS = (
        step_means(responses, response_logprobs(models[name], prompts, responses.tokens, name))
        for name in ("provenance.teacher", "provenance.student", "model")
    )
    classes = {gap: classify(teacher_NS, student_NS, distilled_NS, gap) for gap in c.gaps}
    tables = {
        "classes": [{"gap": g} | row for g, k_NS in classes.items() for row in cross_with_mistakes(responses, k_NS)],
        "area": [{"gap": gap} | row for gap, k_NS in classes.items() for row in areas(responses, k_NS, c.positions)],
        "positions": by_position(responses, classes[c.gaps[0]], c.positions),
    }
    steps, right = int((responses.verdicts.kind >= 0).sum()), responses.verdicts.right
    note = f"{len(documents)} problems, {len(right)} answers, {right.mean():.1%} of them right, {steps} steps"
    return {"tables": tables, "notes": [f"{note}; area: right less wrong answers, first {c.positions} steps"]}


def classify(teacher: np.ndarray, student: np.ndarray, distilled: np.ndarray, gap: float) -> np.ndarray:
    """Class of every step from its mean token log-probabilities under the three; -1 where there is no step."""
    g, ahead = np.log(gap), teacher - student
    boosted, damped = distilled - np.maximum(teacher, student) > g, np.minimum(teacher, student) - distilled > g
    return np.select([np.isnan(ahead), ahead > g, ahead < -g, boosted, damped], [-1, 0, 1, 2, 3], 4)


def cross_with_mistakes(responses: Responses, class_NS: np.ndarray) -> Rows:
    """For each class: its share of all steps, and which of its steps are mistakes, against all others'."""
    n, s = np.nonzero(class_NS >= 0)
    class_M, wrong_M = class_NS[n, s], responses.verdicts.kind[n, s] >= MALFORMED
    bootstrap, rows = ClusterBootstrap(responses.row[n]), []
    for k, name in enumerate(CLASSES):
        inside = class_M == k
        found = {"share": bootstrap.rate(inside), "mistakes": bootstrap.rate(wrong_M, inside)}
        found["mistakes_elsewhere"] = bootstrap.rate(wrong_M, ~inside)
        found["wrong_share"] = bootstrap.rate(inside & wrong_M)
        rows.append({"class": name} | cells(found))
    return rows


def areas(responses: Responses, class_NS: np.ndarray, positions: int) -> Rows:
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


def by_position(responses: Responses, class_NS: np.ndarray, positions: int) -> Rows:
    """The share of each class at each of the first steps, among right and among wrong answers."""
    bootstrap, rows = ClusterBootstrap(responses.row), []
    for s in range(min(positions, class_NS.shape[1])):
        for name, answers in (("right", responses.verdicts.right), ("wrong", ~responses.verdicts.right)):
            among = answers & (class_NS[:, s] >= 0)
            shares = {kind: bootstrap.rate(class_NS[:, s] == k, among) for k, kind in enumerate(CLASSES)}
            rows.append({"step": s + 1, "answers": name} | cells(shares))
    return rows


def figure(summary: Summary) -> CaptionedFigure:
    """How common each class is and how often its steps are wrong; the shares along right and wrong answers."""
    drawn = Figure(figsize=(10.5, 3.8), layout="constrained")
    share, wrong, along = drawn.subplots(1, 3)
    rows = summary["tables"]["classes"]
    rows = [row for row in rows if row["gap"] == rows[0]["gap"]]
    for ax, column, title in ((share, "share", "share of all steps"), (wrong, "mistakes", "of these, mistakes")):
        names = [f"{row['class']}\nn={row[column]['n']}" for row in rows]
        plot_bars(ax, [row[column] for row in rows], names, rotation=30, color=COLORS)
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


TASK = task_of("provenance", Settings, run, figure, needs=("teacher", "student"))
