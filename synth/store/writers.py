"""Documents as files: JSON lines, parquet, or a folder of token shards with a manifest and a data card.

A file is written under a temporary name and renamed at the end. A folder is written shard by shard, each complete or
absent; begun again with the same settings, it goes on after the shards that are there and ends byte for byte the same.

    write_shards(preset("med"), 0, "train", 0, 100_000, workers=2, out="med/"); read_shards("med/", verify=True)
"""

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from synth.dataset import Source
from synth.documents import Documents, join
from synth.exit_codes import interrupts_ignored
from synth.spec import Spec
from synth.store import data_card, shards
from synth.store.columns import spec_hash
from synth.store.encodings import PHRASE, encoding
from synth.store.files import KEPT, atomic_path, sealed, sha256, unsealed, write_json
from synth.store.records import CHUNK, lines, record, records
from synth.store.shards import Shards, read_shards
from synth.world.vocabulary import path_of

__all__ = ["read_shards", "record", "records", "spec_hash", "stream", "write_lines", "write_parquet", "write_shards"]

SHARD = 10_000  # documents in a shard
WAITING = 4  # chunks made ahead for each worker


class Chunk(NamedTuple):
    """Documents start..stop-1 of a stream, made at a time."""

    spec: Spec
    seed: int
    split: str
    start: int
    stop: int

    def source(self) -> Source:
        """The stream."""
        return Source(self.spec, self.seed, self.split)


def _chunks(spec: Spec, seed: int, split: str, start: int, stop: int) -> list[Chunk]:
    return [Chunk(spec, seed, split, a, min(a + CHUNK, stop)) for a in range(start, stop, CHUNK)]


def _lines(chunk: Chunk) -> str:
    source = chunk.source()
    return "\n".join([*lines(source, source.documents(range(chunk.start, chunk.stop)), chunk.start), ""])


def _documents(chunk: Chunk, tokens: str = PHRASE, parquet: bool = False) -> tuple[Documents, Any]:
    """A chunk as documents in the wanted tokens, and with `parquet` as a table of records."""
    source = chunk.source()
    documents = source.documents(range(chunk.start, chunk.stop))
    encoded = encoding(tokens, source.world).documents(documents)
    if not parquet:
        return encoded, None
    from synth.store.parquet import table

    return encoded, table(source, documents, chunk.start, encoded)


def _map(function: Callable[[Chunk], Any], chunks: list[Chunk], workers: int) -> Iterator:
    """`function` of every chunk, in order, in `workers` processes; a progress bar when it takes long."""
    from synth.kernel.progress import Progress

    bar = Progress(total=sum(c.stop - c.start for c in chunks), desc="generated", unit=" problems", delay=2)
    if workers == 1:
        for chunk in chunks:
            yield function(chunk)
            bar.update(chunk.stop - chunk.start)
    else:
        with interrupts_ignored():
            started = get_context("spawn").Pool(workers)
        with started as pool:
            waiting: deque = deque()  # bounded, so that a slow disk does not fill the memory
            for chunk in [*chunks, *[None] * (workers * WAITING)]:
                if chunk is not None:
                    waiting.append((chunk, pool.apply_async(function, (chunk,))))
                if waiting and (chunk is None or len(waiting) > workers * WAITING):
                    first, result = waiting.popleft()
                    yield result.get()
                    bar.update(first.stop - first.start)
    bar.close()


def stream(spec: Spec, seed: int, split: str, start: int, stop: int, workers: int = 1) -> Iterator[Documents]:
    """Documents start..stop-1 in order, some hundreds at a time, made by `workers` processes; no files, no state."""
    return (documents for documents, _ in _map(_documents, _chunks(spec, seed, split, start, stop), workers))


def write_lines(spec: Spec, seed: int, split: str, start: int, stop: int, workers: int, out: str) -> None:
    """JSON lines to a file, or to standard output when `out` is "-"."""
    chunks = _map(_lines, _chunks(spec, seed, split, start, stop), workers)
    if out == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # records are, whatever the locale
        sys.stdout.writelines(chunks)
        return
    with _replacing(Path(out)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(chunks)


def write_parquet(spec: Spec, seed: int, split: str, start: int, stop: int, workers: int, out: str) -> None:
    """The same records and their tokens as one parquet file (extra `data`), nested fields as lists."""
    import pyarrow.parquet as pq

    from synth.store.parquet import SCHEMA

    work = partial(_documents, parquet=True)
    with _replacing(Path(out)) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for _, rows in _map(work, _chunks(spec, seed, split, start, stop), workers):
            writer.write_table(rows)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside `target`, renamed to it on success and removed on failure. Raises ValueError while
    another process writes it, or when one has written it meanwhile."""
    lock = target.with_name(f".{target.name[:KEPT]}.lock")
    with _locked(lock, str(target)):
        try:
            if target.exists():
                raise ValueError(f"--out {target} exists already; accepted: a path that does not exist yet")
            own = re.compile(rf"\.{re.escape(target.name[:KEPT])}\.([\w-]+\.)?tmp")
            for left in target.parent.iterdir():  # by a process that was killed
                if own.fullmatch(left.name):
                    left.unlink()
            with atomic_path(target) as temporary:
                yield temporary
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold a lock on a file or a folder. Raises ValueError when another process holds it."""
    file = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"--out {name} is being written by another process; accepted: another path") from None
    finally:
        os.close(file)


