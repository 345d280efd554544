"""Files of documents: the fixed keys of a record, shards and parquet that re-read equal, nothing half-written left."""

import json
import os

import numpy as np
import pytest

from synth.dataset import Source
from synth.documents import SOLUTION_SEGMENT, join
from synth.spec import preset
from synth.store import writers
from synth.store.shards import SHARD_ARRAYS
from tests.helpers.effort import effort
from tests.helpers.run_folders import files_of

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
    for record in writers.records(Source(spec, 0, "train"), 0, COUNT):
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
    a = [r["id"] for r in writers.records(Source(SPEC, 0, "train"), 0, 5)]
    b = [r["id"] for r in writers.records(Source(SPEC, 0, "test"), 0, 5)]
    c = [r["id"] for r in writers.records(Source(SPEC, 1, "train"), 3, 8)]
    d = [r["id"] for r in writers.records(Source(preset("med", retry_rate=0.31), 0, "train"), 0, 5)]
    assert len({*a, *b, *c, *d}) == 20
    assert a[3:] == [r["id"] for r in writers.records(Source(SPEC, 0, "train"), 3, 5)]


def test_lines_are_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "CHUNK", 7)  # several chunks, the last one short
    writers.write_lines(SPEC, 0, "test", 3, 3 + COUNT, 1, str(tmp_path / "x.jsonl"))
    assert read_lines(tmp_path / "x.jsonl") == list(writers.records(Source(SPEC, 0, "test"), 3, 3 + COUNT))
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def write_shards(folder, monkeypatch, spec=SPEC, shard=16, **how):
    monkeypatch.setattr(writers, "CHUNK", 7)
    writers.write_shards(spec, 5, "train", 10, 10 + COUNT, 1, f"{folder}/", shard=shard, **how)


