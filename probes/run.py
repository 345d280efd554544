"""Probing: what can be read from the hidden states of a saved model, layer by layer, beside both controls.

    python -m probes.run model=runs/quickstart/teacher-1a2b3c4d data=tiny probe=quickstart

`model` is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder. Results go to a run folder:
summary.json holds a row for each task, probe and layer. The same command again continues after the last part that was
finished (one task, one probe, trained or random weights), and does nothing once it is complete.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tqdm import tqdm

from models.gpt import GPT
from probes import linear, vprobe
from probes.activations import check_length
from probes.controls import random_weights
from probes.journal import Journal
from probes.labels import TASKS, draw
from probes.linear import LinearConfig, Reading, Split
from probes.results import rows, select, table
from probes.vprobe import VProbeConfig
from synth.encoding import PHRASE
from synth.world import World
from train import checkpoint
from train.config import REQUIRED, plain, run_entry
from train.data import DataConfig, check_world
from train.machine import set_up
from train.rundir import Out, open_run, read_json

LINEAR, VPROBE = "linear", "vprobe"
TRAINED, RANDOM = "trained", "random"


@dataclass(frozen=True)
class QueryConfig:
    """Problems to `fit` on and for `validation` (train split) and to `test` on; at most `most` queries a problem.

    `balance`: as many parameters of one group of labels as of the other, so that majority is right about half the time;
    else parameters are drawn uniformly, as in the paper.
    """

    fit: int = 1500
    validation: int = 300
    test: int = 600
    most: int = 10
    balance: bool = False

    def __post_init__(self) -> None:
        for name, least in (("fit", 1), ("validation", 1), ("test", 1), ("most", 2 if self.balance else 1)):
            if getattr(self, name) < least:
                raise ValueError(f"probe.queries.{name}={getattr(self, name)}: accepted: {least} or more")


@dataclass(frozen=True)
class ProbeSettings:
    """The content of configs/probe/NAME.yaml; a probe without tasks is left out."""

    queries: QueryConfig = field(default_factory=QueryConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    vprobe: VProbeConfig = field(default_factory=VProbeConfig)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(
                f"probe.linear.tasks, probe.vprobe.tasks: both empty; accepted: lists with some of {', '.join(TASKS)}"
            )

    @property
    def tasks(self) -> list[str]:
        return [task for task in TASKS if task in (*self.linear.tasks, *self.vprobe.tasks)]


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of the command. `seed`: of the queries, the probes' initial weights and order, and the random model."""

    model: str = REQUIRED
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    threads: int = 1
    device: str = "cpu"
    out: Out = field(default_factory=lambda: Out("runs/probes", "probe"))

    def __post_init__(self) -> None:
        if self.data.tokens != PHRASE:
            raise ValueError(f"data.tokens={self.data.tokens}: probes read names of one token each; accepted: {PHRASE}")


class Part(NamedTuple):
    """A unit of work that is done once."""

    task: str
    probe: str
    weights: str


def parts(settings: ProbeSettings) -> list[Part]:
    """All parts in the order in which they are done."""
    tasks = {LINEAR: settings.linear.tasks, VPROBE: settings.vprobe.tasks}
    return [
        Part(task, probe, weights)
        for probe in tasks
        for task in settings.tasks
        if task in tasks[probe]
        for weights in (TRAINED, RANDOM)
    ]


def split(task: str, config: ProbeConfig) -> Split:
    """The queries of a task: fit and validation on different problems of the train split, test on the test split."""
    q, (train, test) = config.probe.queries, (config.data.source(name, "probe") for name in ("train", "test"))
    pieces = ((train, range(q.fit)), (train, range(q.fit, q.fit + q.validation)), (test, range(q.test)))
    return Split(*(draw(TASKS[task], source, indices, q.most, config.seed, q.balance) for source, indices in pieces))


def main(config: ProbeConfig) -> None:
    """Probes one checkpoint into a run folder; a complete one is only shown again."""
    device = set_up(config.threads, config.device)
    check_world(checkpoint.notes(config.model, "model"), config.data, config.model)
    model = checkpoint.load_model(config.model, "model", str(device))
    world = config.data.spec().load_world()
    splits = {task: split(task, config) for task in config.probe.tasks}
    for piece in (piece for pieces in splits.values() for piece in pieces):
        check_length(model, piece, config.model)
    seeds = {"probe": config.seed, "data": config.data.seed}
    inputs = {"model": checkpoint.digest(config.model, "model")}
    run = open_run(plain(config), inputs, seeds, config.data.fingerprint())
    if not run.complete:
        journal = Journal(run.path / "metrics.jsonl")
        models = {TRAINED: model, RANDOM: random_weights(model, config.seed)}
        work(config, models, world, splits, journal)
        run.write_json("summary.json", summary(config, world, splits, journal))
    print(table(read_json(run.path / "summary.json")))
    print(run.path)


def work(config: ProbeConfig, models: dict[str, GPT], world: World, splits: dict[str, Split], journal: Journal) -> None:
    """Does every part that the journal does not hold yet."""
    todo = parts(config.probe)
    for i, part in enumerate(tqdm(todo, desc="probes", unit=" parts", disable=None)):
        if part not in journal:
            start = time.monotonic()
            readings = measure(config, part, models[part.weights], world, splits[part.task], journal, (i, len(todo)))
            journal.finish(part, readings, time.monotonic() - start, (i + 1) / len(todo))


def measure(
    config: ProbeConfig, part: Part, model: GPT, world: World, pieces: Split, journal: Journal, place: tuple[int, int]
) -> Sequence[Reading]:
    """The readings of one part, which is number place[0] of place[1]."""
    classes = TASKS[part.task].classes(world.modulus)
    if part.probe == LINEAR:
        return linear.measure(model, world, pieces, classes, config.probe.linear)

    def log(step: int, loss: float) -> None:
        journal.log(part, step, loss, (place[0] + step / config.probe.vprobe.steps) / place[1])

    return vprobe.measure(model, pieces, classes, config.probe.vprobe, config.seed, log)


def summary(config: ProbeConfig, world: World, splits: dict[str, Split], journal: Journal) -> dict[str, Any]:
    """The content of summary.json."""
    results = []
    for task, probe in dict.fromkeys((part.task, part.probe) for part in parts(config.probe)):
        readings = [journal.readings(Part(task, probe, weights)) for weights in (TRAINED, RANDOM)]
        results += rows(task, probe, splits[task], TASKS[task].classes(world.modulus), *readings)
    queries = {task: dict(zip(Split._fields, map(len, pieces), strict=True)) for task, pieces in splits.items()}
    return {
        "stage": "probe",
        "results": select(results),
        "queries": queries,
        "balance": config.probe.queries.balance,
        "seconds": journal.seconds,
    }


if __name__ == "__main__":
    sys.exit(run_entry("probe", ProbeConfig, main, __doc__ or ""))