@lru_cache(maxsize=1)
def code_version() -> dict[str, str | None]:
    """What made the documents: the package's version, the commit (where there is one), a digest of synth's files."""
    folder = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".json"):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    try:
        package = version("glasshouse")
    except PackageNotFoundError:
        package = None
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"version": package, "commit": commit, "source": digest.hexdigest()}


def write_shards(
    spec: Spec, seed: int, split: str, start: int, stop: int, workers: int, out: str, tokens: str = PHRASE,
    shard: int = SHARD, parquet: bool | None = None,
) -> None:  # fmt: skip
    """Token shards of `shard` documents each, with a manifest and a data card; an unfinished folder is continued.
    parquet: also write the records of each shard as parquet, for `datasets.load_dataset`; None: when pyarrow is there.
    In other tokens than the world's own, the folder `tokenizer` holds their tokenizer and the manifest its markers.
    Raises ValueError when the folder holds something else."""
    folder = Path(out)
    written = encoding(tokens, spec.load_world())
    plan = {
        "spec": dataclasses.asdict(spec), "spec_hash": spec_hash(spec), "world": spec.load_world().name, "seed": seed,
        "split": split, "first": start, "documents": stop - start, "documents_per_shard": shard,
        "parquet": find_spec("pyarrow") is not None if parquet is None else parquet, "code": code_version(),
    }  # fmt: skip
    if spec.world.endswith(".json"):
        plan["spec"]["world"] = shards.WORLD_FILE
    if tokens != PHRASE:
        plan["encoding"] = {"tokens": tokens, "fingerprint": written.fingerprint(), "markers": written.named()}
    begin(folder, plan, parquet)
    if (folder / shards.MANIFEST).is_file():
        (folder / shards.PARTIAL).unlink(missing_ok=True)
        return
    with _locked(folder, out):
        if (folder / shards.MANIFEST).is_file():  # another process has finished it meanwhile
            return
        for left in folder.glob(".*.tmp"):  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if tokens != PHRASE:
            written.tokenizer.save_pretrained(folder / "tokenizer")
        if spec.world.endswith(".json"):
            shutil.copyfile(path_of(spec.world), folder / shards.WORLD_FILE)
        write_json(folder / "vocabulary.json", written.vocabulary())
        entries = _write_missing(folder, spec, plan, workers, tokens)
        manifest = plan | {"tokens": sum(e["tokens"] for e in entries), "shards": entries}
        data_card.write(folder, manifest, Shards(folder, manifest))
        files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
        names = [name for name in files if not name.startswith("shard-") and name != shards.PARTIAL]
        manifest["sha256"] = {name: sha256(folder / name) for name in names}
        write_json(folder / shards.MANIFEST, sealed(manifest))
        (folder / shards.PARTIAL).unlink(missing_ok=True)


def begin(folder: Path, plan: dict, parquet: bool | None) -> None:
    """Make the folder for a plan, or find that it holds the same one, begun or finished; ValueError otherwise."""
    if not folder.exists():  # made under another name, so that a folder without a plan is never one of ours
        try:
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                write_json(temporary / shards.PARTIAL, sealed(plan))
        except OSError:
            if not folder.is_dir():  # else another process has made it meanwhile
                raise
    found, there = None, {}
    while there == {}:
        found = next((folder / name for name in (shards.MANIFEST, shards.PARTIAL) if (folder / name).is_file()), None)
        if found is None:
            raise ValueError(f"--out {folder} exists already; accepted: a new folder, or one that was begun with --out")
        with suppress(FileNotFoundError):  # the plan becomes the manifest when another process finishes
            there = unsealed(found)
    if parquet is None and plan["parquet"]:  # without pyarrow it cannot go on with parquet, with it it can without
        plan["parquet"] = there.get("parquet", plan["parquet"])
    for key, new in json.loads(json.dumps(plan)).items():
        old = there.get(key)
        if key == "code":
            key, old, new = "synth", (old or {}).get("source"), new["source"]
        if key == "spec" and isinstance(old, dict) and old != new:
            key = next(k for k in {**new, **old} if old.get(k) != new.get(k))
            old, new = old.get(key), new.get(key)
        if old != new:
            begun = f"--out {folder} was begun with {key}={old}, not {new}"
            raise ValueError(f"{begun}; accepted: the same, or a new folder")


def _write_missing(folder: Path, spec: Spec, plan: dict, workers: int, tokens: str) -> list[dict]:
    """Write the shards that are not there, or not as they were written; the manifest's entries of all of them."""
    first, stop, size = plan["first"], plan["first"] + plan["documents"], plan["documents_per_shard"]
    spans = {folder / f"shard-{n:05d}": range(a, min(a + size, stop)) for n, a in enumerate(range(first, stop, size))}
    entries = {}
    for path in spans:
        try:
            entry = unsealed(path / "shard.json")
            shards.check_shard(path, entry["sha256"])
            entries[path] = entry
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    todo = {
        path: _chunks(spec, plan["seed"], plan["split"], span.start, span.stop)
        for path, span in spans.items()
        if path not in entries
    }
    work = partial(_documents, tokens=tokens, parquet=plan["parquet"])
    made = _map(work, [chunk for chunks in todo.values() for chunk in chunks], workers)
    for path, chunks in todo.items():
        documents, tables = zip(*(next(made) for _ in chunks), strict=True)
        table = None
        if plan["parquet"]:
            import pyarrow as pa

            table = pa.concat_tables(tables)
        entries[path] = shards.write_shard(path, spans[path].start, join(list(documents)), table)
    return [entries[path] for path in spans]
