"""task=layers: each probe of each task on a checkpoint, layer by layer, beside its controls.

The work is cut into parts that are done once: one task, one probe, and what it is fitted to
(`probes.readout.controls`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.flops import n_params
from models.gpt import GPT
from probes.queries.labels import TASKS, distance, task_of
from probes.queries.table import Queries, Split, draw_split
from probes.readout import controls, linear, vprobe
from probes.readout.activations import check_length, chosen_sites
from probes.readout.controls import NAMES, POSITION, RANDOM, SHUFFLED, TRAINED, majority
from probes.readout.linear import Reading
from probes.runs import ClusterBootstrap, ResumeLog, Table
from probes.settings import LINEAR, VPROBE, ProbeConfig, ProbeSettings
from probes.tables import Rows, cell
from probes.tasks.task import Models, Task
from synth.draw.split import template_residue
from synth.kernel.progress import Progress
from synth.world.vocabulary import World

FITTED = (TRAINED, RANDOM, SHUFFLED, NAMES)
RESIDUES = 2**31 - 1
MAJORITY, SELECTIVITY = "majority", "selectivity"
CONTROLS = (MAJORITY, RANDOM, SHUFFLED, POSITION)
FARTHEST = 8  # distances from here on are one group


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
    """The queries of tasks: fit and validation on different problems of the train split, test on the test split. Raises
    ValueError when there are none, or the model cannot read one."""
    q, (train, test) = config.probe.queries, (config.data.source(name, "probe") for name in ("train", "test"))
    sizes, found = (q.fit, q.validation, q.test), {}
    for name in tasks:
        found[name] = draw_split(task_of(name, q.nece), train, test, sizes, q.most, config.seed, q.balance)
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
    control, todo = controls.random_weights(model, config.seed), parts(config.probe)
    found: dict[Part, list[Reading]] = {}
    for i, part in enumerate(Progress(todo, desc="probes", unit=" parts")):
        name, used = " ".join(part), control if part.fitted == RANDOM else model

        def loss(step: int, mean: float, name: str = name, i: int = i) -> None:
            log.loss(name, step, mean, (i + step / config.probe.vprobe.steps) / len(todo))

        def make(part: Part = part, used: GPT = used, loss: vprobe.LossLog = loss) -> Rows:
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
    pieces = controls.relabelled(pieces, part.fitted, part.task, config.seed)
    if part.probe == POSITION:
        return controls.read_position(pieces, part.task, world.modulus, config.probe.linear.l2)
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
    """Share of the test problems whose solution template is one of a problem that was fitted on or chosen with. Nought
    by construction where the data are split by template; a small world split by problem has few templates."""
    found: list[list[int]] = []
    for piece in pieces:
        problems = (piece.documents.problems.take([row]) for row in dict.fromkeys(piece.row.tolist()))
        found.append([int(template_residue(problem, published, RESIDUES)) for problem in problems])
    *seen, tested = found
    return float(np.isin(tested, np.concatenate(seen)).mean())


def rows(
    task: str, probe: str, split: Split, classes: int, readings: Mapping[str, Sequence[Reading]], position: Reading
) -> Rows:
    """One row for each site. `readings`: of the trained model and of its controls, each with the same sites. Those of
    the control `names` may lack."""
    bootstrap, groups = ClusterBootstrap(split.test.row), _groups(task, split.test, classes)
    of_all_sites = {MAJORITY: bootstrap.rate(majority(split.fit, split.test)), POSITION: bootstrap.rate(position.right)}
    result = []
    for i, trained in enumerate(readings[TRAINED]):
        found = of_all_sites | {kind: bootstrap.rate(readings[kind][i].right) for kind in (RANDOM, SHUFFLED)}
        if NAMES in readings:
            names = readings[NAMES][i].right
            found[NAMES] = bootstrap.rate(names)
            found[SELECTIVITY] = bootstrap.ratio(trained.right.astype(float) - names, within=(-1, 1))
        beside: dict[str, Any] = {}
        for name, estimate in found.items():
            beside |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        by_group = {
            split_by: {name: cell(bootstrap.rate(trained.right, among_Q), "accuracy") for name, among_Q in of.items()}
            for split_by, of in groups.items()
        }
        row = {"task": task, "probe": probe, "site": trained.site, "layer": trained.layer}
        row |= cell(bootstrap.rate(trained.right), "accuracy") | {NAMES: None, SELECTIVITY: None} | beside
        result.append(row | {"problems": bootstrap.n, "validation": trained.validation, **trained.chosen} | by_group)
    return result


def _groups(task: str, test: Queries, classes: int) -> dict[str, dict[str, np.ndarray]]:
    """The groups that results are split into, each a mask bool[Q]: by label, by A's need, by A's way to the query."""
    group_Q = TASKS[task].group(test.label, classes)
    problems = test.documents.problems
    needed_Q = problems.needed[test.row, test.slot] > 0
    distance_Q = np.minimum(distance(problems)[test.row, test.slot], FARTHEST)
    far = {str(d) if d < FARTHEST else f"{d}+": distance_Q == d for d in range(FARTHEST + 1)}
    return {
        "by_label": {name: group_Q == g for g, name in enumerate(TASKS[task].groups)},
        "by_need": {"needed": needed_Q, "not needed": ~needed_Q},
        "by_distance": {name: among_Q for name, among_Q in far.items() if among_Q.any()},
    }


def select(results: Rows) -> Rows:
    """The same rows, the best of each task on the validation part (the first of equals) marked `selected`."""
    by_task = {row["task"]: [other for other in results if other["task"] == row["task"]] for row in results}
    best = [max(of_task, key=lambda row: row["validation"]) for of_task in by_task.values()]
    return [row | {"selected": True} if any(row is one for one in best) else row for row in results]


def margin(split: Split, readings: Mapping[str, Sequence[Reading]], position: Reading) -> dict[str, Any]:
    """The selected probe of a task above its controls, and above the best of them, on the same test queries.
    `readings`: of all probes and sites, by kind. Each kind's reading is its best on the validation part. In each draw
    of problems the best control is taken anew, so the interval holds for the control's uncertainty and its choice."""
    test, bootstrap = split.test, ClusterBootstrap(split.test.row)
    chosen = {kind: max(readings[kind], key=lambda r: r.validation).right for kind in (TRAINED, RANDOM, SHUFFLED)}
    trained = chosen.pop(TRAINED)
    rights = {MAJORITY: majority(split.fit, test), POSITION: position.right, **chosen}
    every_Q, value, n = np.ones(len(test), dtype=bool), float(trained.mean()), len(test)
    accuracy = {name: float(right.mean()) for name, right in rights.items()}
    strongest = max(accuracy, key=lambda name: accuracy[name])

    def above(control: float, *others: np.ndarray) -> dict[str, float]:
        """The probe less the best of these controls in each draw, whose accuracy is `control`."""
        rates = [(right, every_Q) for right in (trained, *others)]
        difference = bootstrap.statistic(
            lambda probe_D, *best_D: probe_D - np.max(best_D, axis=0), value - control, n, *rates, within=(-1, 1)
        )
        return cell(difference)

    each = {name: {"accuracy": accuracy[name], "above": above(accuracy[name], rights[name])} for name in rights}
    found = {"accuracy": value, "problems": bootstrap.n, "control": strongest, "controls": each}
    return above(accuracy[strongest], *rights.values()) | found


