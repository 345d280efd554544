"""task=premise: what does a model do when a needed given is missing? (2504.06514)

    python -m probes.run task=premise checkpoint=MODEL premise.before=STUDENT premise.teacher=TEACHER

Every problem is asked twice: whole, and with one needed given taken out. There the right solution writes every step
that can still be derived, then `Undetermined.` Problems that have no such given are left out. For each model: how often
it abstains on both twins (recall, false alarms), how much of its abstaining is right (precision), whether the answer is
fully right, how much longer it writes on the broken twin, and whether it repeats itself.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from probes import runs
from probes.analyses.responses import Responses, response_budget, sample_responses
from probes.runs import BLUE, CYCLE, CaptionedFigure, ClusterBootstrap, ResumeLog, error_bars
from probes.settings import ProbeConfig
from probes.tables import cells, estimate_of, percent_axis
from probes.tasks.task import Models, Summary, task_of
from synth.documents import Documents
from synth.judge.checker import EARLY, REPEATED, UNDETERMINED
from synth.problem.arrays import MISSING
from synth.ranges import Positive, settings

SHARES = ("abstains", "false_alarms", "precision", "right_missing", "right_whole", "repeats_missing", "repeats_whole")


@settings
class Settings:
    """Two more models get the same problems: `before`, from which `model` was trained, and `teacher`; null: none."""

    before: str | None = None  # the model before distillation
    teacher: str | None = None  # a run folder or checkpoint
    problems: Positive = 300  # how many


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Table `premise`, a row for each model, and `first`: how many abstained, and how many of them too early."""
    whole, missing = twins(config.data, c.problems)
    paths = {"model": config.model, "premise.before": c.before, "premise.teacher": c.teacher}
    rows, first, world = [], [], config.data.spec().load_world()
    for setting, model in models.items():
        budget = response_budget(model, whole, setting)  # the same for both: the whole twin is the longer
        found = {
            twin: sample_responses(model, documents, world, log, f"{setting} {twin}", budget, config.seed)
            for twin, documents in (("missing", missing), ("whole", whole))
        }
        which = {"role": setting.rpartition(".")[2], "model": runs.run_folder_name(paths[setting] or "")}
        rows.append(which | behaviour(found["missing"], found["whole"]))
        first.append(which | abstentions(found["missing"]))
    note = f"{len(whole)} pairs of twins from {c.problems} problems, greedy; length_ratio: missing over whole"
    return {"tables": {"premise": rows, "first": first}, "notes": [note]}


def twins(data: runs.DataConfig, problems: int) -> tuple[Documents, Documents]:
    """The same problems, whole and with a premise missing, without contexts. Raises ValueError when there are none."""
    bare = data.with_context("none")
    settings = (bare.overrides | {"missing_premise": rate} for rate in (0.0, 1.0))
    whole, missing = (replace(bare, overrides=own).source("test", "premise") for own in settings)
    lost = missing.problems(range(problems)).scalars[:, MISSING] >= 0
    if not lost.any():
        raise ValueError(f"premise.problems={problems}: none of them can lose a premise; accepted: more")
    indices = np.flatnonzero(lost).tolist()
    return whole.documents(indices), missing.documents(indices)


def behaviour(missing: Responses, whole: Responses) -> dict[str, Any]:
    """Rates of one model over pairs of twins, with intervals over pairs."""
    bootstrap = ClusterBootstrap(np.arange(len(missing.row)))
    lost, complete = (twin.verdicts.answer == UNDETERMINED for twin in (missing, whole))
    found = {
        "abstains": bootstrap.rate(lost),
        "false_alarms": bootstrap.rate(complete),
        "precision": bootstrap.ratio(lost.astype(float), lost.astype(float) + complete, within=(0, 1)),
        "right_missing": bootstrap.rate(missing.verdicts.right),
        "right_whole": bootstrap.rate(whole.verdicts.right),
        "length_ratio": bootstrap.ratio(missing.lengths.astype(float), whole.lengths.astype(float)),
    }
    for name, twin in (("missing", missing), ("whole", whole)):
        found[f"repeats_{name}"] = bootstrap.rate(twin.loops | (twin.verdicts.kind == REPEATED).any(1))
        found[f"cut_off_{name}"] = bootstrap.rate(~twin.ended)
    return cells(found)


def abstentions(missing: Responses) -> dict[str, int]:
    """How many abstained. `too_early`: before writing every step that can be derived, or in the answer only."""
    v = missing.verdicts
    lost = v.answer == UNDETERMINED
    early = lost & (v.ending == EARLY)
    return {"abstained": int(lost.sum()), "too_early": int(early.sum()), "in_time": int((lost & ~early).sum())}


def figure(summary: Summary) -> CaptionedFigure:
    """All shares side by side for every model."""
    drawn = Figure(figsize=(9.6, 4.0), layout="constrained")
    ax = drawn.subplots()
    rows = summary["tables"]["premise"]
    width = 0.8 / len(rows)
    for i, (row, color) in enumerate(zip(rows, (BLUE, *CYCLE), strict=False)):
        shown = [(k, estimate_of(row[name])) for k, name in enumerate(SHARES) if row[name]["n"]]
        value, error = error_bars([estimate for _, estimate in shown])
        at = [k + (i + 0.5) * width - 0.4 for k, _ in shown]
        ratio = estimate_of(row["length_ratio"])
        text = f"{row['model']} (length ratio {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}])"
        ax.bar(at, value, width * 0.92, yerr=error, color=color, ecolor="black", label=text)
    ax.set_xticks(range(len(SHARES)), [name.replace("_", "\n") for name in SHARES])
    percent_axis(ax)
    ax.set(title="on problems with a missing premise and their whole twins", ylim=(0, 1.05))
    ax.legend(fontsize=8)
    pairs = rows[0]["abstains"]["n"]
    caption = f"Greedy answers to {pairs} pairs of held-out problems; 95% bootstrap intervals over pairs."
    return CaptionedFigure(drawn, "Missing premises", caption)


TASK = task_of("premise", Settings, run, figure, accepts=("before", "teacher"))
