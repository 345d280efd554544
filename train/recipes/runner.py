"""Runs the stages of a recipe: a graph of commands, each a process of its own, some side by side.

A stage starts when everything it needs is done, in the order listed. It decides itself whether its folder is already
complete (same config, same inputs) and continues from its last checkpoint if not; so a recipe that was killed at any
moment is simply started again. A stage whose command, inputs and code are those of its last complete run is not even
started. Every process keeps to one thread: on small models two processes side by side do twice the work of two
threads. On Linux `train.recipes.fork_server` starts them, which saves each the time of its imports.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synth.kernel.rng import key
from synth.store.files import atomic_write, read_json
from train.core.checkpoint import expand_zoo_path
from train.recipes.fork_server import LINUX, Forge, Forged
from train.recipes.progress import Watch
from train.runs.results import flat, is_run

ROOT = Path(__file__).resolve().parents[2]
CODE = ("synth", "models", "train", "probes", "configs")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PATIENCE = 10.0  # seconds between asking a process to end and ending it


class StageFailed(Exception):
    """A stage ended with an error. `usage` is whether it refused its settings; the message is what it said last."""

    def __init__(self, message: str, usage: bool):
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True)
class Stage:
    """One command of a recipe: `python -m entry` with `settings` (dotted setting -> value) once `needs` are done.

    A value `@NAME` stands for the run folder of stage NAME, `@seed` for the recipe's seed, `{seed}` for the same inside
    a text (a path), and `@seed/WORD` for a seed derived from it by hashing.
    """

    name: str
    entry: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    label: str = ""

    @property
    def references(self) -> set[str]:
        """Names of the stages that settings point at."""
        texts = [value[1:] for value in self.settings.values() if isinstance(value, str) and value.startswith("@")]
        return {text for text in texts if text != "seed" and not text.startswith("seed/")}

    @property
    def inputs(self) -> set[str]:
        return self.references | set(self.needs)

    def words(self, folders: Mapping[str, Path], seed: int) -> list[str]:
        """The settings as `key=value` words, with every reference resolved."""
        return [f"{name}={_text(_resolved(value, folders, seed))}" for name, value in self.settings.items()]


def _resolved(value: Any, folders: Mapping[str, Path], seed: int) -> Any:
    if not isinstance(value, str) or not value.startswith("@"):
        return value.replace("{seed}", str(seed)) if isinstance(value, str) else value
    if value == "@seed":
        return seed
    if value.startswith("@seed/"):
        return key(seed, "recipe " + value.removeprefix("@seed/"), 0) % 2**31
    return folders[value[1:]]


def _text(value: Any) -> str:
    """A value as the commands read it: YAML in one line."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def check_graph(stages: list[Stage]) -> None:
    """Raises ValueError when a stage needs one that is not there, or two need each other."""
    names = [stage.name for stage in stages]
    for stage in stages:
        for needed in sorted(stage.inputs - set(names)):
            raise ValueError(f"stage {stage.name} needs {needed}, which the recipe lacks; accepted: {', '.join(names)}")
    done: set[str] = set()
    while ready := [s.name for s in stages if s.name not in done and s.inputs <= done]:
        done.update(ready)
    stuck = [name for name in names if name not in done]
    if stuck:
        raise ValueError(f"stages {', '.join(stuck)} need each other in a circle; accepted: an order to start them in")


class Record:
    """What a recipe knows of its stages, in one JSON file: folder and fingerprint of each, and its own facts."""

    def __init__(self, path: Path, facts: Mapping[str, Any], stages: list[Stage]):
        known = {row["name"]: row for row in (read_json(path).get("stages", []) if path.is_file() else [])}
        self.path, self.facts = path, dict(facts)
        self.rows = {
            stage.name: {k: v for k, v in known.get(stage.name, {}).items() if k in ("folder", "fingerprint", "words")}
            | {"name": stage.name, "entry": stage.entry, "label": stage.label, "needs": sorted(stage.inputs)}
            for stage in stages
        }

    def finished(self, stage: Stage, fingerprint: str) -> Path | None:
        """The folder of this very work, if it was done before and is still whole."""
        row = self.rows[stage.name]
        folder = self.path.parent / row.get("folder", "")
        same = "folder" in row and row.get("fingerprint") == fingerprint
        return folder if same and (folder / "summary.json").is_file() else None

    def enter(self, stage: Stage, words: list[str], folder: Path, fingerprint: str) -> None:
        self.rows[stage.name] |= {"words": words, "folder": folder.name, "fingerprint": fingerprint}
        self.save()

    def give(self, name: str, folder: Path) -> None:
        """A run folder from elsewhere stands for the stage."""
        self.rows[name] = {k: v for k, v in self.rows[name].items() if k not in ("words", "fingerprint")}
        self.rows[name]["folder"] = str(folder.resolve())

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, json.dumps(self.facts | {"stages": list(self.rows.values())}, indent=2) + "\n")


