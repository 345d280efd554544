"""Records as parquet (extra `data`): one row per problem, nested fields as lists, and the tokens of the document.

`datasets.load_dataset("parquet", data_files="med.parquet")` and pandas read the files; so does `read_rows`, which gives
back the records as they were.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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


def table(records: Sequence[dict], tokens: Sequence[Any]) -> pa.Table:
    """Records and the token ids of their documents as a table of `SCHEMA`."""
    rows = [{"world": "english"} | r | {"tokens": t} for r, t in zip(records, tokens, strict=True)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


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
