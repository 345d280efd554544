"""Run folders: one folder for one config, safe to write at any moment and to come back to.

    <root>/<name>-<8 hex digits of the config's hash>/config.yaml  manifest.json  metrics.jsonl  checkpoints.jsonl ...

The hash covers every setting except the section `out`, which says where and how often to write and must not change a
weight; a setting that names a checkpoint counts by the checkpoint's contents. So the same work finds its own folder
again, and a folder of other work is refused. Files appear whole or not at all (temporary name, fsync, rename), and a
folder belongs to one process at a time. A stage is complete when its `summary.json` exists.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from synth.store.files import atomic_write, finite, read_json, sync, write_json
from train.runs.manifest import describe


@dataclass(frozen=True)
class OutConfig:
    """The section `out` of every config, where to write: `root/name-hash`, or exactly `folder` where that is given."""

    root: str = "runs"
    name: str = "run"
    folder: str | None = None

    def __post_init__(self):
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"out.name={self.name}: accepted: a folder name without '/'")


@dataclass(frozen=True)
class TrainingOutConfig(OutConfig):
    """Where and how often a training run writes: periods in steps, 0 for never (the last step is always saved).

    `keep` is how many checkpoints stay, 0 for all. None of it changes a weight.
    """

    log_every: int = 10
    save_every: int = 500
    keep: int = 2

    def __post_init__(self):
        super().__post_init__()
        for key in ("log_every", "save_every", "keep"):
            if getattr(self, key) < 0:
                raise ValueError(f"out.{key}={getattr(self, key)}: accepted: 0 or more")


@dataclass(frozen=True)
class RunFolder:
    """An open run folder. `resumed` is whether it was there before; `complete` whether its work is done.

    Of several processes that share a run, one holds its lock.
    """

    path: Path
    resumed: bool
    _lock: IO[str] | None = field(default=None, repr=False, compare=False)

    @property
    def complete(self) -> bool:
        return (self.path / "summary.json").exists()

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, finite(value))

    def close(self) -> None:
        """Gives the folder free for another process; the end of the process does it too."""
        if self._lock is not None:
            self._lock.close()


def config_hash(config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
    """The hash (64 hex digits) that two runs share when they do the same work.

    `inputs` maps a dotted setting that names a file or folder (`init`, `teacher.checkpoint`) to a digest of what is in
    there; the digest stands in for the path, so a moved input is the same and a changed one is not.
    """
    body = json.loads(json.dumps({k: v for k, v in config.items() if k != "out"}))
    for setting, digest in (inputs or {}).items():
        *parents, leaf = setting.split(".")
        node = body
        for part in parents:
            node = node[part]
        assert leaf in node, f"{setting} is not a setting"
        node[leaf] = f"sha256:{digest}"
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def run_path(config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Path:
    """Where `open_run` puts this config; for whoever wants to know before, or without, running it."""
    out = config["out"]
    return Path(out["folder"] or Path(out["root"]) / f"{out['name']}-{config_hash(config, inputs)[:8]}")


def open_run(
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    seeds: Mapping[str, int] | None = None,
    data: str | None = None,
) -> RunFolder:
    """Creates the folder of this config, or opens it again when it holds the same one.

    Args: `config` plain and complete, with its section `out`; `inputs` as in `config_hash`; `seeds` and `data` (a hash of
    what determines the data) are noted in the manifest. Raises ValueError, before anything is written, when the folder
    holds another config, something that is no run, or is in use by another process.
    """
    path, work = run_path(config, inputs), config_hash(config, inputs)
    here = describe()
    if not path.exists():
        manifest = {"config": work, "inputs": dict(inputs or {}), "seeds": dict(seeds or {}), "data": data, **here}
        _create(path, config, {**manifest, "resumed": []})
        return RunFolder(path, False, _lock(path))
    _check_same(path, work, config)
    lock = _lock(path)
    for leftover in path.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    run = RunFolder(path, True, lock)
    if not run.complete:
        manifest = read_json(path / "manifest.json")
        manifest["resumed"].append({k: here[k] for k in ("time", "command", "commit", "changes")})
        run.write_json("manifest.json", manifest)
    return run


def _create(path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Builds the folder under a temporary name and renames it, so that a folder without a manifest is never ours."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        atomic_write(temporary / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        write_json(temporary / "manifest.json", manifest)
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(f"{path}: cannot be created ({error.strerror})") from error
    sync(path.parent)


def _check_same(path: Path, work: str, config: Mapping[str, Any]) -> None:
    if not (path / "manifest.json").is_file() or not (path / "config.yaml").is_file():
        raise ValueError(f"{path}: exists and is not a run folder; accepted: a new folder, or a run of the same config")
    if read_json(path / "manifest.json")["config"] == work:
        return
    old = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    changes = [f"{k} is {a} there and {b} here" for k, a, b in _differences(old, config) if not k.startswith("out.")]
    what = "; ".join(changes[:3]) or "an input's contents changed"
    raise ValueError(f"{path}: is a run of another config ({what}); accepted: a new folder, or the same config")


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield path, old, new


def _lock(path: Path) -> IO[str]:
    """Held until the process ends, however it ends; two writers would interleave their lines."""
    handle = (path / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise ValueError(f"{path}: is in use by another process; accepted: wait for it, or stop it") from None
    return handle