def table(summary: Mapping[str, Any]) -> str:
    """The results for a person; * marks the selected one of each task."""
    head = ["task", "probe", "layer", "accuracy [95%]", "n", *CONTROLS, "select.", "by label"]
    cells = []
    for row in summary["results"]:
        layer = f"{row['layer']}{'*' if row.get('selected') else ' '}"
        accuracy = f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"
        controls = [f"{row[name]:.1%}" for name in CONTROLS]
        selectivity = "-" if row[SELECTIVITY] is None else f"{row[SELECTIVITY]:+.1%}"
        by_label = ", ".join(f"{name} {part['accuracy']:.1%}" for name, part in row["by_label"].items() if part["n"])
        cells.append([row["task"], row["probe"], layer, accuracy, str(row["n"]), *controls, selectivity, by_label])
    lines = [Table(head, cells).text("llrrrrrrrrl")]
    for task, m in summary["margins"].items():
        interval = f"{m['value']:+.1%} [{m['low']:+.1%}, {m['high']:+.1%}]"
        lines.append(f"{task}: {interval} above its best control ({m['control']}), {m['problems']} problems")
        row = next(r for r in summary["results"] if r["task"] == task and r.get("selected"))
        if row[SELECTIVITY] is not None:
            low, high = row["selectivity_low"], row["selectivity_high"]
            lines.append(f"  selectivity {row[SELECTIVITY]:+.1%} [{low:+.1%}, {high:+.1%}] over labels dealt to names")
        lines.append(f"  {_by_group(row, 'by_need')}; steps from the query: {_by_group(row, 'by_distance')}")
    shared = ", ".join(f"{task} {share:.1%}" for task, share in summary["shared_templates"].items())
    return "\n".join([*lines, f"test problems with a solution template that was fitted on: {shared}"])


def _by_group(row: Mapping[str, Any], name: str) -> str:
    return ", ".join(f"{k} {v['accuracy']:.1%} (n = {v['n']})" for k, v in row[name].items() if v["n"])


TASK = Task(ProbeConfig, prepare, run, table)