def test_shards_read_back_equal(tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    write_shards(folder, monkeypatch)
    documents = Source(SPEC, 5, "train").documents(range(10, 10 + COUNT))
    shards = writers.read_shards(folder, verify=True)
    assert (len(shards), shards.spec) == (3, SPEC)
    together = join(list(shards))
    for name in SHARD_ARRAYS:
        assert np.array_equal(getattr(together, name), getattr(documents, name)), name
        assert getattr(shards[0], name).dtype == getattr(documents, name).dtype, name
        assert isinstance(getattr(shards[0], name), np.memmap)
    for mine, theirs in zip(together.problems, documents.problems, strict=True):
        assert np.array_equal(mine, theirs)
    assert list(shards.records()) == list(writers.records(Source(SPEC, 5, "train"), 10, 10 + COUNT))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["spec_hash"] == writers.spec_hash(SPEC)
    place = (manifest["seed"], manifest["split"], manifest["first"], manifest["documents"], manifest["tokens"])
    assert place == (5, "train", 10, COUNT, len(documents.tokens))
    assert [(e["first"], e["documents"]) for e in manifest["shards"]] == [(10, 16), (26, 16), (42, 8)]
    listed = set(manifest["sha256"]) | {"manifest.json"}
    for entry in manifest["shards"]:
        listed |= {f"{entry['name']}/{name}" for name in [*entry["sha256"], "shard.json"]}
    assert {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()} == listed
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    assert tuple(vocabulary) == SPEC.load_world().vocabulary
    floor = -documents.logp.sum() / documents.loss.sum()
    card = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert f"entropy of the solutions {floor:.4f} nats per token" in card
    for name in ("operations", "lengths", "answers"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_corrupted_shard_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    write_shards(folder, monkeypatch)
    path = folder / "shard-00001" / "tokens.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"shard-00001 is corrupted: tokens.npy has sha256"):
        writers.read_shards(folder, verify=True)
    path.write_bytes(data[:90])
    with pytest.raises(ValueError, match=r"shard-00001 is corrupted: tokens.npy cannot be read"):
        list(writers.read_shards(folder))
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001 is corrupted: tokens.npy is missing"):
        writers.read_shards(folder).verify()
    (folder / "manifest.json").rename(folder / "manifest.partial.json")
    with pytest.raises(ValueError, match="is not finished; accepted"):
        writers.read_shards(folder)
    write_shards(folder, monkeypatch)  # mends it
    writers.read_shards(folder, verify=True)


def test_another_dataset_in_the_folder_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    write_shards(folder, monkeypatch)
    before = files_of(folder)
    with pytest.raises(ValueError, match=r"was begun with retry_rate=0.3, not 0.2; accepted: the same"):
        write_shards(folder, monkeypatch, preset("med", retry_rate=0.2))
    with pytest.raises(ValueError, match=r"was begun with documents_per_shard=16, not 8"):
        write_shards(folder, monkeypatch, shard=8)
    monkeypatch.setattr(writers, "code_version", lambda: {"version": "x", "commit": None, "source": "other"})
    with pytest.raises(ValueError, match=r"was begun with synth="):
        write_shards(folder, monkeypatch)
    monkeypatch.undo()
    write_shards(folder, monkeypatch)  # the same again changes nothing
    assert files_of(folder) == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="exists already; accepted: a new folder"):
        write_shards(tmp_path / "mine", monkeypatch)


def test_the_stream_does_not_depend_on_workers_or_files(monkeypatch):
    monkeypatch.setattr(writers, "CHUNK", 6)
    parts = list(writers.stream(SPEC, 5, "train", 10, 30))
    assert [len(p) for p in parts] == [6, 6, 6, 2]
    assert np.array_equal(join(parts).tokens, Source(SPEC, 5, "train").documents(range(10, 30)).tokens)


def test_parquet_reads_back_equal(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    from synth.store.parquet import read_rows

    monkeypatch.setattr(writers, "CHUNK", 16)
    for n, spec in enumerate((SPEC, preset("hard", world="voyage", missing_premise=0.5, order="qp"))):
        path = tmp_path / f"{n}.parquet"
        writers.write_parquet(spec, 5, "train", 0, COUNT, 1, str(path))
        source = Source(spec, 5, "train")
        assert list(read_rows(path)) == list(writers.records(source, 0, COUNT))
        documents = source.documents(range(COUNT))
        for i, row in enumerate(parquet.read_table(path).column("tokens").to_pylist()):
            assert row == documents.tokens[documents.offsets[i] : documents.offsets[i + 1]].tolist()


def test_hugging_face_datasets_reads_the_folder_and_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    write_shards(tmp_path / "shards", monkeypatch)
    wanted = list(writers.records(Source(SPEC, 5, "train"), 10, 10 + COUNT))
    cache = {"cache_dir": str(tmp_path / "cache")}
    folder = datasets.load_dataset(str(tmp_path / "shards"), **cache)
    assert list(folder) == ["train"]
    assert folder["train"]["solution"] == [r["solution"] for r in wanted]
    card = pytest.importorskip("huggingface_hub").DatasetCard.load(tmp_path / "shards" / "README.md")
    declared = datasets.Features._from_yaml_list(card.data.to_dict()["dataset_info"]["features"])
    from synth.store.parquet import SCHEMA

    assert declared == folder["train"].features == datasets.Features.from_arrow_schema(SCHEMA)
    assert (card.data.license, card.data.size_categories, card.data.task_categories) == (
        "mit", ["n<1K"], ["text-generation"],
    )  # fmt: skip
    writers.write_parquet(SPEC, 5, "train", 10, 10 + COUNT, 1, str(tmp_path / "x.parquet"))
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "x.parquet"), **cache)["train"]
    assert rows["needed_order"] == [r["needed_order"] for r in wanted]
    assert [p["terms"] for p in rows[0]["parameters"]] == [p["terms"] for p in wanted[0]["parameters"]]


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    """A failure in the second chunk removes what the first one wrote."""
    monkeypatch.setattr(writers, "CHUNK", 5)
    whole = writers._lines

    def broken(job):
        if job[3] >= 5:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(writers, "_lines", broken)
    (tmp_path / ".out.jsonl.tmp").write_text("left by a process that was killed")
    with pytest.raises(KeyboardInterrupt):
        writers.write_lines(SPEC, 0, "train", 0, 12, 1, str(tmp_path / "out.jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_solution_segment_is_what_is_exported():
    source = Source(SPEC, 0, "train")
    documents = source.documents([4])
    record = writers.record(source, documents, 0, 4)
    assert record["solution"] == source.world.decode(documents.tokens[documents.segment == SOLUTION_SEGMENT])
    assert record["id"].endswith("-0-data-train-4")


@pytest.mark.parametrize("form", ["shards", "lines"])
def test_of_writers_at_once_one_makes_it_and_the_others_say_so(tmp_path, form):
    """Four forks write the same; the data are whole, and nothing else is left."""
    write = {"shards": writers.write_shards, "lines": writers.write_lines}[form]
    for turn in range(effort(3, 40)):
        out, children = tmp_path / f"{turn}{'.jsonl' if form == 'lines' else ''}", []
        for _ in range(4):
            read, end = os.pipe()
            if (pid := os.fork()) == 0:
                try:
                    write(SPEC, 0, "train", 0, 6, 1, str(out), **({"parquet": False} if form == "shards" else {}))
                except ValueError as error:
                    os.write(end, str(error).encode())
                except BaseException as error:
                    os.write(end, f"BUG {error!r}".encode())
                os._exit(0)
            os.close(end)
            children.append((pid, read))
        said = []
        for pid, read in children:
            os.waitpid(pid, 0)
            with os.fdopen(read) as pipe:
                said.append(pipe.read())
        allowed = ("is being written by another process", "exists already")
        assert all(not text or any(words in text for words in allowed) for text in said) and "" in said, said
        if form == "shards":
            assert len(list(writers.read_shards(out, verify=True).records())) == 6
        else:
            assert len(out.read_text().splitlines()) == 6
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".lock"))]
