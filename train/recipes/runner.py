"""Runs the stages of a recipe: a graph of commands, each a process of its own, some side by side.

A stage starts when everything it needs is done, in the order listed. Its command finds out whether its run folder is
complete (same config, same inputs) and continues from its last checkpoint if not, so a recipe that was killed at any
moment is simply started again. A stage whose command, inputs and code are those of its last complete run is not
started. Every process uses one thread: on small models two processes do twice the work of two threads.

Every stage writes the path of its run folder to `out.path_file`.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from synth.kernel.rng import key
from synth.store.files import naming, read_json, write_json
from train.config.grammar import as_arguments
from train.recipes import stage_process
from train.recipes.progress import ProgressDisplay
from train.recipes.stage_process import ROOT

CODE = ("synth", "models", "train", "probes", "configs")
POLL = 0.1  # seconds between two checks of the running stages


class StageFailed(Exception):
    """A stage ended with an error. `usage`: it refused its settings."""

    def __init__(self, message: str, usage: bool):
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True)
class Stage:
    """One command of a recipe: `python -m entry` with `settings` (dotted setting -> value) once `needs` are done.

    In a value `@NAME` is the run folder of stage NAME, `@seed` the recipe's seed, `{seed}` the same inside a text, and
    `@seed/TEXT` a seed derived from it by hashing. `items`: of the lists that it is a copy over.
    """

    name: str
    entry: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    label: str = ""
    items: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> set[str]:
        """Names of the stages that this one needs: those its settings point at, and `needs`."""
        texts = [value[1:] for value in self.settings.values() if isinstance(value, str) and value.startswith("@")]
        return {text for text in texts if text != "seed" and not text.startswith("seed/")} | set(self.needs)

    def argv(self, folders: Mapping[str, Path], seed: int) -> list[str]:
        """The settings as `key=value` arguments, with every reference resolved."""
        values = {name: _resolve(value, folders, seed) for name, value in self.settings.items()}
        return as_arguments({name: str(v) if isinstance(v, Path) else v for name, v in values.items()})


def _resolve(value: Any, folders: Mapping[str, Path], seed: int) -> Any:
    if not isinstance(value, str):
        return value
    if not value.startswith("@"):
        return value.replace("{seed}", str(seed))
    if value == "@seed":
        return seed
    if value.startswith("@seed/"):
        return key(seed, "recipe " + value.removeprefix("@seed/"), 0) % 2**31
    return folders[value[1:]]


def check_graph(stages: list[Stage]) -> None:
    """Raises ValueError when a stage needs one that is not there, or two need each other."""
    names = [stage.name for stage in stages]
    for stage in stages:
        for needed in sorted(stage.inputs - set(names)):
            raise ValueError(f"stage {stage.name} needs {needed}, which the recipe lacks; accepted: {', '.join(names)}")
    done: set[str] = set()
    while ready := [s.name for s in stages if s.name not in done and s.inputs <= done]:
        done.update(ready)
    if stuck := [name for name in names if name not in done]:
        raise ValueError(f"stages {', '.join(stuck)} need each other in a circle; accepted: an order to start them in")


class PlanFile:
    """One seed of a recipe as a JSON file: facts about it, and for each stage its run folder and fingerprint."""

    def __init__(self, path: Path, facts: Mapping[str, Any], stages: list[Stage]):
        with naming(path):
            before = {row["name"]: row for row in read_json(path).get("stages", [])} if path.is_file() else {}
        self.path, self.facts = path, dict(facts)
        self.rows = {
            stage.name: {k: v for k, v in before.get(stage.name, {}).items() if k in ("folder", "fingerprint", "argv")}
            | {"name": stage.name, "entry": stage.entry, "label": stage.label, "needs": sorted(stage.inputs)}
            | ({"items": dict(stage.items)} if stage.items else {})
            for stage in stages
        }

    def complete_folder(self, stage: Stage, fingerprint: str) -> Path | None:
        """The folder of exactly this work, if it was done before and is still there."""
        row = self.rows[stage.name]
        folder = self.path.parent / row.get("folder", "")
        same = "folder" in row and row.get("fingerprint") == fingerprint
        return folder if same and (folder / "summary.json").is_file() else None

    def enter(self, name: str, folder: Path, **row: Any) -> None:
        """Notes the folder of a stage, in the recipe's own folder or elsewhere."""
        inside = folder.parent.resolve() == self.path.parent.resolve()
        kept = {k: v for k, v in self.rows[name].items() if k not in ("argv", "fingerprint")}
        self.rows[name] = kept | row | {"folder": folder.name if inside else str(folder.resolve())}

    def save(self) -> None:
        """Writes the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.facts | {"stages": list(self.rows.values())})


@dataclass
class _Job:
    """A stage that runs."""

    stage: Stage
    argv: list[str]
    fingerprint: str
    log: Path
    path_file: Path
    process: BaseProcess
    started: float

    @property
    def folder(self) -> Path | None:
        """The run folder, once the stage has opened it."""
        return Path(os.fsdecode(self.path_file.read_bytes()).strip()) if self.path_file.is_file() else None

    def result(self) -> Path:
        """The run folder of an ended stage. Raises StageFailed when it did not succeed."""
        code = self.process.exitcode
        if code == 0 and self.folder is not None:
            return self.folder
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if code == 2 and lines:
            raise StageFailed(f"stage {self.stage.name}: {lines[-1].removeprefix('error: ')}", usage=True)
        what = f"ended with code {code}" if code else "ended without a run folder"
        tail = "\n".join(f"  {line}" for line in lines[-12:])
        raise StageFailed(f"stage {self.stage.name} {what}; the end of {self.log}:\n{tail}", usage=False)


class Runner:
    """Brings the stages of one plan to their end, at most `slots` at a time.

    given: run folders or checkpoints that stand for stages, which are then not run. keep_going: when a stage fails, the
    stages that do not need it still run; what failed, and what needed it, is in `failed`.
    """

    def __init__(
        self,
        plan: PlanFile,
        seed: int,
        slots: int,
        given: Mapping[str, Path] | None = None,
        keep_going: bool = False,
    ):
        self.plan, self.seed, self.slots, self.keep_going = plan, seed, slots, keep_going
        self.root = plan.path.parent
        self.done: dict[str, Path] = dict(given or {})
        self.failed: dict[str, StageFailed] = {}
        self._running: list[_Job] = []

    def run(self, stages: list[Stage]) -> dict[str, Path]:
        """The run folder of each stage. Raises StageFailed when one fails and `keep_going` is off. However this
        function ends, the processes of its stages have ended too."""
        code = code_digest()
        self._waiting = [stage for stage in stages if stage.name not in self.done]
        entries = [stage.entry for stage in self._waiting]
        # what a single stage uses it imports itself, so that the first ones do not wait for it (probes take seconds)
        stage_process.prepare(entry for entry in entries if entries.count(entry) > 1)
        with ProgressDisplay() as self._progress:
            try:
                while self._waiting or self._running:
                    moved = self._start_ready(code) + self._collect_ended()
                    self._progress.update({job.stage.name: (job.started, job.folder) for job in self._running})
                    if not moved:
                        time.sleep(POLL)
            finally:
                stage_process.end([job.process for job in self._running])
        return self.done

    def _start_ready(self, code: str) -> int:
        """Starts or skips the stages whose inputs are done; returns how many."""
        before = len(self._waiting)
        for stage in [s for s in self._waiting if s.inputs <= self.done.keys()]:
            path_file = self.root / "logs" / f"{stage.name}-seed{self.seed}.path"
            out = {"root": self.root, "name": stage.name, "path_file": path_file}
            argv = [*stage.argv(self.done, self.seed), *(f"out.{name}={value}" for name, value in out.items())]
            fingerprint = hashlib.sha256(json.dumps([stage.entry, argv, code]).encode()).hexdigest()
            if (folder := self.plan.complete_folder(stage, fingerprint)) is not None:
                self._progress.ended(stage.name, "complete", folder)
                self.done[stage.name] = folder
            elif len(self._running) < self.slots:
                log = path_file.with_suffix(".log")
                log.parent.mkdir(parents=True, exist_ok=True)
                path_file.unlink(missing_ok=True)
                process = stage_process.start(stage.entry, argv, log)
                self._running.append(_Job(stage, argv, fingerprint, log, path_file, process, time.time()))
                self._progress.started(stage.name)
            else:
                continue
            self._waiting.remove(stage)
        return before - len(self._waiting)

    def _collect_ended(self) -> int:
        """Takes note of the stages that have ended; returns how many."""
        ended = [job for job in self._running if job.process.exitcode is not None]
        for job in ended:
            self._running.remove(job)
            try:
                folder = job.result()
            except StageFailed as failure:
                if not self.keep_going:
                    raise
                self.failed[job.stage.name] = failure
                self._progress.ended(job.stage.name, "failed", job.log)
                self._drop_dependents()
                continue
            self.done[job.stage.name] = folder
            self.plan.enter(job.stage.name, folder, argv=job.argv, fingerprint=job.fingerprint)
            self.plan.save()
            self._progress.ended(job.stage.name, f"done in {time.time() - job.started:.0f} s", folder)
        return len(ended)

    def _drop_dependents(self) -> None:
        """Moves the waiting stages that need a failed one to `failed`."""
        while lost := [stage for stage in self._waiting if stage.inputs & self.failed.keys()]:
            for stage in lost:
                needed = min(stage.inputs & self.failed.keys())
                self.failed[stage.name] = StageFailed(f"stage {stage.name}: needs {needed}, which failed", usage=False)
                self._waiting.remove(stage)


def code_digest() -> str:
    """sha256 over the source and the configs, in their order by name."""
    digest = hashlib.sha256()
    for path in sorted(path for package in CODE for path in (ROOT / package).rglob("*")):
        if path.suffix in (".py", ".yaml", ".json") and path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
