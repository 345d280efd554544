"""The sections of a report, each a function from experiments to pieces of HTML; what is missing raises `Missing`.

Numbers in prose are computed here from the same counts as the figures. A section never decides what is a good
outcome: the recipe's expectations do that, and the arms are compared whichever wins.
"""

import shlex

import yaml

from train.report import page, rollouts
from train.report.estimates import Missing, full, full_difference, gap_share, roles, spread
from train.report.figures.accuracy import compared_arms, evaluated, pooled_by_ops
from train.report.stage_styles import label
from train.report.verdicts import judge
from train.runs.results import Experiment, Run
from train.tables import NONE, format_amount, format_interval, plural

NO_CLAIMS = "This scale only shows that every part works. It is far too small for its numbers to mean anything."
HOW_TO_READ = (
    "“Met” compares the value with the bar; “not clearly” adds that the 95% interval, or a seed, lies below it."
)
WORDS = {"met": "met", "met, not clearly": "met", "not met": "not", "not measured": "open"}
WORDS |= {"supported": "met", "contradicted": "not", "not decided": "open"}


def headline(experiments: list[Experiment]) -> list[str]:
    """What was done, and the verdict on each of the recipe's expectations."""
    plan = next((e.plan for e in experiments if e.plan), {})
    parts = [page.heading(plan.get("title") or "Report of runs", 1)]
    if plan.get("about"):
        parts.append(page.paragraph(" ".join(plan["about"].split())))
    parts.append(page.paragraph(_what_ran(experiments, plan), "soft"))
    if plan.get("claims") is False:
        return [*parts, page.note(NO_CLAIMS)]
    for expectation in plan.get("expect", []):
        verdict = judge(experiments, expectation)
        parts.append(
            f'<div class="verdict"><b class="{WORDS[verdict.word]}">{verdict.word}</b>'
            f"<div>{page.escape(verdict.claim)}<br><span class='soft'>{page.escape(verdict.number)}</span></div></div>"
        )
    if plan.get("expect"):
        parts.append(page.paragraph(HOW_TO_READ, "soft"))
    return [*parts, *_arms_in_short(experiments)]


def _arms_in_short(experiments: list[Experiment]) -> list[str]:
    """One sentence that names every arm, whichever won."""
    try:
        shares = {name: gap_share(experiments, name) for name in compared_arms(experiments)}
    except Missing:
        return []
    ranked = sorted(shares, key=lambda name: -shares[name].pooled.value)
    closed = "; ".join(f"{label(experiments, name)} {format_interval(shares[name].pooled)}" for name in ranked)
    return [page.paragraph(f"Share of the gap to the teacher that each arm closed: {closed}.")]


def _what_ran(experiments: list[Experiment], plan: dict) -> str:
    seeds = [str(e.seed) for e in experiments if e.seed is not None]
    runs = [run for e in experiments for run in e.runs.values()]
    unfinished = [run.folder.name for run in runs if not run.complete]
    seconds = sum(run.total("seconds") for run in runs)
    facts = [f"recipe {plan['recipe']}, scale {plan['scale']}" if "recipe" in plan else "", plural(len(runs), "run")]
    facts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else "")
    facts.append(f"{seconds / 60:.1f} minutes of work in the ledgers" if seconds else "")
    commits = {(run.manifest.get("commit") or "none")[:10] for run in runs if run.manifest}
    facts.append(f"commit {', '.join(sorted(commits))}" if commits else "")
    facts.append(f"unfinished: {', '.join(unfinished)}" if unfinished else "")
    return "; ".join(fact for fact in facts if fact) + "."


def accuracy_table(experiments: list[Experiment]) -> list[str]:
    """One row for each model: fully correct, final answer, and the constant-answer floor, with n."""
    rows = []
    seeds = len(experiments) > 1
    for stage, runs in evaluated(experiments).items():
        measured = full([e for e in experiments if e.evaluation_of(stage) is not None], stage)
        answer, floor = (_overall(runs, key) for key in ("answer_right", "floor_right"))
        kl = [run.summary["held_out"]["kl"] for run in runs if "kl" in run.summary.get("held_out", {})]
        distance = f"{sum(kl) / len(kl):.4f}" if kl else NONE
        row = [
            label(experiments, stage),
            format_interval(measured.pooled),
            answer,
            floor,
            distance,
            str(measured.pooled.n),
        ]
        rows.append(row + ([spread(measured.seeds)] if seeds else []))
    head = [
        "model",
        "fully correct [95%]",
        "final answer",
        "constant answer",
        "KL to oracle",
        "n",
        *(["range over seeds"] if seeds else []),
    ]
    return [page.table(head, rows)]


