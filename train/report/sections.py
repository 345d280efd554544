"""The sections that any report may have: functions from experiments to pieces of the page; without data, `Missing`.

Numbers in prose are computed from the same counts as the figures. A section never decides what is a good outcome: the
recipe's expectations do that, and the arms are compared whichever wins.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from train.report import estimates
from train.report.estimates import NotApplicable
from train.report.figures.accuracy import compared_arms, evaluated, pooled_by_ops
from train.report.page import Piece, figure, label, note, piece, rollout_style
from train.report.verdicts import judge
from train.runs.expectation import expectations
from train.runs.results import Experiment, Run, plan_of
from train.tables import NONE, Table, format_amount, format_interval, plural

VERDICT_STYLES = {"met": "met", "met, not clearly": "met", "supported": "met", "not met": "not", "contradicted": "not"}


def headline(experiments: list[Experiment]) -> list[Piece]:
    """What was done, and the verdict on each of the recipe's expectations."""
    plan = plan_of(experiments)
    pieces: list[Piece] = [piece("heading", plan.get("title") or "Report of runs", 1)]
    if plan.get("about"):
        pieces.append(piece("paragraph", " ".join(plan["about"].split())))
    pieces.append(piece("paragraph", _what_ran(experiments, plan), "soft"))
    if plan.get("claims") is False:
        return [*pieces, note("no_claims", "note")]
    verdicts = [judge(experiments, expectation) for expectation in expectations(plan)]
    pieces += [piece("verdict", verdict, VERDICT_STYLES.get(verdict.word, "open")) for verdict in verdicts]
    pieces += [note("verdicts")] if verdicts else []
    return [*pieces, *_arms_in_short(experiments)]


def _arms_in_short(experiments: list[Experiment]) -> list[Piece]:
    """One sentence that names every arm, whichever won."""
    try:
        shares = {name: estimates.gap_share(experiments, name).pooled for name in compared_arms(experiments)}
    except estimates.Missing:
        return []
    ranked = sorted(shares, key=lambda name: -shares[name].value)
    closed = "; ".join(f"{label(experiments, name)} {format_interval(shares[name])}" for name in ranked)
    return [piece("paragraph", f"Share of the gap to the teacher that each arm closed: {closed}.")]


def _what_ran(experiments: list[Experiment], plan: dict[str, Any]) -> str:
    seeds = [str(e.seed) for e in experiments if e.seed is not None]
    runs = [run for e in experiments for run in e.runs.values()]
    unfinished = ", ".join(run.folder.name for run in runs if not run.complete)
    seconds = sum(run.total("seconds") for run in runs)
    commits = ", ".join(sorted({(run.manifest.get("commit") or "none")[:10] for run in runs if run.manifest}))
    facts = [f"recipe {plan['recipe']}, scale {plan['scale']}" if "recipe" in plan else "", plural(len(runs), "run")]
    facts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if seeds else "")
    facts.append(f"{seconds / 60:.1f} minutes of work in the ledgers" if seconds else "")
    facts.append(f"commit {commits}" if commits else "")
    facts.append(f"unfinished: {unfinished}" if unfinished else "")
    return "; ".join(filter(None, facts)) + "."


def accuracy_table(experiments: list[Experiment]) -> list[Piece]:
    """One row for each model: fully correct, final answer, and the constant-answer floor, with n."""
    rows, seeds = [], len(experiments) > 1
    for stage, runs in evaluated(experiments).items():
        measured = estimates.solution_accuracy(experiments, stage)
        totals = [pooled_by_ops(runs, key).values() for key in ("answer_right", "floor_right")]
        answer, floor = (f"{sum(r.value * r.n for r in t) / sum(r.n for r in t):.1%}" if t else NONE for t in totals)
        kl = [run.summary["held_out"]["kl"] for run in runs if "kl" in run.summary.get("held_out", {})]
        distance = f"{sum(kl) / len(kl):.4f}" if kl else NONE
        row = [label(experiments, stage), format_interval(measured.pooled), answer, floor, distance]
        rows.append([*row, str(measured.pooled.n), *([estimates.seed_range(measured.seeds)] if seeds else [])])
    head = ["model", "fully correct [95%]", "final answer", "constant answer", "KL to oracle", "n"]
    return [Table([*head, *(["range over seeds"] if seeds else [])], rows)]


def arms_table(experiments: list[Experiment]) -> list[Piece]:
    """The arms side by side with what they spent, and which is ahead by how much."""
    rows, accuracy = [], {}
    for name in compared_arms(experiments):
        accuracy[name] = estimates.solution_accuracy(experiments, name).pooled
        closed = str(estimates.or_none(estimates.gap_share, experiments, name) or NONE)
        runs = [e.runs[name] for e in experiments if name in e.runs]
        spent = [sum(run.total(unit) for run in runs) / len(runs) for unit in ("flops", "tokens", "seconds")]
        cells = [label(experiments, name), format_interval(accuracy[name]), closed]
        rows.append([*cells, *map(format_amount, spent)])
    table = Table(["arm", "fully correct [95%]", "gap closed [95%]", "FLOPs", "tokens", "seconds"], rows)
    first, *others = sorted(accuracy, key=lambda name: -accuracy[name].value)
    pieces = [table, *(piece("paragraph", _lead(experiments, first, other)) for other in others)]
    roles = experiments[0].roles()
    if len(roles) == 2:
        pieces.append(note("gap", **{role: label(experiments, stage) for role, stage in roles.items()}))
    return pieces


