"""task=signal: does what a teacher reads make its scores a better signal? (MOPD, 2605.12652, sections on quality.)

    python -m probes.run task=signal checkpoint=READER signal.student=STUDENT data=contexts

The student answers each problem several times; the teacher (`model`, which must have learned to read contexts) scores
every response by its mean token log-probability, once for each context of `probes.analyses.teacher_contexts`. A context is better
the better the scores order right before wrong ones, by the eight measures of `probes.analyses.response_ranking`, for each
prompt, then averaged. Two sets of responses: `effective`, those for which the context could be made, and `both`, those
for which all the contexts and controls of the table could, the same ones in every row. Last, step by step: what a
context changes in the log-probability of a wrong response's first mistake, against its steps before.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.response_ranking import METRICS, metrics
from probes.analyses.responses import Written, budget, draw, logprobs, step_means
from probes.analyses.tables import cell, rate_of
from probes.analyses.teacher_contexts import CONTEXTS, CONTROLS, peers_of, sections
from probes.runs import BLUE, GREY, ORANGE, CaptionedFigure, ClusterBootstrap, Estimate, error_bars
from probes.settings import ProbeConfig
from synth.kernel.rng import key

NAME = "signal"


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """The student, where it is another model."""
    return {} if config.signal.student is None else {"signal.student": config.signal.student}


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Tables `quality`, `difficulty` and `steps`."""
    c, teacher = config.signal, models["model"]
    student = models.get("signal.student", teacher)
    source = config.data.with_context("none").source("test", "signal")
    documents = source.documents(range(c.problems))
    most = budget(student, documents, "signal.student")
    settings = {"samples": c.samples, "budget": most, "temperature": c.temperature, "seed": config.seed}
    written = draw(student, documents, source.world, parts, label="rollouts", **settings)
    rng = np.random.Generator(np.random.Philox(key(config.seed, "signal peers", 0)))
    peers, contexts, scores, logp = peers_of(written, rng), {}, {}, {}
    for name in (*CONTEXTS, *CONTROLS):
        made = [sections(name, written, own, rng) for own in peers]
        contexts[name], scores[name], logp[name] = made, *score(teacher, written, made, name)
    ops = documents.problems.ops
    both = np.all([~np.isnan(s) for s in scores.values()], axis=0)
    return {
        "tables": {
            "quality": [
                {"responses": which, "context": name}
                | quality(scores[name], written, both if which == "both" else None)
                | {"tokens": _length(contexts[name]), "cut_off": _cut(contexts[name], scores[name])}
                for which in ("effective", "both")
                for name in scores
            ],
            "difficulty": [
                {"context": name, "ops": int(k)} | quality(scores[name], written, ops[written.row] == k, ("auc",))
                for name in scores
                for k in np.unique(ops)
            ],
            "steps": [{"context": n} | steps(written, logp["base"], logp[n]) for n in scores if n != "base"],
        },
        "notes": [
            f"{len(documents)} problems, {len(written.row)} responses, {written.verdicts.right.mean():.1%} right; "
            "Brier: less is better; tokens: of a context on average; cut_off: share that the teacher cannot read"
        ],
    }


