"""task=layers: each probe of each task on a checkpoint, layer by layer, beside its controls.

The work is cut into parts that are done once: one task, one probe, and what it is fitted to (`probes.readout.controls`).
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from models.flops import n_params
from models.gpt import GPT
from probes.queries.dependencies import part as some_problems
from probes.queries.labels import TASKS, task_of
from probes.queries.table import draw
from probes.readout import linear, vprobe
from probes.readout.activations import check_length, chosen_sites
from probes.readout.controls import (
    NAMES,
    POSITION,
    RANDOM,
    SHUFFLED,
    TRAINED,
    random_weights,
    read_position,
    relabelled,
)
from probes.readout.linear import Reading, Split
from probes.settings import LINEAR, VPROBE, ProbeConfig, ProbeSettings
from probes.tasks.results import margin, rows, select
from probes.tasks.resume_log import Journal
from synth.draw.split import template_residue
from synth.problem.arrays import Problems
from synth.world.vocabulary import World

KINDS = (TRAINED, RANDOM, SHUFFLED, NAMES)
RESIDUES = 2**31 - 1


class Part(NamedTuple):
    """A unit of work that is done once. `kind`: the trained model, or one of the controls."""

    task: str
    probe: str
    kind: str


def parts(settings: ProbeSettings) -> list[Part]:
    """All parts in the order in which they are done."""
    tasks = {LINEAR: settings.linear.tasks, VPROBE: settings.vprobe.tasks}
    fitted = [
        Part(task, probe, kind)
        for probe in tasks
        for task in settings.tasks
        if task in tasks[probe]
        for kind in KINDS
        if (probe, kind) != (VPROBE, NAMES) or settings.vprobe.selectivity
    ]
    return [*(Part(task, POSITION, POSITION) for task in settings.tasks), *fitted]


def tasks(config: ProbeConfig) -> list[str]:
    """Tasks whose queries are drawn."""
    return config.probe.tasks


def split(task: str, config: ProbeConfig) -> Split:
    """The queries of a task: fit and validation on different problems of the train split, test on the test split."""
    q, (train, test) = config.probe.queries, (config.data.source(name, "probe") for name in ("train", "test"))
    pieces = ((train, range(q.fit)), (train, range(q.fit, q.fit + q.validation)), (test, range(q.test)))
    asked = task_of(task, q.nece)
    return Split(*(draw(asked, source, indices, q.most, config.seed, q.balance) for source, indices in pieces))


def check(config: ProbeConfig, model: GPT, splits: Mapping[str, Split]) -> None:
    """Raises ValueError when the model cannot read a query, or lacks a site."""
    chosen_sites(model, config.probe.linear.sites)
    for piece in (piece for pieces in splits.values() for piece in pieces):
        check_length(model, piece, config.model)


def run(config: ProbeConfig, model: GPT, world: World, splits: Mapping[str, Split], folder: Path) -> dict[str, Any]:
    """Does every part that the journal in `folder` does not hold yet; returns the content of summary.json."""
    journal = Journal(folder / "metrics.jsonl")
    control, todo = random_weights(model, config.seed), parts(config.probe)
    for i, part in enumerate(tqdm(todo, desc="probes", unit=" parts", disable=None)):
        if part not in journal:
            start = time.monotonic()
            used = control if part.kind == RANDOM else model
            readings = measure(config, part, used, world, splits[part.task], journal, (i, len(todo)))
            journal.finish(part, readings, time.monotonic() - start, (i + 1) / len(todo))
    return summary(config, model, world, splits, journal)


def measure(
    config: ProbeConfig, part: Part, model: GPT, world: World, pieces: Split, journal: Journal, place: tuple[int, int]
) -> Sequence[Reading]:
    """The readings of one part, which is number place[0] of place[1]."""
    classes = TASKS[part.task].classes(world.modulus)
    pieces = relabelled(pieces, part.kind, part.task, config.seed)
    if part.probe == POSITION:
        return read_position(pieces, part.task, world.modulus, config.probe.linear.l2)
    if part.probe == LINEAR:
        return linear.measure(model, world, pieces, classes, config.probe.linear)

    def log(step: int, loss: float) -> None:
        journal.log(part, step, loss, (place[0] + step / config.probe.vprobe.steps) / place[1])

    return vprobe.measure(model, pieces, classes, config.probe.vprobe, config.seed, log)


def summary(
    config: ProbeConfig, model: GPT, world: World, splits: Mapping[str, Split], journal: Journal
) -> dict[str, Any]:
    """The content of summary.json."""
    results, margins = [], {}
    for task, pieces in splits.items():
        position = journal.readings(Part(task, POSITION, POSITION))[0]
        fitted = {kind: [] for kind in KINDS}
        for probe in (probe for probe in (LINEAR, VPROBE) if Part(task, probe, TRAINED) in journal):
            made = [kind for kind in KINDS if Part(task, probe, kind) in journal]
            readings = {kind: journal.readings(Part(task, probe, kind)) for kind in made}
            results += rows(task, probe, pieces, TASKS[task].classes(world.modulus), readings, position)
            fitted = {kind: [*fitted[kind], *readings.get(kind, ())] for kind in KINDS}
        margins[task] = margin(pieces, fitted, position)
    results.sort(key=lambda row: (LINEAR, VPROBE).index(row["probe"]))
    published = config.data.spec().solution_order == "published"
    return {
        "stage": "probe",
        "results": select(results),
        "margins": margins,
        "queries": {task: dict(zip(Split._fields, map(len, s), strict=True)) for task, s in splits.items()},
        "shared_templates": {task: shared_templates(pieces, published) for task, pieces in splits.items()},
        "parameters": n_params(model.config),
        "balance": config.probe.queries.balance,
        "seconds": journal.seconds,
    }


def shared_templates(pieces: Split, published: bool) -> float:
    """Share of the test problems whose solution template is one of a problem that was fitted on or chosen with.

    Nought by construction where the data are split by template; a small world split by problem has few templates.
    """
    seen, tested = set(), []
    for i, piece in enumerate(pieces):
        problems = piece.documents.problems
        found = [template(some_problems(problems, [row]), published) for row in dict.fromkeys(piece.row.tolist())]
        seen, tested = (seen, found) if i == 2 else (seen | set(found), tested)
    return sum(residue in seen for residue in tested) / len(tested)


def template(problem: Problems, published: bool) -> int:
    """What stands for the solution template of a batch of one."""
    return int(template_residue(problem, published, RESIDUES))
