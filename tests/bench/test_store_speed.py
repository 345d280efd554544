"""Records written, judged and audited per second on one core, beside the obvious way to do each. Try: `make bench`.

Peers of the writers: one record after another from its document, `json.dumps` and `pyarrow.Table.from_pylist`
(`tests/helpers/plain_records.py`), whose bytes the unit tests compare with ours; the documents are made inside on both
sides. Of the checks: `json.loads` of the same lines, the least that reading them in Python costs.
"""

import io
import json

import numpy as np
import pytest

from synth import audit, check
from synth.dataset import Source
from synth.spec import preset
from synth.store.columns import spec_hash
from synth.store.records import lines
from tests.bench.paired_timing import line, ratios
from tests.helpers.plain_records import record

SOURCE = Source(preset("med"), 0)
MANY, FEW = 1000, 100


def plain(count: int) -> list[dict]:
    documents, name = SOURCE.documents(range(count)), spec_hash(SOURCE.spec)
    return [record(SOURCE, documents, i, i, name) for i in range(count)]


def lines_made(count: int = MANY) -> int:
    lines(SOURCE, SOURCE.documents(range(count)), 0)
    return count


def plain_lines(count: int = FEW) -> int:
    return len([json.dumps(r, ensure_ascii=False) for r in plain(count)])


def test_json_lines_per_second():
    found = ratios(lines_made, plain_lines, 5)
    print("\n" + line("JSON lines, med (peer: json.dumps of each record)", "records", *found))


def test_parquet_records_per_second():
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from synth.store.parquet import SCHEMA, table

    def ours() -> int:
        documents = SOURCE.documents(range(MANY))
        pq.write_table(table(SOURCE, documents, 0, documents), io.BytesIO())
        return MANY

    def theirs() -> int:
        documents = SOURCE.documents(range(FEW))
        tokens = np.split(documents.tokens, documents.offsets[1:-1])
        rows = [{"world": "english"} | r | {"tokens": t} for r, t in zip(plain(FEW), tokens, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), io.BytesIO())
        return FEW

    print("\n" + line("parquet, med (peer: pyarrow of each record)", "records", *ratios(ours, theirs, 5)))


@pytest.mark.parametrize("module", [check, audit])
def test_records_judged_per_second(module, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    texts = lines(SOURCE, SOURCE.documents(range(MANY)), 0)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")

    def ours() -> int:
        with pytest.raises(SystemExit) as ended:
            module.main([str(path)])
        assert ended.value.code == 0
        return MANY

    def theirs() -> int:
        return len([json.loads(text) for text in texts])

    found = ratios(ours, theirs, 5)
    capsys.readouterr()
    with capsys.disabled():
        print("\n" + line(f"{module.__name__}, med (peer: reading the lines with json.loads)", "records", *found))