@dataclass
class Running:
    stage: Stage
    words: list[str]
    fingerprint: str
    log: Path
    process: subprocess.Popen | Forged
    started: float


def run(
    stages: list[Stage],
    record: Record,
    seed: int,
    slots: int,
    given: Mapping[str, Path] | None = None,
    failed: dict[str, StageFailed] | None = None,
) -> dict[str, Path]:
    """Brings every stage to its end, at most `slots` at a time; returns the run folder of each.

    given: stages that are not run, with the checkpoint that stands for each. Raises StageFailed when one fails, after
    ending the others; whatever ends this function ends its processes. With a dictionary `failed` the others go on:
    what failed, and what needed it, is put there.
    """
    root = record.path.parent
    code = code_digest()
    done: dict[str, Path] = dict(given or {})
    for name, path in done.items():
        record.give(name, expand_zoo_path(path))
    waiting, running = [stage for stage in stages if stage.name not in done], []
    with Watch(root) as watch, Forge(_environment()) as forge:
        try:
            while waiting or running:
                for stage in [s for s in waiting if s.inputs <= done.keys()]:
                    words = [*stage.words(done, seed), f"out.root={root}", f"out.name={stage.name}"]
                    fingerprint = hashlib.sha256(json.dumps([stage.entry, words, code]).encode()).hexdigest()
                    if (folder := record.finished(stage, fingerprint)) is not None:
                        watch.skipped(stage.name, folder)
                        done[stage.name] = folder
                        waiting.remove(stage)
                    elif len(running) < slots:
                        running.append(_start(forge, stage, words, fingerprint, root / "logs", seed))
                        watch.started(stage.name)
                        waiting.remove(stage)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    try:
                        folder = _folder(job)
                    except StageFailed as failure:
                        if failed is None:
                            raise
                        failed[job.stage.name] = failure
                        watch.failed(job.stage.name, job.log)
                        waiting = _lose(waiting, failed)
                        continue
                    done[job.stage.name] = folder
                    record.enter(job.stage, job.words, folder, job.fingerprint)
                    watch.finished(job.stage.name, folder, time.time() - job.started)
                watch.look([(job.stage.name, job.started) for job in running])
                if running and not any(s.inputs <= done.keys() for s in waiting[: slots - len(running)]):
                    time.sleep(0.1)
        finally:
            _end([job.process for job in running])
    return done


def _lose(waiting: list[Stage], failed: dict[str, StageFailed]) -> list[Stage]:
    """The stages that can still run; the others, which need one that failed, are entered beside it."""
    while lost := [stage for stage in waiting if stage.inputs & failed.keys()]:
        for stage in lost:
            needed = min(stage.inputs & failed.keys())
            failed[stage.name] = StageFailed(f"stage {stage.name}: needs {needed}, which failed", usage=False)
        waiting = [stage for stage in waiting if stage not in lost]
    return waiting


def _environment() -> dict[str, str]:
    """What every stage finds: this code, and one thread."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _start(forge: Forge, stage: Stage, words: list[str], fingerprint: str, logs: Path, seed: int) -> Running:
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{stage.name}-seed{seed}.log"
    if LINUX:
        return Running(stage, words, fingerprint, log, forge.start(stage.entry, words, log), time.time())
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", stage.entry, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=forge.environment,
            start_new_session=True,  # an interrupt from the keyboard reaches the recipe, and that ends its stages
        )
    return Running(stage, words, fingerprint, log, process, time.time())


def _folder(job: Running) -> Path:
    """The run folder that an ended stage printed last. Raises StageFailed when it did not succeed."""
    lines = [
        line.strip() for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    code = job.process.returncode
    if code == 0:
        folder = next((Path(line) for line in reversed(lines) if "/" in line and is_run(Path(line))), None)
        if folder is not None:
            return folder
    if code == 2 and lines:
        raise StageFailed(f"stage {job.stage.name}: {lines[-1].removeprefix('error: ')}", usage=True)
    what = f"ended with code {code}" if code else "ended without naming its run folder"
    tail = "\n".join(f"  {line}" for line in lines[-12:])
    raise StageFailed(f"stage {job.stage.name} {what}; the end of {job.log}:\n{tail}", usage=False)


def _end(processes: list[subprocess.Popen | Forged]) -> None:
    """Asks the processes and what they started to end, and ends those that do not."""
    for send in (signal.SIGTERM, signal.SIGKILL):
        for process in [p for p in processes if p.poll() is None]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, send)
        deadline = time.monotonic() + PATIENCE
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            time.sleep(0.05)


def code_digest() -> str:
    """sha256 over the source and the configs, in their order by name."""
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for room in CODE:
        yield from (p for p in (ROOT / room).rglob("*") if p.suffix in (".py", ".yaml", ".json") and p.is_file())


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    return dict(flat(settings))