def _lead(experiments: list[Experiment], first: str, other: str) -> str:
    """By how much the first arm is ahead of the other, and whether these problems tell the two apart."""
    measured = estimates.accuracy_difference(experiments, first, other)
    name, second = label(experiments, first), label(experiments, other)
    name = name[:1].upper() + name[1:]
    if measured.pooled.value == 0:
        return f"{name} and {second} solve the same number of problems."
    text = f"{name} is ahead of {second} by {format_interval(measured.pooled, ' points')}."
    if len(measured.seeds) > 1:
        text += f" It is ahead in {sum(d > 0 for d in measured.seeds)} of {len(measured.seeds)} seeds."
    return text + " The interval includes zero: these problems do not tell the two apart." * (measured.pooled.low <= 0)


def ten_rollouts(experiments: list[Experiment]) -> list[Piece]:
    """Ten rollouts of the distilled student, with a verdict on each step."""
    run = run_with_samples(experiments)
    if run is None:
        raise estimates.Missing("no run with samples")
    samples = newest(run.samples)
    chosen = choose(samples)
    subject = next((s for e in experiments if run in e.runs.values() and (s := e.subject(run))), run)
    right = sum(bool(sample.get("right")) for sample in samples)
    counts: dict[str, Any] = {"shown": len(chosen), "samples": len(samples), "right": right}
    how_to_read = note("rollouts", model=label(experiments, subject.name), run=run.folder.name, **counts)
    return [how_to_read, *map(render_rollout, chosen)]


def provenance(experiments: list[Experiment]) -> list[Piece]:
    """Command, config and manifest of every run, folded."""
    runs = [run for experiment in experiments for run in experiment.runs.values()]
    return [piece("folded_code", run.folder.name, _origin(run)) for run in runs]


def _origin(run: Run) -> str:
    command = run.manifest.get("command")
    command = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "command not recorded")
    facts = {key: value for key, value in run.manifest.items() if key not in ("command", "config", "resumed")}
    config, manifest = (yaml.safe_dump(part, sort_keys=False) for part in (run.config, facts))
    return f"$ {command}\n\n# config.yaml\n{config}\n# manifest.json\n{manifest}"


SHOWN = 10
WASTE = frozenset({"unneeded", "retry"})  # kinds of steps that cost tokens without being mistakes


def run_with_samples(experiments: Sequence[Experiment]) -> Run | None:
    """The run whose samples to show: the first arm's evaluation, else the arm itself, else any run with samples."""
    for experiment in experiments:
        arms = experiment.arms()
        evaluations = [run for arm in arms if (run := experiment.evaluation_of(arm.name)) is not None]
        for run in (*evaluations, *arms, *experiment.runs.values()):
            if run.samples:
                return run
    return None


def newest(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The samples of the last step at which any were kept; all where none says its step."""
    last = max((sample["step"] for sample in samples if "step" in sample), default=None)
    return [sample for sample in samples if last is None or sample.get("step") == last]


def choose(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Ten: half right and half wrong if there are enough of both, else filled up from the others; in the order made."""
    right = [i for i, sample in enumerate(samples) if sample.get("right")]
    wrong = [i for i, sample in enumerate(samples) if not sample.get("right")]
    n_wrong = min(len(wrong), max(SHOWN // 2, SHOWN - len(right)))
    chosen = sorted(wrong[:n_wrong] + right[: SHOWN - n_wrong])
    return [samples[i] for i in chosen]


def render_rollout(sample: Mapping[str, Any]) -> Markup:
    """One rollout as HTML."""
    steps = [(step.get("text", ""), step.get("kind", "")) for step in sample.get("steps", [])]
    styles = {"right": "right"} | dict.fromkeys(WASTE, "waste")
    return piece("rollout", sample, [(*step, styles.get(step[1], "wrong")) for step in steps], _remainder(sample))


def fragment(sample: Mapping[str, Any]) -> str:
    """One rollout with its style, to be shown in a notebook."""
    return f"{rollout_style()}{render_rollout(sample)}"


def _remainder(sample: Mapping[str, Any]) -> str:
    """What the response says after its last step (the answer, where it is not counted as a step)."""
    response, steps = str(sample.get("response", "")), sample.get("steps", [])
    last = str(steps[-1].get("text", "")) if steps else ""
    if not last:  # a step of special tokens only has no text
        return "" if steps else response
    _, found, rest = response.rpartition(last)
    return rest.strip() if found else ""


def analyses(experiments: list[Experiment]) -> list[Piece]:
    """The pieces of every finished analysis, in the recipe's order. Raises NotApplicable if there is none."""
    pieces: list[Piece] = []
    for run in (run for e in experiments for run in e.of("analysis") if "lines" in run.summary):
        image, drawn = run.folder / "figures" / f"{run.summary['task']}.png", run.summary["figure"]
        pieces.append(piece("heading", f"{drawn['title']}: {label(experiments, run.name)}", 3))
        if image.is_file():
            pieces.append(figure(image, drawn["title"], f"{drawn['caption']} {run.folder.name}"))
        pieces.append(piece("folded_code", f"tables of {run.folder.name}", "\n".join(run.summary["lines"])))
    if not pieces:
        raise NotApplicable("no analyses")
    return pieces