def _overall(runs: list[Run], key: str) -> str:
    rates = pooled_by_ops(runs, key).values()
    n = sum(rate.n for rate in rates)
    return f"{sum(rate.value * rate.n for rate in rates) / n:.1%}" if n else NONE


def arms_table(experiments: list[Experiment]) -> list[str]:
    """The arms side by side at what they spent, and who is ahead by how much."""
    names, part = compared_arms(experiments), roles(experiments[0])
    rows = []
    for name in names:
        try:
            closed = str(gap_share(experiments, name))
        except Missing:
            closed = NONE
        runs = [e.runs[name] for e in experiments if name in e.runs]
        spent = [sum(run.total(unit) for run in runs) / len(runs) for unit in ("flops", "tokens", "seconds")]
        rows.append(
            [
                label(experiments, name),
                format_interval(full(experiments, name).pooled),
                closed,
                *map(format_amount, spent),
            ]
        )
    head = ["arm", "fully correct [95%]", "gap closed [95%]", "FLOPs", "tokens", "seconds"]
    parts = [page.table(head, rows)]
    ranked = sorted(names, key=lambda name: -full(experiments, name).pooled.value)
    parts += [page.paragraph(_lead(experiments, ranked[0], other)) for other in ranked[1:]]
    if "student" in part and "teacher" in part:
        start, goal = (f"{label(experiments, part[role])}" for role in ("student", "teacher"))
        parts.append(page.paragraph(f"Gap: from “{start}” to “{goal}”, on the same problems.", "soft"))
    return parts


def _lead(experiments: list[Experiment], first: str, other: str) -> str:
    """By how much the first arm is ahead of the other, and whether that is more than the luck of these problems."""
    measured = full_difference(experiments, first, other)
    names = capital(label(experiments, first)), label(experiments, other)
    text = f"{names[0]} is ahead of {names[1]} by {format_interval(measured.pooled, ' points')}."
    if measured.pooled.value == 0:
        return f"{names[0]} and {names[1]} solve the same number of problems."
    if len(measured.seeds) > 1:
        text += f" It is ahead in {sum(d > 0 for d in measured.seeds)} of {len(measured.seeds)} seeds."
    if measured.pooled.low <= 0:
        text += " The interval includes zero: these problems do not tell the two apart."
    return text


def ten_rollouts(experiments: list[Experiment]) -> list[str]:
    """Ten rollouts of the distilled student, with a verdict on each step."""
    run = rollouts.source(experiments)
    if run is None:
        raise Missing("no run with samples")
    samples = rollouts.newest(run.samples)
    chosen = rollouts.choose(samples)
    subject = next((s for e in experiments if run in e.runs.values() and (s := e.subject(run))), run)
    right = sum(bool(sample.get("right")) for sample in samples)
    caption = (
        f"Model: {label(experiments, subject.name)}. {len(chosen)} of the {len(samples)} samples kept in "
        f"{run.folder.name} ({right} of them fully correct), chosen to show both right and wrong ones. Steps with a "
        "double edge are mistakes, named by their kind; dashed steps are true but not needed."
    )
    return [page.paragraph(caption, "soft"), *(rollouts.render(sample) for sample in chosen)]


def provenance(experiments: list[Experiment]) -> list[str]:
    """Command, config and manifest of every run, folded."""
    runs = [run for experiment in experiments for run in experiment.runs.values()]
    return [page.folded(run.folder.name, page.code(_origin(run))) for run in runs]


def _origin(run: Run) -> str:
    command = run.manifest.get("command")
    command = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "command not recorded")
    facts = {key: value for key, value in run.manifest.items() if key not in ("command", "config", "resumed")}
    config, manifest = (yaml.safe_dump(part, sort_keys=False) for part in (run.config, facts))
    return f"$ {command}\n\n# config.yaml\n{config}\n# manifest.json\n{manifest}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
