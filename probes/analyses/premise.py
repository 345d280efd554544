"""task=premise: what does a model do when a needed given is missing? (2504.06514)

    python -m probes.run task=premise checkpoint=MODEL premise.before=STUDENT premise.teacher=TEACHER

Every problem is asked twice: whole, and with one needed given taken out, where `Undetermined.` is right once all that
can still be derived is written. Problems that have no such given are left out. For each model: how often it abstains
on both twins (recall, false alarms), how much of its abstaining is right (precision), whether the answer is fully
right, how much longer it writes on the broken twin, and whether it repeats itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.responses import Written, budget, draw
from probes.analyses.tables import cell, rate_of
from probes.runs import BLUE, CYCLE, CaptionedFigure, ClusterBootstrap, error_bars, periods, run_folder_name
from probes.settings import ProbeConfig
from synth.documents import Documents
from synth.judge.checker import EARLY, REPEATED, UNDETERMINED
from synth.problem.arrays import MISSING

NAME = "premise"
SHARES = ("abstains", "false_alarms", "precision", "right_missing", "right_whole", "repeats_missing", "repeats_whole")


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """The other models."""
    paths = {f"premise.{name}": getattr(config.premise, name) for name in ("before", "teacher")}
    return {setting: path for setting, path in paths.items() if path is not None}


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Table `premise`, a row for each model, and `first`: after which step it first says Undetermined."""
    whole, missing = twins(config)
    names = {"model": config.model} | checkpoints(config)
    rows, first, world = [], [], config.data.spec().load_world()
    for setting, path in names.items():
        written, most = {}, budget(models[setting], whole, setting)  # the same for both: the whole twin is the longer
        for kind, documents in (("missing", missing), ("whole", whole)):
            settings = {"samples": 1, "budget": most, "temperature": 0.0, "seed": config.seed}
            written[kind] = draw(models[setting], documents, world, parts, label=f"{setting} {kind}", **settings)
        who = {"role": setting.rpartition(".")[2], "model": run_folder_name(path)}
        rows.append(who | behaviour(written["missing"], written["whole"]))
        first += [who | row for row in suspicion(written["missing"])]
    note = (
        f"{len(whole)} pairs of twins from {config.premise.problems} problems, greedy; length_ratio: missing over whole"
    )
    return {"tables": {"premise": rows, "first": first}, "notes": [note]}


def twins(config: ProbeConfig) -> tuple[Documents, Documents]:
    """The same problems, whole and with a premise missing, without contexts. Raises ValueError when there are none."""
    bare = config.data.with_context("none")
    whole, missing = (
        replace(bare, overrides=bare.overrides | {"missing_premise": rate}).source("test", NAME) for rate in (0.0, 1.0)
    )
    indices = np.arange(config.premise.problems)
    lost = missing.problems(indices).scalars[:, MISSING] >= 0
    if not lost.any():
        raise ValueError(f"premise.problems={config.premise.problems}: none of them can lose a premise; accepted: more")
    return whole.documents(indices[lost]), missing.documents(indices[lost])


def behaviour(missing: Written, whole: Written) -> dict[str, Any]:
    """Rates of one model over pairs of twins, with intervals over pairs."""
    n = len(missing.row)
    draws = ClusterBootstrap(np.arange(n))
    lost, complete = (w.verdicts.answer == UNDETERMINED for w in (missing, whole))
    found = {
        "abstains": draws.rate(lost),
        "false_alarms": draws.rate(complete),
        "precision": draws.ratio(lost.astype(float), lost.astype(float) + complete, within=(0, 1)),
        "right_missing": draws.rate(missing.verdicts.right),
        "right_whole": draws.rate(whole.verdicts.right),
        "length_ratio": draws.ratio(missing.lengths.astype(float), whole.lengths.astype(float)),
    }
    for name, w in (("missing", missing), ("whole", whole)):
        loops = periods(w.grid(), w.lengths) > 0
        found[f"repeats_{name}"] = draws.rate(loops | (w.verdicts.kind == REPEATED).any(1))
        found[f"cut_off_{name}"] = draws.rate(~w.ended)
    return {name: cell(rate) for name, rate in found.items()}


def suspicion(missing: Written) -> list[dict[str, Any]]:
    """How many abstained; and how many of them before all that can be derived was, or in the answer only."""
    v = missing.verdicts
    lost = v.answer == UNDETERMINED
    early = lost & (v.ending == EARLY)
    return [{"abstained": int(lost.sum()), "too_early": int(early.sum()), "in_time": int((lost & ~early).sum())}]


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """All shares side by side for every model."""
    drawn = Figure(figsize=(9.6, 4.0), layout="constrained")
    ax = drawn.subplots()
    rows = summary["tables"]["premise"]
    width = 0.8 / len(rows)
    for i, (row, color) in enumerate(zip(rows, (BLUE, *CYCLE), strict=False)):
        shown = [(k, rate_of(row[name])) for k, name in enumerate(SHARES) if row[name]["n"]]
        value, error = error_bars([rate for _, rate in shown])
        at = [k + (i + 0.5) * width - 0.4 for k, _ in shown]
        ratio = rate_of(row["length_ratio"])
        text = f"{row['model']} (length ratio {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}])"
        ax.bar(at, value, width * 0.92, yerr=error, color=color, ecolor="black", label=text)
    ax.set_xticks(range(len(SHARES)), [name.replace("_", "\n") for name in SHARES])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set(title="on problems with a missing premise and their whole twins", ylim=(0, 1.05))
    ax.legend(fontsize=8)
    pairs = rows[0]["abstains"]["n"]
    caption = f"Greedy answers to {pairs} pairs of held-out problems; 95% bootstrap intervals over pairs."
    return CaptionedFigure(drawn, "Missing premises", caption)
