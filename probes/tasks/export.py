"""task=export: activations and labels as files, for probes that are fitted elsewhere.

    activations/TASK-PART-00000.safetensors   one tensor for each site, float16 [queries, channels]
    labels/TASK-PART.parquet                  the queries in the same order: input tokens, names, label, groups
    README.md                                 what the columns mean

PART is fit, validation or test, the queries that `task=layers` has with the same settings. Shards hold at most
`export.texts` texts, and no more than one lies in memory.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from tqdm import tqdm

from models.flops import n_params
from models.gpt import GPT
from probes.queries import dependencies
from probes.queries.labels import TASKS
from probes.queries.table import Queries
from probes.readout.activations import check_length, chosen_sites, names_in_line, read
from probes.readout.linear import Split
from probes.settings import ProbeConfig
from synth.store.files import atomic_path, atomic_write
from synth.world.vocabulary import World

COLUMNS = {
    "problem": "index of the problem in its stream (`probe`, split train for fit and validation, test for test)",
    "shard": "number of the safetensors file that holds the activations",
    "row": "row in that file",
    "parameter": "name of the parameter asked about, A",
    "other": "name of the second parameter, B (dep), or null",
    "slot": "slot of A in `synth.problem.arrays`",
    "label": "what the probe is to tell; LABELS",
    "needed": "whether A is needed for the question",
    "distance": "steps of dependency from the query to A along the shortest way, -1 where there is none",
    "tokens": "ids the model has read; the activation is the one at the last of them",
}


def tasks(config: ProbeConfig) -> list[str]:
    """Tasks whose queries are drawn."""
    return [task for task in TASKS if task in config.export.tasks]


def check(config: ProbeConfig, model: GPT, splits: Mapping[str, Split]) -> None:
    """Raises ValueError when the files cannot be made."""
    if find_spec("pyarrow") is None:
        raise ValueError(
            "task=export: parquet needs the package pyarrow; accepted: after pip install 'glasshouse[data]'"
        )
    chosen_sites(model, config.export.sites, "export.sites")
    for piece in (piece for pieces in splits.values() for piece in pieces):
        check_length(model, piece, config.model)


def run(config: ProbeConfig, model: GPT, world: World, splits: Mapping[str, Split], folder: Path) -> dict[str, Any]:
    """Writes the files; returns the content of summary.json."""
    sites, texts = chosen_sites(model, config.export.sites), config.export.texts
    for name in ("activations", "labels"):
        (folder / name).mkdir(exist_ok=True)
    written = []
    work = [(task, name, queries) for task, pieces in splits.items() for name, queries in pieces._asdict().items()]
    for task, name, queries in tqdm(work, desc="export", unit=" tables", disable=None):
        first = config.probe.queries.fit if name == "validation" else 0
        shard_Q = queries.row // texts
        for shard in np.unique(shard_Q):
            part = queries.take(np.flatnonzero(shard_Q == shard))
            states_SQC = read(model, part, names_in_line(part, world), sites)
            file = f"activations/{task}-{name}-{shard:05}.safetensors"
            save_file({site: states_SQC[s].contiguous() for s, site in enumerate(sites)}, folder / file)
            written.append(file)
        table = _rows(queries, world, shard_Q, first)
        written.append(_write_labels(table, folder / "labels" / f"{task}-{name}.parquet"))
    atomic_write(folder / "README.md", describe(config, world, sites, list(splits)))
    return {
        "stage": "export",
        "files": [*written, "README.md"],
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
        "distance": dependencies.distance(problems)[queries.row, queries.slot].tolist(),
        "tokens": [np.concatenate([queries.text(q), endings[q]]).tolist() for q in range(len(queries))],
    }


def _write_labels(columns: dict[str, list], path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = ("problem", "shard", "row", "slot", "label", "distance")
    types = {**dict.fromkeys(whole, pa.int64()), "needed": pa.bool_(), "tokens": pa.list_(pa.int32())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)
    return f"labels/{path.name}"


def describe(config: ProbeConfig, world: World, sites: list[str], names: list[str]) -> str:
    """The README of the folder."""
    meaning = []
    for name in names:
        task = TASKS[name]
        groups = ", ".join(f"{label} {word}" for label, word in enumerate(task.groups))
        if name == "value":
            groups = f"0 to {world.modulus - 1} the value, {world.modulus} unknown"
        meaning.append(f"{name}: {groups}")
    columns = "\n".join(f"- `{name}`: {text.replace('LABELS', '; '.join(meaning))}" for name, text in COLUMNS.items())
    return f"""# Activations and labels

Hidden states of one checkpoint at the last token of each query's input, and what a probe is to tell from them. The
queries are those of `python -m probes.run` with the settings in `config.yaml`; the checkpoint's hash is in
`manifest.json`.

`activations/TASK-PART-SHARD.safetensors` holds one tensor for each site, float16, [queries, channels]; sites are named
as in TransformerLens: {", ".join(f"`{site}`" for site in sites)}. PART is fit, validation (other problems of the train
split) or test (the test split: {config.data.spec().split_by} hash bins that training never sees).

`labels/TASK-PART.parquet` has the queries in the same order:

{columns}

```python
import numpy as np, pyarrow.parquet as pq
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

def part(name, task="{names[0]}", site="{sites[-1]}"):
    labels = pq.read_table(f"labels/{{task}}-{{name}}.parquet").to_pydict()
    files = [f"activations/{{task}}-{{name}}-{{shard:05}}.safetensors" for shard in sorted(set(labels["shard"]))]
    return np.concatenate([load_file(f)[site] for f in files]).astype(np.float32), np.array(labels["label"])

x, y = part("fit")
mean, scale = x.mean(0), x.std(0) + 1e-6
probe = LogisticRegression(C=1.0, max_iter=2000).fit((x - mean) / scale, y)
x, y = part("test")
print(probe.score((x - mean) / scale, y))
```
"""


def table(summary: Mapping[str, Any]) -> str:
    """What was written, for a person."""
    lines = [f"{task}: {', '.join(f'{n} {name}' for name, n in q.items())}" for task, q in summary["queries"].items()]
    return "\n".join([*lines, f"{len(summary['files'])} files, {len(summary['sites'])} sites"])
