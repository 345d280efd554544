"""Files of documents: the fixed keys of a record, shards and parquet that re-read equal, nothing half-written left."""

import hashlib
import json

import numpy as np
import pytest

from synth import export
from synth.dataset import Source
from synth.document import STEP_SEGMENT
from synth.spec import Spec, preset

# design, section 6: these keys are a promise to users
RECORD = [
    "id", "problem", "solution", "answer", "ops", "edges", "modulus", "split_bin", "order", "query", "needed_order",
    "layers", "parameters", "missing", "mistakes",
]  # fmt: skip
PARAMETER = {"name", "kind", "value", "needed", "constant", "combine_constant", "combine", "terms"}
SPEC = preset("med", retry_rate=0.3)
COUNT = 40


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("spec", [SPEC, preset("tiny"), preset("hard", order="qp", retry_rate=0.3, retry_kind="miss")])
def test_record_has_exactly_the_fixed_keys(spec):
    mistakes = 0
    for record in export.records(Source(spec, 0, "train"), 0, COUNT):
        assert list(record) == RECORD
        assert (
            type(record["answer"]) is type(record["ops"]) is type(record["edges"]) is type(record["split_bin"]) is int
        )
        assert record["modulus"] == spec.modulus
        assert record["order"] == spec.order
        for layer in record["layers"]:
            assert set(layer) == {"category", "items"}
        for p in record["parameters"]:
            assert set(p) == PARAMETER
            assert p["kind"] in ("instance", "abstract")
            assert type(p["needed"]) is bool
            assert p["combine_constant"] in (None, "add", "mul")
            assert p["combine"] in (None, "sum", "difference")
        for m in record["mistakes"]:
            assert set(m) == {"step", "kind", "parameter", "corrected"}
            assert m["corrected"] is True
            assert m["kind"] == spec.retry_kind
            sentence = record["solution"].split(" Define ")[1 + m["step"]]
            assert sentence == f"{m['parameter']} as BACK."
        assert record["solution"].count(" BACK.") == len(record["mistakes"])
        mistakes += len(record["mistakes"])
        assert json.loads(json.dumps(record)) == record
    assert (mistakes > 0) == (spec.retry_rate > 0)


def test_ids_name_the_stream():
    a = [r["id"] for r in export.records(Source(SPEC, 0, "train"), 0, 5)]
    b = [r["id"] for r in export.records(Source(SPEC, 0, "test"), 0, 5)]
    c = [r["id"] for r in export.records(Source(SPEC, 1, "train"), 3, 8)]
    d = [r["id"] for r in export.records(Source(preset("med", retry_rate=0.31), 0, "train"), 0, 5)]
    assert len({*a, *b, *c, *d}) == 20
    assert a[3:] == [r["id"] for r in export.records(Source(SPEC, 0, "train"), 3, 5)]


def test_lines_are_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "CHUNK", 7)  # several chunks, the last one short
    export.write_lines(SPEC, 0, "test", 3, 3 + COUNT, 1, str(tmp_path / "x.jsonl"))
    assert read_lines(tmp_path / "x.jsonl") == list(export.records(Source(SPEC, 0, "test"), 3, 3 + COUNT))
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_shards_read_back_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "CHUNK", 16)
    folder = tmp_path / "shards"
    export.write_shards(SPEC, 5, "train", 10, 10 + COUNT, 1, f"{folder}/")
    documents = Source(SPEC, 5, "train").documents(range(10, 10 + COUNT))
    for name in (*export.SHARD_ARRAYS, "offsets", "prompt"):
        stored = np.load(folder / f"{name}.npy", mmap_mode="r")
        assert np.array_equal(stored, getattr(documents, name)), name
        assert stored.dtype == getattr(documents, name).dtype, name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert Spec(**manifest["spec"]) == SPEC
    place = (manifest["seed"], manifest["split"], manifest["first"], manifest["documents"], manifest["tokens"])
    assert place == (5, "train", 10, COUNT, len(documents.tokens))
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {f.name for f in folder.iterdir()} == {*manifest["sha256"], "manifest.json", "README.md"}
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    assert tuple(vocabulary) == SPEC.load_world().vocabulary
    floor = -documents.logp.sum() / documents.loss.sum()
    assert f"entropy of the solutions {floor:.4f} nats per token" in (folder / "README.md").read_text(encoding="utf-8")


def test_parquet_reads_back_equal(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "CHUNK", 16)
    export.write_parquet(SPEC, 5, "train", 0, COUNT, 1, str(tmp_path / "x.parquet"))
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    nested = ("needed_order", "layers", "parameters", "mistakes")
    read = [{k: json.loads(v) if k in nested else v for k, v in row.items()} for row in rows]
    assert read == list(export.records(Source(SPEC, 5, "train"), 0, COUNT))


@pytest.mark.parametrize("write", [export.write_lines, export.write_shards])
def test_nothing_half_written_is_left(tmp_path, monkeypatch, write):
    """A failure in the second chunk removes what the first one wrote."""
    monkeypatch.setattr(export, "CHUNK", 5)
    for name in ("_lines", "_arrays"):
        whole = getattr(export, name)

        def broken(job, whole=whole):
            if job[3] >= 5:
                raise KeyboardInterrupt
            return whole(job)

        monkeypatch.setattr(export, name, broken)
    with pytest.raises(KeyboardInterrupt):
        write(SPEC, 0, "train", 0, 12, 1, str(tmp_path / "out.jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_solution_segment_is_what_is_exported():
    source = Source(SPEC, 0, "train")
    documents = source.documents([4])
    record = export.record(source, documents, 0, 4)
    assert record["solution"] == source.world.decode(documents.tokens[documents.segment == STEP_SEGMENT])
    assert record["id"].endswith("-0-data-train-4")
