"""Records made column by column: JSON lines and parquet equal, to the byte, those of one plain record after another."""

import io
import json

import pytest

from synth.dataset import Source
from synth.problem.records import COMBINES, CONSTANT_OPS
from synth.spec import preset
from synth.store.records import lines, record
from synth.world import vocabulary
from tests.helpers import plain_records

COUNT, FIRST = 40, 7
MIXED = {"none": 1.0, "success2+failure1": 1.0, "attempt+feedback": 1.0, "wrong_hint": 1.0}
SETTINGS = {
    "tiny": ("tiny", {}), "question first": ("hard", {"order": "qp", "retry_rate": 0.3, "retry_kind": "miss"}),
    "slips": ("med", {"retry_rate": 0.4, "retry_kind": "slip", "uncorrected": 0.5}),
    "missing": ("hard", {"world": "voyage", "missing_premise": 0.6, "retry_rate": 0.2}),
    "contexts": ("tiny", {"contexts": MIXED, "retry_rate": 0.2}), "largest": ("med", {"modulus": 997}),
}  # fmt: skip


@pytest.fixture(params=[*SETTINGS, "names with quotation marks"])
def made(request, tmp_path):
    """(source, its documents from `FIRST` on, their plain records)"""
    if request.param in SETTINGS:
        base, settings = SETTINGS[request.param]
    else:  # every character that JSON writes otherwise, or not in ASCII
        data = json.loads((vocabulary.FOLDER / "voyage.json").read_text(encoding="utf-8"))
        for names in [names for group in data["categorisations"] for layer in group["items"] for names in layer]:
            names[::2] = [f'{name} "é\\日' for name in names[::2]]
        path = tmp_path / "quoted.json"
        path.write_text(json.dumps(data | {"name": 'a "world"'}), encoding="utf-8")
        base, settings = "med", vocabulary.sizes_of(str(path)) | {"world": str(path), "retry_rate": 0.3}
    source = Source(preset(base, **settings), 3, "train")
    documents = source.documents(range(FIRST, FIRST + COUNT))
    return source, documents, [plain_records.record(source, documents, i, FIRST + i) for i in range(COUNT)]


def test_lines_are_those_of_plain_records(made):
    source, documents, plain = made
    assert lines(source, documents, FIRST) == [json.dumps(r, ensure_ascii=False) for r in plain]
    assert record(source, documents, 5, FIRST + 5) == plain[5]


def test_parquet_is_that_of_plain_records(made):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from synth.store.parquet import SCHEMA, table

    source, documents, plain = made
    rows = [
        {"world": "english"} | r | {"tokens": documents.tokens[a:b]}
        for r, a, b in zip(plain, documents.offsets, documents.offsets[1:], strict=False)
    ]
    files = [io.BytesIO(), io.BytesIO()]
    pq.write_table(table(source, documents, FIRST, documents), files[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), files[1])
    assert files[0].getvalue() == files[1].getvalue()


def test_every_kind_of_parameter_is_among_them():
    """What the two tests above compare has every constant, combination, absent sentence and mistake that there is."""
    found = set()
    for base, settings in SETTINGS.values():
        source = Source(preset(base, **settings), 3, "train")
        for r in map(json.loads, lines(source, source.documents(range(FIRST, FIRST + COUNT)), FIRST)):
            found |= {(p["kind"], p["combine"], p["combine_constant"], len(p["terms"]) > 0) for p in r["parameters"]}
            found |= {("corrected", m["corrected"]) for m in r["mistakes"]}
    assert {("instance", c, o, True) for c in COMBINES for o in CONSTANT_OPS} <= found
    assert {("abstract", "sum", None, True), ("abstract", None, None, False)} <= found
    assert {("corrected", True), ("corrected", False)} <= found
