"""task=layers: each probe of each task on a checkpoint, layer by layer, beside its controls.

The work is cut into parts that are done once: one task, one probe, and what it is fitted to
(`probes.readout.controls`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from models.flops import n_params
from models.gpt import GPT
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
from probes.resume_log import ResumeLog
from probes.settings import LINEAR, VPROBE, ProbeConfig, ProbeSettings
from probes.tasks.results import margin, rows, select, table
from probes.tasks.task import Models, Task
from synth.draw.split import template_residue
from synth.problem.arrays import Problems
from synth.world.vocabulary import World

FITTED = (TRAINED, RANDOM, SHUFFLED, NAMES)
RESIDUES = 2**31 - 1


class Part(NamedTuple):
    """A unit of work that is done once. `fitted`: the trained model, or one of the controls."""

    task: str
    probe: str
    fitted: str


def parts(settings: ProbeSettings) -> list[Part]:
    """All parts in the order in which they are done."""
    tasks = {LINEAR: settings.linear.tasks, VPROBE: settings.vprobe.tasks}
    fitted = [
        Part(task, probe, kind)
        for probe in tasks
        for task in settings.tasks
        if task in tasks[probe]
        for kind in FITTED
        if (probe, kind) != (VPROBE, NAMES) or settings.vprobe.selectivity
    ]
    return [*(Part(task, POSITION, POSITION) for task in settings.tasks), *fitted]


def splits(tasks: Sequence[str], config: ProbeConfig, model: GPT) -> dict[str, Split]:
    """The queries of tasks: fit and validation on different problems of the train split, test on the test split.

    Raises ValueError when there are none, or the model cannot read one.
    """
    q, (train, test) = config.probe.queries, (config.data.source(name, "probe") for name in ("train", "test"))
    pieces = ((train, range(q.fit)), (train, range(q.fit, q.fit + q.validation)), (test, range(q.test)))
    found = {}
    for name in tasks:
        task = task_of(name, q.nece)
        found[name] = Split(*(draw(task, source, i, q.most, config.seed, q.balance) for source, i in pieces))
        for piece in found[name]:
            check_length(model, piece, config.model)
    return found


def prepare(config: ProbeConfig, models: Models) -> dict[str, Split]:
    """The queries. Raises ValueError when the model cannot read one, or lacks a site."""
    chosen_sites(models["model"], config.probe.linear.sites)
    return splits(config.probe.tasks, config, models["model"])


def run(config: ProbeConfig, models: Models, splits: dict[str, Split], folder: Path) -> dict[str, Any]:
    """Does every part that the log in `folder` does not hold yet; returns the content of summary.json."""
    log, model, world = ResumeLog(folder / "metrics.jsonl"), models["model"], config.data.spec().load_world()
    control, todo = random_weights(model, config.seed), parts(config.probe)
    found: dict[Part, list[Reading]] = {}
    for i, part in enumerate(tqdm(todo, desc="probes", unit=" parts", disable=None)):
        name, used = " ".join(part), control if part.fitted == RANDOM else model

        def loss(step: int, mean: float, name: str = name, i: int = i) -> None:
            log.loss(name, step, mean, (i + step / config.probe.vprobe.steps) / len(todo))

        def make(part: Part = part, used: GPT = used, loss: vprobe.LossLog = loss) -> list[dict[str, Any]]:
            readings = measure(config, part, used, world, splits[part.task], loss)
            return [reading._asdict() | {"right": "".join(map(str, reading.right * 1))} for reading in readings]

        lines = log.once(name, make, (i + 1) / len(todo))
        found[part] = [Reading(**line | {"right": np.array([bit == "1" for bit in line["right"]])}) for line in lines]
    return {"stage": "probe", **summary(config, world, splits, found)} | {
        "parameters": n_params(model.config),
        "balance": config.probe.queries.balance,
        "seconds": log.seconds,
    }


def measure(
    config: ProbeConfig, part: Part, model: GPT, world: World, pieces: Split, loss: vprobe.LossLog
) -> Sequence[Reading]:
    """The readings of one part."""
    classes = TASKS[part.task].classes(world.modulus)
    pieces = relabelled(pieces, part.fitted, part.task, config.seed)
    if part.probe == POSITION:
        return read_position(pieces, part.task, world.modulus, config.probe.linear.l2)
    if part.probe == LINEAR:
        return linear.measure(model, world, pieces, classes, config.probe.linear)
    return vprobe.measure(model, pieces, classes, config.probe.vprobe, config.seed, loss)


def summary(
    config: ProbeConfig, world: World, splits: Mapping[str, Split], found: Mapping[Part, list[Reading]]
) -> dict[str, Any]:
    """Rows, margins and the queries that they rest on."""
    results, margins = [], {}
    for task, pieces in splits.items():
        position = found[Part(task, POSITION, POSITION)][0]
        of_all: dict[str, list[Reading]] = {kind: [] for kind in FITTED}
        for probe in (LINEAR, VPROBE):
            readings = {kind: found[part] for kind in FITTED if (part := Part(task, probe, kind)) in found}
            if readings:
                results += rows(task, probe, pieces, TASKS[task].classes(world.modulus), readings, position)
            of_all = {kind: [*of_all[kind], *readings.get(kind, ())] for kind in FITTED}
        margins[task] = margin(pieces, of_all, position)
    results.sort(key=lambda row: (LINEAR, VPROBE).index(row["probe"]))
    published = config.data.spec().solution_order == "published"
    return {
        "results": select(results),
        "margins": margins,
        "queries": {task: dict(zip(Split._fields, map(len, s), strict=True)) for task, s in splits.items()},
        "shared_templates": {task: shared_templates(pieces, published) for task, pieces in splits.items()},
    }


def shared_templates(pieces: Split, published: bool) -> float:
    """Share of the test problems whose solution template is one of a problem that was fitted on or chosen with.

    Nought by construction where the data are split by template; a small world split by problem has few templates.
    """
    seen, tested = set(), []
    for i, piece in enumerate(pieces):
        problems = piece.documents.problems
        found = [template(problems.take([row]), published) for row in dict.fromkeys(piece.row.tolist())]
        seen, tested = (seen, found) if i == 2 else (seen | set(found), tested)
    return sum(residue in seen for residue in tested) / len(tested)


def template(problem: Problems, published: bool) -> int:
    """What stands for the solution template of a batch of one."""
    return int(template_residue(problem, published, RESIDUES))


TASK = Task(ProbeConfig, prepare, run, table)