def score(
    teacher: GPT, written: Written, contexts: list[list[int] | None], name: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean token log-probability of each response behind its context, nan without one, and the single tokens'."""
    room = teacher.config.context
    prompts = written.prompts()
    there = [
        n
        for n, context in enumerate(contexts)
        if context is not None and len(context) + len(prompts[n]) + len(written.responses[n]) <= room
    ]
    texts = [[*(contexts[n] or []), *prompts[n]] for n in there]
    found = logprobs(teacher, texts, [written.responses[n] for n in there], name)
    score_N, single = np.full(len(contexts), np.nan), [np.zeros(0)] * len(contexts)
    for n, logp in zip(there, found, strict=True):
        score_N[n], single[n] = logp.mean(), logp
    return score_N, single


def quality(
    score_N: np.ndarray, written: Written, among: np.ndarray | None = None, wanted: tuple[str, ...] = METRICS
) -> dict[str, Any]:
    """Each measure averaged over the prompts that have a right and a wrong scored response, with its interval."""
    use = ~np.isnan(score_N) & (True if among is None else among)
    right, found = written.verdicts.right, []
    for i in np.unique(written.row[use]):
        mine = np.flatnonzero(use & (written.row == i))
        if 0 < right[mine].sum() < len(mine):
            found.append(metrics(score_N[mine], right[mine]))
    draws = ClusterBootstrap(np.arange(len(found)))
    return {m: cell(draws.ratio(np.array([one[m] for one in found]), within=(-1, 1))) for m in wanted} | {
        "items": int(use.sum())
    }


def steps(written: Written, base: list[np.ndarray], told: list[np.ndarray]) -> dict[str, Any]:
    """Change of the mean token log-probability of first mistakes, and of the steps before them in wrong responses.

    `difference`: the first less the second; below 0 the context singles the mistake out.
    """
    v = written.verdicts
    there = np.array([len(logp) > 0 for logp in told])
    kept = [logp if ok else np.full(len(b), np.nan) for logp, b, ok in zip(told, base, there, strict=True)]
    change_NS = step_means(written, kept) - step_means(written, base)
    number_S = np.arange(change_NS.shape[1])
    first_NS = v.first_mistake[:, None] == number_S
    before_NS = (v.first_mistake[:, None] > number_S) & (v.kind >= 0)
    draws, sums = ClusterBootstrap(written.row), {}
    for name, mask_NS in (("first_mistake", first_NS), ("steps_before", before_NS)):
        mask_NS = mask_NS & ~np.isnan(change_NS)
        sums[name] = (np.where(mask_NS, change_NS, 0.0).sum(1), mask_NS.sum(1).astype(float))
    rates = {name: draws.ratio(*pair) for name, pair in sums.items()}
    if any(rate.n == 0 for rate in rates.values()):
        difference = Estimate(float("nan"), float("nan"), float("nan"), 0)
    else:
        with np.errstate(invalid="ignore"):  # a draw may have none of them
            drawn = [draws.sums(top) / draws.sums(bottom) for top, bottom in sums.values()]
        low, high = np.nanquantile(drawn[0] - drawn[1], [0.025, 0.975])
        first, before = rates.values()
        difference = Estimate(first.value - before.value, float(low), float(high), min(first.n, before.n))
    return {name: cell(rate) for name, rate in (rates | {"difference": difference}).items()}


def _length(contexts: list[list[int] | None]) -> float:
    return float(np.mean([len(c) for c in contexts if c is not None] or [0.0]))


def _cut(contexts: list[list[int] | None], score_N: np.ndarray) -> float:
    made = np.array([c is not None for c in contexts])
    return float((np.isnan(score_N) & made).sum() / max(1, made.sum()))


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """AUC of every context on both sets, and what each does to first mistakes."""
    rows = summary["tables"]["quality"]
    names = list(dict.fromkeys(row["context"] for row in rows))
    drawn = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for which, color, shift in (("effective", GREY, -0.12), ("both", BLUE, 0.12)):
        rates = [rate_of(row["auc"]) for row in rows if row["responses"] == which]
        value, error = error_bars(rates)
        prompts = sorted({rate.n for rate in rates})
        n = f"n = {prompts[0]}" + (f" to {prompts[-1]}" if len(prompts) > 1 else "")
        left.errorbar(value, np.arange(len(names)) + shift, xerr=error, fmt="o", color=color, label=f"{which}, {n}")
    left.axvline(0.5, color="black", lw=1, ls=":")
    left.axhline(len(CONTEXTS) - 0.5, color=GREY, lw=0.8)
    left.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    left.set(title="right before wrong: AUC within a prompt", ylim=(len(names) - 0.5, -0.5))
    left.legend(loc="upper left", fontsize=8)
    found = {row["context"]: rate_of(row["difference"]) for row in summary["tables"]["steps"]}
    shown = [(i, found[name]) for i, name in enumerate(names) if name in found and found[name].n]
    if shown:
        value, error = error_bars([rate for _, rate in shown])
        right.errorbar(value, [i for i, _ in shown], xerr=error, fmt="s", color=ORANGE)
    right.axvline(0.0, color="black", lw=1, ls=":")
    right.set(title="first mistake less steps before")
    caption = (
        "Below the line: controls. n: prompts. 95% bootstrap intervals over problems. Right: what the context changes "
        "in the mean log-probability of a wrong response's first mistake, less the same for its steps before; below "
        "0: it tells."
    )
    return CaptionedFigure(drawn, "What a teacher's context makes of its signal", caption)
