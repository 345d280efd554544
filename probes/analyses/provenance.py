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

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.responses import Written, budget, draw, logprobs, step_means
from probes.analyses.settings import given
from probes.analyses.tables import cell, rate_of
from probes.runs import BLUE, GREEN, GREY, ORANGE, RED, CaptionedFigure, ClusterBootstrap, Estimate, error_bars
from probes.settings import ProbeConfig
from synth.judge.checker import MALFORMED

NAME = "provenance"
CLASSES = ("teacher", "student", "boosted", "damped", "shared")
COLORS = (BLUE, ORANGE, RED, GREY, GREEN)


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """Teacher and student."""
    return given(config, NAME, "teacher", "student")


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Tables `classes`, `area` and `positions`."""
    c = config.provenance
    source = config.data.source("test", NAME)
    documents = source.documents(range(c.problems))
    most = budget(models["model"], documents, "model")
    settings = {"samples": c.samples, "budget": most, "temperature": c.temperature, "seed": config.seed}
    written = draw(models["model"], documents, source.world, parts, label="rollouts", **settings)
    prompts = written.prompts()
    mean_NS = [
        step_means(written, logprobs(models[name], prompts, written.responses, name))
        for name in ("provenance.teacher", "provenance.student", "model")
    ]
    tables: dict[str, list[dict[str, Any]]] = {"classes": [], "area": [], "positions": []}
    for gap in c.gaps:
        class_NS = classify(*mean_NS, gap)
        tables["classes"] += [{"gap": gap} | row for row in crossed(written, class_NS)]
        tables["area"] += [{"gap": gap} | row for row in areas(written, class_NS, c.positions)]
    tables["positions"] = by_position(written, classify(*mean_NS, c.gaps[0]), c.positions)
    steps, right = int((written.verdicts.kind >= 0).sum()), written.verdicts.right
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


def crossed(written: Written, class_NS: np.ndarray) -> list[dict[str, Any]]:
    """For each class: its share of all steps, and which of its steps are mistakes, against all others'."""
    n, s = np.nonzero(class_NS >= 0)
    found, wrong = class_NS[n, s], written.verdicts.kind[n, s] >= MALFORMED
    draws, rows = ClusterBootstrap(written.row[n]), []
    for k, name in enumerate(CLASSES):
        mine = found == k
        row = {"class": name, "share": draws.rate(mine), "mistakes": draws.rate(wrong, mine)}
        row |= {"mistakes_elsewhere": draws.rate(wrong, ~mine), "wrong_share": draws.rate(mine & wrong)}
        rows.append({key: cell(v) if isinstance(v, Estimate) else v for key, v in row.items()})
    return rows


def areas(written: Written, class_NS: np.ndarray, positions: int) -> list[dict[str, Any]]:
    """Mean over the first steps of each class's share in right answers less that in wrong ones, with its interval."""
    right, draws, rows = written.verdicts.right, ClusterBootstrap(written.row), []
    for k, name in enumerate(CLASSES):
        pairs = []
        for s in range(min(positions, class_NS.shape[1])):
            there, mine = class_NS[:, s] >= 0, class_NS[:, s] == k
            if (there & right).any() and (there & ~right).any():
                pairs += [(mine, there & right), (mine, there & ~right)]
        value = (
            float(np.mean([m[a].mean() for m, a in pairs[::2]]) - np.mean([m[a].mean() for m, a in pairs[1::2]]))
            if pairs
            else np.nan
        )

        def area(*rate_D: np.ndarray) -> np.ndarray:
            return np.nanmean(rate_D[::2], axis=0) - np.nanmean(rate_D[1::2], axis=0)

        n = int((class_NS[:, :positions] >= 0).sum())
        rate = draws.statistic(area, value, n, *pairs, within=(-1, 1)) if pairs else Estimate(value, value, value, 0)
        rows.append({"class": name, "area": cell(rate)})
    return rows


def by_position(written: Written, class_NS: np.ndarray, positions: int) -> list[dict[str, Any]]:
    """The share of each class at each of the first steps, among right and among wrong answers."""
    draws, rows = ClusterBootstrap(written.row), []
    for s in range(min(positions, class_NS.shape[1])):
        for name, answers in (("right", written.verdicts.right), ("wrong", ~written.verdicts.right)):
            among = answers & (class_NS[:, s] >= 0)
            shares = {kind: cell(draws.rate(class_NS[:, s] == k, among)) for k, kind in enumerate(CLASSES)}
            rows.append({"step": s + 1, "answers": name} | shares)
    return rows


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """How common each class is and how often its steps are wrong; the shares along right and wrong answers."""
    drawn = Figure(figsize=(10.5, 3.8), layout="constrained")
    share, wrong, along = drawn.subplots(1, 3)
    rows = summary["tables"]["classes"]
    rows = [row for row in rows if row["gap"] == rows[0]["gap"]]
    for ax, column, title in ((share, "share", "share of all steps"), (wrong, "mistakes", "of these, mistakes")):
        rates = [rate_of(row[column]) for row in rows]
        value, error = error_bars([r if r.n else Estimate(0.0, 0.0, 0.0, 0) for r in rates])
        ax.bar(range(len(rows)), value, yerr=error, color=COLORS, ecolor="black", width=0.7)
        labels = [f"{row['class']}\nn={row[column]['n']}" for row in rows]
        ax.set_xticks(range(len(rows)), labels, rotation=30, fontsize=9)
        ax.set(title=title)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for k, name in enumerate(CLASSES):
        for answers, style in (("right", "-"), ("wrong", "--")):
            mine = [row for row in summary["tables"]["positions"] if row["answers"] == answers and row[name]["n"]]
            value = [row[name]["value"] for row in mine]
            along.plot(
                [row["step"] for row in mine], value, style, color=COLORS[k], label=name if style == "-" else None
            )
    along.set(
        title="by step: right —, wrong - -",
        xlabel="step",
        xticks=sorted({row["step"] for row in summary["tables"]["positions"]}),
    )
    along.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    along.legend(fontsize=8)
    caption = (
        f"Gap of a factor {rows[0]['gap']:g} a token. Steps of the distilled model's own answers to held-out problems; "
        "95% bootstrap intervals over problems."
    )
    return CaptionedFigure(drawn, "Whose steps a distilled model writes, and how often they are wrong", caption)
