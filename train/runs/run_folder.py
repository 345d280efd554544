"""Run folders: one folder for one config, which a killed process can continue.

    <root>/<name>-<8 hex digits of the config's hash>/config.yaml  manifest.json  metrics.jsonl  checkpoints.jsonl ...

The hash covers every setting except `out` and `log`, which must not change a weight; a setting that names a checkpoint
counts by the checkpoint's contents. So the same work finds its own folder again, and a folder of other work is refused;
a folder that is named by `out.folder` goes on with another budget, or with settings that change rounding alone.
`manifest.json` says what the run is (`entry`, the module that ran, and `kind`) and what else it depends on
(`describe`). A folder belongs to one process at a time. A run is complete when its `summary.json` exists.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import yaml

from synth.exit_codes import say
from synth.ranges import Count, settings
from synth.store.files import (
    atomic_path,
    atomic_write,
    finite,
    json_bytes,
    naming,
    read_json,
    remove_leftovers,
    write_json,
)
from train.runs import sha256sums
from train.runs.results import flat

# What `kind` in a manifest may be: training makes models from data, merge and grow from models, distillation a student.
KINDS = ("training", "distillation", "merge", "grow", "evaluation", "probe", "analysis")
# Settings that earlier versions did not have, with the value that does what those did.
LATER = {"questions": None, "data.documents": None, "evaluate.best": False, "distinct_prompts": None}
UNHASHED = ("out", "log")
ROUNDING = ("threads", "micro_batch", "batch.micro")  # settings that change a result by rounding alone
METHOD_WORDS = ("deviates", "faithful", "release", "paper")  # of a method's file, beside the parts that it names
CheckBudget = Callable[[Path, Mapping[str, Any], Mapping[str, Any]], None]  # run folder, its settings, those asked for


@dataclass(frozen=True)
class OutConfig:
    """The section `out` of every config, where to write: `root/name-hash`, or exactly `folder` where that is given.

    {method} in `name` is the name of a distillation's method. path_file: a file to write the path of the run folder to,
    from which a recipe learns it; null for none.
    """

    root: str = "runs"  # folder that run folders go to
    name: str = "run"  # of the run folder, before its hash
    folder: str | None = None  # exactly this one, in place of root and name
    path_file: str | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"out.name={self.name}: accepted: a folder name without '/'")


@settings
class TrainingOutConfig(OutConfig):
    """Where and how often a training run writes: periods in steps, 0 for never (the last step is always saved). `keep`
    is how many checkpoints stay, 0 for all."""

    log_every: Count = 10  # steps between lines of metrics.jsonl
    save_every: Count = 500  # steps between checkpoints
    keep: Count = 2  # checkpoints that stay, 0 for all


@dataclass(frozen=True)
class RunFolder:
    """An open run folder, a context manager. `resumed`: it was there before; only rank 0 of several processes holds
    its lock."""

    path: Path
    resumed: bool
    _lock: IO[str] | None = field(default=None, repr=False, compare=False)

    @property
    def complete(self) -> bool:
        return (self.path / "summary.json").exists()

    def write_json(self, name: str, value: Any) -> None:
        """Writes a file of the folder; numbers that are not finite become null."""
        if name in (*sha256sums.ALWAYS, sha256sums.SUMMARY):
            sha256sums.replace(self.path, name, json_bytes(finite(value)))
        else:
            write_json(self.path / name, finite(value))

    def close(self) -> None:
        """Releases the lock, as the end of the process does."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def config_hash(config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
    """The hash (64 hex digits) that two runs share when they do the same work.

    `inputs` maps a dotted setting that names a checkpoint (`init`, `teacher`) to a digest of its contents, which is
    hashed instead of the path: a moved input is the same, a changed one is not. Words about a method are not hashed.
    """
    body = json.loads(json.dumps({k: v for k, v in config.items() if k not in UNHASHED}))
    for setting, default in LATER.items():
        group, _, leaf = setting.rpartition(".")
        node = body.get(group) if group else body
        if isinstance(node, dict) and leaf in node and node[leaf] is default:
            del node[leaf]
    for word in METHOD_WORDS if isinstance(body.get("method"), dict) else ():
        body["method"].pop(word, None)
    for setting, digest in (inputs or {}).items():
        *parents, leaf = setting.split(".")
        node = body
        for part in parents:
            node = node[part]
        assert leaf in node, f"{setting} is not a setting"
        node[leaf] = f"sha256:{digest}"
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def run_path(config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Path:
    """The folder that `open_run` will use for this config."""
    out, digest = config["out"], config_hash(config, inputs)[:8]
    if out["folder"]:
        return Path(out["folder"])
    earlier = Path(out["root"], f"opd-{digest}")  # as earlier versions called the folder of every method
    if "{method}" in out["name"] and earlier.exists():
        return earlier
    name = out["name"].replace("{method}", (config.get("method") or {}).get("name", ""))
    return Path(out["root"], f"{name}-{digest}")


def open_run(
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    seeds: Mapping[str, int] | None = None,
    data: str | None = None,
    *,
    entry: str,
    kind: str,
    check_budget: CheckBudget | None = None,
) -> RunFolder:
    """Creates the folder of this config, or opens it again when it holds the same one.

    Args:
        config: plain and complete, with its section `out`. inputs: as in `config_hash`.
        seeds, data: noted in the manifest; `data` is a hash of what determines the data.
        entry, kind: the module that runs, and one of `KINDS`; noted in the manifest.
        check_budget: raises ValueError where a run folder with these settings cannot go on with those; None: never.

    Raises ValueError, before anything is written, when the folder holds another config, something that is no run, files
    that are not what was written, or is in use by another process.
    """
    assert kind in KINDS, kind
    path, digest = run_path(config, inputs), config_hash(config, inputs)
    remove_leftovers(path)
    created = False
    if not path.exists():
        manifest = {"entry": entry, "kind": kind, "config": digest, "inputs": dict(inputs or {})}
        manifest |= {"seeds": dict(seeds or {}), "data": data, **describe(), "resumed": []}
        created = _create(path, config, manifest)
    kept = dict(config) if created else _config_to_keep(path, config, inputs or {}, check_budget)
    run = RunFolder(path, not created, _lock(path))
    with ExitStack() as refused:
        refused.callback(run.close)
        if run.complete:
            sha256sums.check(path)
        if not created:
            _go_on(run, kept, config_hash(kept, inputs))
        if config["out"].get("path_file"):
            atomic_write(Path(config["out"]["path_file"]), os.fsencode(path) + b"\n")
        refused.pop_all()
    return run


def _create(path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Makes the folder with its first files, atomically: a folder without a manifest is not a run. False when another
    process has made it meanwhile."""
    try:
        with atomic_path(path) as temporary:
            temporary.mkdir(parents=True)
            atomic_write(temporary / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
            write_json(temporary / "manifest.json", manifest)
            sha256sums.write(temporary, sha256sums.of_files(temporary))
    except OSError as error:
        if (path / "manifest.json").is_file():
            return False
        raise ValueError(f"{path}: cannot be created ({error.strerror})") from error
    return True


def _go_on(run: RunFolder, config: Mapping[str, Any], digest: str) -> None:
    """Notes in an old run folder that it is opened again; with another budget it is complete no more."""
    path = run.path
    with naming(path / "manifest.json"):
        manifest, now = read_json(path / "manifest.json"), describe()
        same = digest == manifest["config"]
        other = {} if same else {"budget": config["budget"]}
        moved = _moved(manifest.get("hardware") or {}, now["hardware"])
        other |= {"hardware": now["hardware"]} if moved else {}
        manifest["resumed"].append({k: now[k] for k in ("time", "command", "commit", "changes")} | other)
    if not same:
        (path / sha256sums.SUMMARY).unlink(missing_ok=True)
    if run.complete:
        say(f"{path}: is complete already, nothing is run again")
        return
    if moved:
        say(f"{path}: the last bits may differ from those of an unbroken run: {'; '.join(moved)}")
    run.write_json("manifest.json", manifest | {"config": digest})
    content = yaml.safe_dump(dict(config), sort_keys=False).encode()
    if content != (path / "config.yaml").read_bytes():
        sha256sums.replace(path, "config.yaml", content)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changes the order of sums between two machines. Runs from before the compiled pass have none of it."""
    old, names = {"cpu_pass": "modules", **(before if before.get("threads") else now)}, ("cpu", "threads", "cpu_pass")
    return [f"{name} is {old.get(name)} there and {now[name]} here" for name in names if old.get(name) != now[name]]


def _config_to_keep(
    path: Path, config: Mapping[str, Any], inputs: Mapping[str, str], check_budget: CheckBudget | None
) -> dict[str, Any]:
    """The config that a run folder has when it goes on with `config`: where only rounding differs, its own stays.

    Raises ValueError when it cannot go on with this config: `ROUNDING` and, with `check_budget`, the budget may differ.
    """
    if not (path / "manifest.json").is_file() or not (path / "config.yaml").is_file():
        raise ValueError(f"{path}: exists and is not a run folder; accepted: a new folder, or a run of the same config")
    sha256sums.check(path, *sha256sums.ALWAYS)
    with naming(path / "manifest.json"):
        manifest = read_json(path / "manifest.json")
        digest = manifest["config"]
        others = [name for name, value in dict(manifest.get("inputs") or {}).items() if inputs.get(name) != value]
    if digest == config_hash(config, inputs):
        return dict(config)
    with naming(path / "config.yaml"):
        before = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        old = dict(flat(before))
    new = dict(flat(json.loads(json.dumps(config))))  # as YAML gives it back: a tuple there is a list here
    keys = [key for key in dict.fromkeys([*old, *new]) if key.split(".")[0] not in UNHASHED]
    keys = [key for key in keys if old.get(key) != new.get(key)]
    rounding = {key: old[key] for key in keys if key in ROUNDING and key in old}
    budget = {key: old.get(key) for key in keys if key.startswith("budget.") and check_budget is not None}
    if digest == config_hash(_with(config, rounding | budget), inputs):
        if check_budget is not None and budget:
            check_budget(path, before, config)
        return _with(config, rounding)
    changes = [f"{key} is {old.get(key)} there and {new.get(key)} here" for key in keys]
    what = "; ".join(changes[:3]) or f"the contents of {', '.join(others) or 'an input'} changed"
    raise ValueError(f"{path}: is a run of another config ({what}); accepted: a new folder, or the same config")


def _with(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings in which these dotted ones have these values."""
    changed = deepcopy(dict(config))
    for key, value in values.items():
        *groups, leaf = key.split(".")
        node = changed
        for group in groups:
            node = node[group]
        node[leaf] = value
    return changed


def _lock(path: Path) -> IO[str] | None:
    """Locks the folder until the process ends: two writers would interleave their lines. None where a complete run is
    on a disk that cannot be written, as nothing will be."""
    try:
        handle = (path / ".lock").open("w")
    except OSError:
        if (path / sha256sums.SUMMARY).is_file():
            return None
        raise
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise ValueError(f"{path}: is in use by another process; accepted: wait for it, or stop it") from None
    for leftover in path.glob(".*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()
    return handle


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "numba", "transformers", "safetensors", "einops", "hydra-core", "omegaconf")


def describe() -> dict[str, Any]:
    """Command, UTC time, commit, hash of uncommitted changes (null if none or no repository), versions, hardware. It
    names no user, host or path beyond those in the command itself."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": _command(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD").decode().strip() or None,
        "changes": _changes(),
        "versions": versions,
        "hardware": _hardware(),
    }


def _command() -> list[str]:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    start = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return ["python", *start, *sys.argv[1:]]


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def _changes() -> str | None:
    """sha256 over the difference to the commit and over new source files that git does not ignore."""
    content = _git("diff", "HEAD", "--binary")
    for name in sorted(_git("ls-files", "--others", "--exclude-standard", "-z").decode().split("\0")):
        if name.endswith((".py", ".yaml", ".json")) and (ROOT / name).is_file():
            content += name.encode() + b"\0" + (ROOT / name).read_bytes()
    return hashlib.sha256(content).hexdigest() if content else None


def _hardware() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # not imported for this: a recipe's own process stays light
    cuda = torch.cuda if torch is not None and torch.cuda.is_available() else None
    gpus = [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda else []
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(named, platform.processor() or platform.machine())
    threads = torch.get_num_threads() if torch else None
    fused = sys.modules.get("models.fused.forward")
    way = "compiled" if fused is not None and fused.is_on() else "modules"  # how models pass, `models.fused`
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "cpu_pass": way, "gpus": gpus}
