"""Records as parquet (extra `data`): one row per problem, nested fields as lists, and the tokens of the document.

`datasets.load_dataset("parquet", data_files="med.parquet")` and pandas read the files; so does `read_rows`, which gives
back the records as they were.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synth.dataset import Source
from synth.documents import Documents
from synth.problem import arrays as A
from synth.problem.arrays import INSTANCES, Problems
from synth.problem.records import COMBINES, CONSTANT_OPS
from synth.store.columns import Columns, columns

_TEXT, _TEXTS, _NUMBER, _FLAG = pa.string(), pa.list_(pa.string()), pa.int64(), pa.bool_()
_LAYER = pa.struct({"category": _TEXT, "items": _TEXTS})
_PARAMETER = pa.struct({
    "name": _TEXT, "kind": _TEXT, "value": _NUMBER, "needed": _FLAG, "constant": _NUMBER, "combine_constant": _TEXT,
    "combine": _TEXT, "terms": pa.list_(_TEXTS), "given": _FLAG,
})  # fmt: skip
_MISTAKE = pa.struct({"step": _NUMBER, "kind": _TEXT, "parameter": _TEXT, "corrected": _FLAG})
SCHEMA = pa.schema({
    "id": _TEXT, "problem": _TEXT, "solution": _TEXT, "answer": _NUMBER, "ops": _NUMBER, "edges": _NUMBER,
    "modulus": _NUMBER, "split_bin": _NUMBER, "order": _TEXT, "query": _TEXT, "needed_order": _TEXTS,
    "layers": pa.list_(_LAYER), "parameters": pa.list_(_PARAMETER), "missing": _TEXT, "mistakes": pa.list_(_MISTAKE),
    "world": _TEXT, "context": _TEXT, "context_recipe": _TEXT, "tokens": pa.list_(pa.int32()),
})  # fmt: skip


def table(source: Source, documents: Documents, first: int, encoded: Documents) -> pa.Table:
    """Documents that follow each other in a stream from index `first` on as a table of `SCHEMA`. encoded: the same in
    the tokens that it is to hold."""
    c, p, at = columns(source, documents, first), documents.problems, np.arange(len(documents))
    names, words, missing = pa.array(c.names, _TEXT), pa.array(c.words, _TEXT), p.scalars[:, A.MISSING]
    layers = (words.take(pa.array(c.categories)), _lists(c.widths, words.take(pa.array(c.items))))
    marks = [entry for found in c.mistakes for entry in found]
    steps, places, taken_back = zip(*marks, strict=True) if marks else ((), (), ())
    named = names.take(pa.array(places, pa.int64()))
    mistakes = (steps, [source.spec.retry_kind] * len(marks), named, taken_back)
    values = {
        "id": c.ids, "problem": c.problem, "solution": c.solution, "answer": _numbers(p.answer),
        "ops": p.scalars[:, A.OPS], "edges": p.scalars[:, A.EDGES], "modulus": [source.world.modulus] * len(at),
        "split_bin": p.scalars[:, A.SPLIT_BIN], "order": [source.spec.order] * len(at),
        "query": names.take(pa.array(c.place[at, p.query])),
        "needed_order": _lists(c.needed, names.take(pa.array(c.needed_order))),
        "layers": _lists(c.layers, _structs(_LAYER, layers)), "parameters": _parameters(c, p, names),
        "missing": names.take(pa.array(c.place[at, missing], mask=missing < 0)),
        "mistakes": _lists(np.array([*map(len, c.mistakes)]), _structs(_MISTAKE, mistakes)),
        "world": [source.world.name] * len(at), "context": c.context or [None] * len(at),
        "context_recipe": c.recipes or [None] * len(at),
        "tokens": _lists(np.diff(encoded.offsets), pa.array(encoded.tokens)),
    }  # fmt: skip
    return pa.table([_array(values[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _numbers(values: np.ndarray) -> pa.Array:
    """Numbers, null where they are negative."""
    return pa.array(values, pa.int64(), mask=values < 0)


def _lists(counts: np.ndarray, values: pa.Array) -> pa.ListArray:
    """Flat values as lists of `counts` entries."""
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(counts)), pa.int32()), values)


def _structs(kind: pa.StructType, values: Sequence[Any]) -> pa.StructArray:
    fields = list(kind)
    arrays = [_array(column, field.type) for column, field in zip(values, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _parameters(c: Columns, p: Problems, names: pa.Array) -> pa.ListArray:
    at, factors, kinds = (c.row, c.slot), c.factors.reshape(len(c.slot), -1, 2), pa.array(["instance", "abstract"])
    there = factors >= 0
    some = there.any(axis=2)
    terms = _lists(there.sum(axis=2)[some], names.take(pa.array(factors[there])))
    values = (
        names.take(pa.array(c.place[at])), kinds.take(pa.array((c.slot >= INSTANCES) * 1)), _numbers(p.value[at]),
        p.needed[at] > 0, _numbers(p.constant[at]), pa.array(CONSTANT_OPS).take(pa.array(p.constant_op[at])),
        pa.array(COMBINES).take(pa.array(p.combine[at])), _lists(some.sum(axis=1), terms),
        pa.array(np.zeros(len(c.slot), bool), mask=~c.absent),
    )  # fmt: skip
    return _lists(c.parameters, _structs(_PARAMETER, values))


def read_rows(path: Path) -> Iterator[dict]:
    """The records of a parquet file, without the tokens. Raises ValueError when it cannot be read."""
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=500):
            for row in batch.to_pylist():
                yield _record(row)
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); accepted: parquet written by synth.generate") from None


def _record(row: dict) -> dict:
    """A row without what only the table has: the tokens, the default world, marks that are not there."""
    row.pop("tokens")
    if row["world"] == "english":
        row.pop("world")
    for key in ("context", "context_recipe"):
        if row[key] is None:
            row.pop(key)
    for p in row["parameters"]:
        if p["given"] is None:
            p.pop("given")
    return row
