"""Token shards: folders of `.npy` arrays that are complete or absent, with the hashes that prove them.

    DIR/manifest.json            spec, seed, split, index range, code version; name, counts and SHA-256 of every shard
    DIR/shard-00000/tokens.npy   and one file for each other array of `synth.documents.Documents`, by memory map
    DIR/shard-00000/problems.npy, records.parquet     the truth of the same problems, as arrays and as records

Try: `shards = read_shards("med/", verify=True); documents = shards[0]; documents.prompt_tokens(3)`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from synth.dataset import Source
from synth.documents import Documents
from synth.problem.arrays import Problems, empty
from synth.spec import Spec
from synth.store.files import atomic_path, sealed, sha256, sync, unsealed, write_json
from synth.store.records import CHUNK, lines

SHARD_ARRAYS = Documents._fields[:-1]  # all but the problems
MANIFEST, PARTIAL, WORLD_FILE, PARQUET = "manifest.json", "manifest.partial.json", "world.json", "records.parquet"
PROBLEM = np.dtype([(name, np.int16, a.shape[1:]) for name, a in zip(Problems._fields, empty(1), strict=True)])


def write_shard(folder: Path, first: int, documents: Documents, table: Any) -> dict:
    """Write one shard so that `folder` is complete or absent; returns its entry of the manifest. first: index of its
    first document in the stream; table: the same documents as a table of `synth.store.parquet`, or None."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name in SHARD_ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(documents, name))
        packed, most = np.empty(len(documents), dtype=PROBLEM), np.iinfo(np.int16).max
        for name, array in zip(Problems._fields, documents.problems, strict=True):
            if array.max(initial=0) > most:
                raise ValueError(f"{name} has a number above {most}; accepted: a world of fewer names")
            packed[name] = array
        np.save(temporary / "problems.npy", packed)
        if table is not None:
            import pyarrow.parquet as pq

            pq.write_table(table, temporary / PARQUET)
        entry = {"name": folder.name, "first": first, "documents": len(documents), "tokens": len(documents.tokens)}
        entry["sha256"] = {f.name: sha256(f) for f in sorted(temporary.iterdir())}
        write_json(temporary / "shard.json", sealed(entry))
        for file in temporary.iterdir():
            sync(file)
    return entry


def check_shard(folder: Path, hashes: dict[str, str]) -> None:
    """Raise ValueError naming the first file of a shard that is missing or not what was written."""
    for name, digest in hashes.items():
        if not (folder / name).is_file():
            raise ValueError(f"shard {folder} is corrupted: {name} is missing; accepted: the files of its manifest")
        if (found := sha256(folder / name)) != digest:
            raise ValueError(f"shard {folder} is corrupted: {name} has sha256 {found[:12]}..., not {digest[:12]}...")


def read_shard(folder: Path) -> Documents:
    """The documents of one shard by memory map (the problems in memory). Raises ValueError naming a broken file."""
    arrays = {}
    for name in (*SHARD_ARRAYS, "problems"):
        try:
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"shard {folder} is corrupted: {name}.npy cannot be read ({error})") from None
    packed = arrays.pop("problems")
    if packed.dtype != PROBLEM:
        raise ValueError(f"shard {folder} was written by another version of the code; accepted: shards of this one")
    problems = Problems(*(packed[name].astype(np.int32) for name in Problems._fields))
    return Documents(**arrays, problems=problems)


class Shards:
    """A finished folder of token shards; `shards[i]` are the documents of shard i, read when asked for."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest = folder, manifest
        settings = dict(manifest["spec"])
        if settings["world"] == WORLD_FILE:
            settings["world"] = str(folder / WORLD_FILE)
        self.spec = Spec(**settings)

    def __len__(self) -> int:
        return len(self.manifest["shards"])

    def __getitem__(self, i: int) -> Documents:
        return read_shard(self.folder / self.manifest["shards"][i]["name"])

    def __iter__(self) -> Iterator[Documents]:
        return (self[i] for i in range(len(self)))

    def verify(self) -> None:
        """Raise ValueError naming the first shard or file that is not what was written."""
        check_shard(self.folder, self.manifest["sha256"])
        for entry in self.manifest["shards"]:
            check_shard(self.folder / entry["name"], entry["sha256"])

    def records(self) -> Iterator[dict]:
        """The JSON record of every document, its text rendered from the tokens of the shard."""
        if "encoding" in self.manifest:
            raise ValueError(f"{self.folder} holds other tokens than its world's; accepted: its {PARQUET} files")
        source = Source(self.spec, self.manifest["seed"], self.manifest["split"])
        for entry, documents in zip(self.manifest["shards"], self, strict=True):
            for start in range(0, len(documents), CHUNK):
                some = documents.take(range(start, min(start + CHUNK, len(documents))))
                yield from map(json.loads, lines(source, some, entry["first"] + start))


def read_shards(folder: str | Path, verify: bool = False) -> Shards:
    """Open a folder of token shards; `verify` hashes every file first. Raises ValueError when it is no such folder,
    unfinished, of a setting this code does not know, or (with `verify`, or when it cannot be read) corrupted, naming
    the shard."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        state = "is not finished" if (folder / PARTIAL).is_file() else f"holds no {MANIFEST}"
        raise ValueError(f"{folder} {state}; accepted: a folder that synth.generate --out has finished")
    try:
        shards = Shards(folder, unsealed(folder / MANIFEST))
        len(shards)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is no manifest of token shards ({error})") from None
    if verify:
        shards.verify()
    return shards
