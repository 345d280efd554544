"""task=export: activations and labels as files, for probes that are fitted elsewhere.

    activations/TASK-PART-00000.safetensors   one tensor for each site, float16 [queries, channels]
    labels/TASK-PART.parquet                  the queries in the same order: input tokens, names, label, groups
    README.md                                 what the columns mean

PART is fit, validation or test, the queries that `task=layers` has with the same settings. Shards hold at most
`export.texts` texts, and no more than one lies in memory.
"""

from collections.abc import Mapping
from dataclasses import field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors.torch import save_file

from models.flops import n_params
from probes.queries.labels import TASKS, TaskNames, distance
from probes.queries.table import Queries, Split
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.settings import ProbeConfig
from probes.tables import render
from probes.tasks.layers import splits
from probes.tasks.task import Models, Task
from synth.kernel.progress import Progress
from synth.ranges import Filled, Positive, settings
from synth.store.files import atomic_path, atomic_write
from synth.world.vocabulary import World


@settings
class Settings:
    """`tasks` whose activations and labels are written; `sites` as in `probe.linear.sites`."""

    tasks: Annotated[TaskNames, Filled] = ("nece", "value")  # whose labels are written
    sites: Annotated[tuple[str, ...], Filled] = RESIDUAL  # whose activations are written
    texts: Positive = 4096  # texts to a shard: what is held in memory at a time


@settings
class Config(ProbeConfig):
    task: str = "export"
    export: Settings = field(default_factory=Settings)


def prepare(config: Config, models: Models) -> dict[str, Split]:
    """The queries. Raises ValueError when the files cannot be made."""
    if find_spec("pyarrow") is None:
        raise ValueError("task=export: needs the package pyarrow; accepted: after pip install 'glasshouse[data]'")
    chosen_sites(models["model"], config.export.sites, "export.sites")
    return splits([task for task in TASKS if task in config.export.tasks], config, models["model"])


def run(config: Config, models: Models, splits: Mapping[str, Split], folder: Path) -> dict[str, Any]:
    """Writes the files; returns the content of summary.json."""
    model, world = models["model"], config.data.spec().load_world()
    sites, files = chosen_sites(model, config.export.sites), []
    for name in ("activations", "labels"):
        (folder / name).mkdir(exist_ok=True)
    work = [(task, name, queries) for task, pieces in splits.items() for name, queries in pieces._asdict().items()]
    for task, name, queries in Progress(work, desc="export", unit=" tables"):
        first = config.probe.queries.fit if name == "validation" else 0
        shard_Q = queries.row // config.export.texts
        for shard in np.unique(shard_Q):
            part = queries.take(np.flatnonzero(shard_Q == shard))
            states_SQC = read(model, part, names_in_line(part, world), sites)
            files.append(f"activations/{task}-{name}-{shard:05}.safetensors")
            save_file({site: states_SQC[s].contiguous() for s, site in enumerate(sites)}, folder / files[-1])
        files.append(f"labels/{task}-{name}.parquet")
        _write_labels(_rows(queries, world, shard_Q, first), folder / files[-1])
    labels = {name: ", ".join(f"{k} {group}" for k, group in enumerate(TASKS[name].groups)) for name in splits}
    if "value" in labels:
        labels["value"] = f"0 to {world.modulus - 1} the value, {world.modulus} unknown"
    values = {"sites": sites, "tasks": list(splits), "split_by": config.data.spec().split_by, "labels": labels}
    atomic_write(folder / "README.md", render("export_readme.md.jinja", **values) + "\n")
    return {
        "stage": "export",
        "files": [*files, "README.md"],
        "queries": {task: dict(zip(Split._fields, map(len, s), strict=True)) for task, s in splits.items()},
        "sites": sites,
        "parameters": n_params(model.config),
    }


def _rows(queries: Queries, world: World, shard_Q: np.ndarray, first: int) -> dict[str, list]:
    """The columns of a table of queries."""
    problems, name = queries.documents.problems, queries.name
    endings = names_in_line(queries, world)
    pairs = name.shape[1] == 4
    return {
        "problem": (queries.row + first).tolist(),
        "shard": shard_Q.tolist(),
        "row": (np.arange(len(queries)) - np.searchsorted(shard_Q, shard_Q)).tolist(),
        "parameter": [world.name_of(*n[:2]) for n in name],
        "other": [world.name_of(*n[2:]) if pairs else None for n in name],
        "slot": queries.slot.tolist(),
        "label": queries.label.tolist(),
        "needed": (problems.needed[queries.row, queries.slot] > 0).tolist(),
        "distance": distance(problems)[queries.row, queries.slot].tolist(),
        "tokens": [np.concatenate([queries.text(q), endings[q]]).tolist() for q in range(len(queries))],
    }


def _write_labels(columns: dict[str, list], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = ("problem", "shard", "row", "slot", "label", "distance")
    types = {**dict.fromkeys(whole, pa.int64()), "needed": pa.bool_(), "tokens": pa.list_(pa.int32())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def table(summary: Mapping[str, Any]) -> str:
    """What was written, for a person."""
    lines = [f"{task}: {', '.join(f'{n} {name}' for name, n in q.items())}" for task, q in summary["queries"].items()]
    return "\n".join([*lines, f"{len(summary['files'])} files, {len(summary['sites'])} sites"])


TASK = Task(Config, prepare, run, table)
