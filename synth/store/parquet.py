"""Records as parquet (extra `data`): one row per problem, nested fields as lists, and the tokens of the document.

`datasets.load_dataset("parquet", data_files="med.parquet")` and pandas read the files; so does `read_rows`, which gives
back the records as they were.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_TEXTS = pa.list_(pa.string())
_PARAMETER = pa.struct(
    [
        ("name", pa.string()), ("kind", pa.string()), ("value", pa.int64()), ("needed", pa.bool_()),
        ("constant", pa.int64()), ("combine_constant", pa.string()), ("combine", pa.string()),
        ("terms", pa.list_(_TEXTS)), ("given", pa.bool_()),
    ]
)  # fmt: skip
_MISTAKE = pa.struct(
    [("step", pa.int64()), ("kind", pa.string()), ("parameter", pa.string()), ("corrected", pa.bool_())]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("problem", pa.string()), ("solution", pa.string()), ("answer", pa.int64()),
        ("ops", pa.int64()), ("edges", pa.int64()), ("modulus", pa.int64()), ("split_bin", pa.int64()),
        ("order", pa.string()), ("query", pa.string()), ("needed_order", _TEXTS),
        ("layers", pa.list_(pa.struct([("category", pa.string()), ("items", _TEXTS)]))),
        ("parameters", pa.list_(_PARAMETER)), ("missing", pa.string()), ("mistakes", pa.list_(_MISTAKE)),
        ("world", pa.string()), ("context", pa.string()), ("context_recipe", pa.string()),
        ("tokens", pa.list_(pa.int32())),
    ]
)  # fmt: skip


def table(records: Sequence[dict], tokens: Sequence[Any]) -> pa.Table:
    """Records and the token ids of their documents as a table of `SCHEMA`."""
    rows = [{"world": "english"} | r | {"tokens": t} for r, t in zip(records, tokens, strict=True)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_table(rows: pa.Table, path: Path) -> None:
    """Write one parquet file."""
    pq.write_table(rows, path)


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
