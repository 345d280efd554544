"""task=signal: does what a teacher reads make its scores a better signal? (MOPD, 2605.12652, sections on quality.)

    python -m probes.run task=signal checkpoint=READER signal.student=STUDENT data=contexts

The student answers each problem several times; the teacher (`model`, which must have learned to read contexts) scores
every response by its mean token log-probability, once for each context of `probes.analyses.teacher_contexts`. A context
is better the better the scores order right before wrong ones, by eight measures for each prompt, then averaged:

    spearman, kendall       rank correlations of score and rightness (tau-b)
    pairs                   share of right-wrong pairs with the right one strictly ahead
    auc                     the same with ties counted half
    point_biserial          Pearson correlation of score and rightness
    brier_sigmoid           squared error of 1 / (1 + exp(-score)); smaller is better
    brier_minmax            of the score scaled to 0..1 inside the prompt; smaller is better
    top1                    whether a response of the highest score is right (ties: the share of them that is)

Two sets of responses: `effective`, those for which the context could be made, and `both`, those for which all the
contexts and controls of the table could, the same ones in every row. Last, step by step: what a context changes in the
log-probability of a wrong response's first mistake, against its steps before.
"""

from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from models.gpt import GPT
from probes import runs
from probes.analyses.responses import Responses, response_budget, response_logprobs, sample_responses, step_means
from probes.analyses.teacher_contexts import CONTEXTS, CONTROLS, context_tokens, peers_of
from probes.runs import CaptionedFigure, ClusterBootstrap, Estimate, ResumeLog, correlation, error_bars
from probes.settings import ProbeConfig
from probes.tables import cells, estimate_of
from probes.tasks.task import Models, Summary, task_of
from synth.kernel.rng import key
from synth.ranges import AboveZero, Positive, Range, settings

MEASURES = ("spearman", "kendall", "pairs", "auc", "point_biserial", "brier_sigmoid", "brier_minmax", "top1")


@settings
class Settings:
    """`model` is the teacher; `student`: who answers (null: the teacher), `samples` times to each of `problems`."""

    student: str | None = None
    problems: Positive = 200  # how many
    samples: Annotated[int, Range(2)] = 8  # of each problem
    temperature: AboveZero = 1.0  # of the samples


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `quality`, `difficulty` and `steps`."""
    teacher = models["model"]
    student = models.get("signal.student", teacher)
    source = config.data.with_context("none").source("test", "signal")
    documents = source.documents(range(c.problems))
    budget, draws = response_budget(student, documents, "signal.student"), (c.samples, c.temperature)
    responses = sample_responses(student, documents, source.world, log, "rollouts", budget, config.seed, *draws)
    rng = np.random.Generator(np.random.Philox(key(config.seed, "signal peers", 0)))
    peers, scores, logp, lengths = peers_of(responses, rng), {}, {}, {}
    for name in (*CONTEXTS, *CONTROLS):
        contexts = [context_tokens(name, responses, own, rng) for own in peers]
        scores[name], logp[name] = score(teacher, responses, contexts, name)
        there = np.array([context is not None for context in contexts])
        cut_off = float((np.isnan(scores[name]) & there).sum() / max(1, there.sum()))
        mean = float(np.mean([len(context) for context in contexts if context is not None] or [0.0]))
        lengths[name] = {"tokens": mean, "cut_off": cut_off}
    ops, both = documents.problems.ops, np.all([~np.isnan(s) for s in scores.values()], axis=0)
    quality_rows = [
        {"responses": which, "context": name}
        | quality(scores[name], responses, both if which == "both" else None)
        | lengths[name]
        for which in ("effective", "both")
        for name in scores
    ]
    difficulty = [
        {"context": name, "ops": int(k)} | quality(scores[name], responses, ops[responses.row] == k, ("auc",))
        for name in scores
        for k in np.unique(ops)
    ]
    steps = [{"context": n} | step_changes(responses, logp["base"], logp[n]) for n in scores if n != "base"]
    note = (
        f"{len(documents)} problems, {len(responses.row)} responses, {responses.verdicts.right.mean():.1%} right; "
        "Brier: less is better; tokens: of a context on average; cut_off: share that the teacher cannot read"
    )
    return {"tables": {"quality": quality_rows, "difficulty": difficulty, "steps": steps}, "notes": [note]}


def score(
    teacher: GPT, responses: Responses, contexts: list[list[int] | None], name: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean token log-probability of each response behind its context, nan without one, and the single tokens'."""
    prompts = responses.prompts()
    texts = {n: [*context, *prompts[n]] for n, context in enumerate(contexts) if context is not None}
    fitting = [n for n, text in texts.items() if len(text) + len(responses.tokens[n]) <= teacher.config.context]
    found = response_logprobs(teacher, [texts[n] for n in fitting], [responses.tokens[n] for n in fitting], name)
    score_N, single = np.full(len(contexts), np.nan), [np.zeros(0)] * len(contexts)
    for n, logp in zip(fitting, found, strict=True):
        score_N[n], single[n] = logp.mean(), logp
    return score_N, single


def measures(score: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """All eight for the responses of one prompt, which must hold a right and a wrong one. Where all scores are equal
    there is no correlation: 0, as for scores that say nothing."""
    score, y = np.asarray(score, dtype=float), np.asarray(right, dtype=float)
    assert 0 < y.sum() < len(y), "a prompt needs a right and a wrong response"
    ahead = np.sign(score[y == 1][:, None] - score[y == 0][None, :])
    lowest, spread = score.min(), np.ptp(score)
    scaled = (score - lowest) / spread if spread > 0 else np.full(len(score), 0.5)
    return {
        "spearman": correlation(score, y, "spearman"),
        "kendall": correlation(score, y, "kendall"),
        "pairs": float((ahead > 0).mean()),
        "auc": float((ahead > 0).mean() + (ahead == 0).mean() / 2),
        "point_biserial": correlation(score, y),
        "brier_sigmoid": float(np.mean((1 / (1 + np.exp(-score)) - y) ** 2)),
        "brier_minmax": float(np.mean((scaled - y) ** 2)),
        "top1": float(y[score == score.max()].mean()),
    }


def quality(
    score_N: np.ndarray, responses: Responses, among: np.ndarray | None = None, wanted: tuple[str, ...] = MEASURES
) -> dict[str, Any]:
    """Each measure averaged over the prompts that have a right and a wrong scored response, with its interval."""
    use = ~np.isnan(score_N) & (True if among is None else among)
    right, found = responses.verdicts.right, []
    for i in np.unique(responses.row[use]):
        of_prompt = np.flatnonzero(use & (responses.row == i))
        if 0 < right[of_prompt].sum() < len(of_prompt):
            found.append(measures(score_N[of_prompt], right[of_prompt]))
    bootstrap = ClusterBootstrap(np.arange(len(found)))
    means = {m: bootstrap.ratio(np.array([one[m] for one in found]), within=(-1, 1)) for m in wanted}
    return cells(means) | {"items": int(use.sum())}


def step_changes(responses: Responses, base: list[np.ndarray], with_context: list[np.ndarray]) -> dict[str, Any]:
    """Change of the mean token log-probability of first mistakes, and of the steps before them in wrong responses.
    `difference`: the first less the second; below 0 the context singles the mistake out."""
    v = responses.verdicts
    scored = [logp if len(logp) else np.full(len(b), np.nan) for logp, b in zip(with_context, base, strict=True)]
    change_NS = step_means(responses, scored) - step_means(responses, base)
    number_S = np.arange(change_NS.shape[1])
    first_NS = v.first_mistake[:, None] == number_S
    before_NS = (v.first_mistake[:, None] > number_S) & (v.kind >= 0)
    bootstrap, sums = ClusterBootstrap(responses.row), {}
    for name, mask_NS in (("first_mistake", first_NS), ("steps_before", before_NS)):
        mask_NS = mask_NS & ~np.isnan(change_NS)
        sums[name] = (np.where(mask_NS, change_NS, 0.0).sum(1), mask_NS.sum(1).astype(float))
    found = {name: bootstrap.ratio(*pair) for name, pair in sums.items()}
    if any(estimate.n == 0 for estimate in found.values()):
        difference = Estimate(float("nan"), float("nan"), float("nan"), 0)
    else:
        with np.errstate(invalid="ignore"):  # a draw may have none of them
            drawn = [bootstrap.sums(top) / bootstrap.sums(bottom) for top, bottom in sums.values()]
        low, high = np.nanquantile(drawn[0] - drawn[1], [0.025, 0.975])
        first, before = found.values()
        difference = Estimate(first.value - before.value, float(low), float(high), min(first.n, before.n))
    return cells(found | {"difference": difference})


def figure(summary: Summary) -> CaptionedFigure:
    """AUC of every context on both sets, and what each does to first mistakes."""
    rows = summary["tables"]["quality"]
    names = list(dict.fromkeys(row["context"] for row in rows))
    drawn = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    for which, color, shift in (("effective", runs.GREY, -0.12), ("both", runs.BLUE, 0.12)):
        rates = [estimate_of(row["auc"]) for row in rows if row["responses"] == which]
        value, error = error_bars(rates)
        prompts = sorted({rate.n for rate in rates})
        n = f"n = {prompts[0]}" + (f" to {prompts[-1]}" if len(prompts) > 1 else "")
        left.errorbar(value, np.arange(len(names)) + shift, xerr=error, fmt="o", color=color, label=f"{which}, {n}")
    left.axvline(0.5, color="black", lw=1, ls=":")
    left.axhline(len(CONTEXTS) - 0.5, color=runs.GREY, lw=0.8)
    left.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    left.set(title="right before wrong: AUC within a prompt", ylim=(len(names) - 0.5, -0.5))
    left.legend(loc="upper left", fontsize=8)
    found = {row["context"]: estimate_of(row["difference"]) for row in summary["tables"]["steps"]}
    shown = [(i, found[name]) for i, name in enumerate(names) if name in found and found[name].n]
    if shown:
        value, error = error_bars([estimate for _, estimate in shown])
        right.errorbar(value, [i for i, _ in shown], xerr=error, fmt="s", color=runs.ORANGE)
    right.axvline(0.0, color="black", lw=1, ls=":")
    right.set(title="first mistake less steps before")
    caption = (
        "Below the line: controls. n: prompts. 95% bootstrap intervals over problems. Right: what the context changes "
        "in the mean log-probability of a wrong response's first mistake, less the same for its steps before; below "
        "0: it tells."
    )
    return CaptionedFigure(drawn, "What a teacher's context makes of its signal", caption)


TASK = task_of("signal", Settings, run, figure, accepts=("student",))
