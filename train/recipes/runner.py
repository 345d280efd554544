"""Runs the stages of a recipe on this machine: a graph of commands, each a process of its own, some side by side.

A stage starts when everything it needs is done, in the order listed, as soon as there is a slot and as many GPUs as
it asks for. Its command finds out whether its run folder is complete (same config, same inputs) and continues from its
last checkpoint if not, so a recipe that was killed at any moment is simply started again. A stage whose command,
inputs and code are those of its last complete run is not started. Every process uses one thread: on small models two
processes do twice the work of two threads. A stage of several processes is torchrun's.

Every stage writes the path of its run folder to `out.path_file`.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from train.recipes import stage_process
from train.recipes.plan import PlanFile
from train.recipes.progress import ProgressDisplay
from train.recipes.stage import Stage, StageFailed, Work
from train.recipes.stage_process import ROOT

CODE = ("synth", "models", "train", "probes", "configs")
POLL = 0.1  # seconds between two checks of the running stages


@dataclass
class _Job:
    """A stage that runs. gpus: those that it was given, as CUDA_VISIBLE_DEVICES names them."""

    work: Work
    process: BaseProcess
    started: float
    gpus: list[str]


class Runner:
    """Brings the stages of one plan to their end, at most `slots` at a time.

    given: run folders or checkpoints that stand for stages, which are then not run. keep_going: when a stage fails, the
    stages that do not need it still run; what failed, and what needed it, is in `failed`. gpus: those of this machine
    that are given out, each to one stage at a time; without any, every stage sees all.
    """

    def __init__(
        self,
        plan: PlanFile,
        seed: int,
        slots: int,
        given: Mapping[str, Path] | None = None,
        keep_going: bool = False,
        gpus: Sequence[str] = (),
    ):
        self.plan, self.seed, self.slots, self.keep_going = plan, seed, slots, keep_going
        self.root = plan.path.parent
        self.done: dict[str, Path] = dict(given or {})
        self.failed: dict[str, StageFailed] = {}
        self._running: list[_Job] = []
        self.gpus, self._free = len(gpus), list(gpus)

    def run(self, stages: list[Stage]) -> dict[str, Path]:
        """The run folder of each stage. Raises StageFailed when one fails and `keep_going` is off. However this
        function ends, the processes of its stages have ended too."""
        code = code_digest()
        self._waiting = [stage for stage in stages if stage.name not in self.done]
        for stage in self._waiting if self.gpus else ():
            if stage.gpus > self.gpus:
                raise ValueError(f"gpus={self.gpus}: stage {stage.name} asks for {stage.gpus}; accepted: that many")
        entries = [stage.entry for stage in self._waiting]
        # what a single stage uses it imports itself, so that the first ones do not wait for it (probes take seconds)
        stage_process.prepare(entry for entry in entries if entries.count(entry) > 1)
        with ProgressDisplay() as self._progress:
            try:
                while self._waiting or self._running:
                    moved = self._start_ready(code) + self._collect_ended()
                    self._progress.update(
                        {job.work.stage.name: (job.started, job.work.folder) for job in self._running}
                    )
                    if not moved:
                        time.sleep(POLL)
            finally:
                stage_process.end([job.process for job in self._running])
        return self.done

    def _start_ready(self, code: str) -> int:
        """Starts or skips the stages whose inputs are done; returns how many."""
        before = len(self._waiting)
        for stage in [s for s in self._waiting if s.inputs <= self.done.keys()]:
            work = Work.of(stage, self.root, self.seed, self.done, code)
            if (folder := self.plan.complete_folder(stage, work.fingerprint)) is not None:
                self._progress.ended(stage.name, "complete", folder)
                self.done[stage.name] = folder
            elif len(self._running) < self.slots and stage.gpus <= (len(self._free) if self.gpus else stage.gpus):
                self._start(work)
            else:
                continue
            self._waiting.remove(stage)
        return before - len(self._waiting)

    def _start(self, work: Work) -> None:
        """Starts the process of a stage, with its GPUs where these are given out."""
        gpus = [self._free.pop(0) for _ in range(work.stage.gpus if self.gpus else 0)]
        work.log.parent.mkdir(parents=True, exist_ok=True)
        work.path_file.unlink(missing_ok=True)
        entry, argv = work.stage.resources.command(work.stage.entry, work.argv)
        more = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if self.gpus else {}
        process = stage_process.start(entry, argv, work.log, more)
        self._running.append(_Job(work, process, time.time(), gpus))
        self._progress.started(work.stage.name)

    def _collect_ended(self) -> int:
        """Takes note of the stages that have ended; returns how many."""
        ended = [job for job in self._running if job.process.exitcode is not None]
        for job in ended:
            self._running.remove(job)
            self._free += job.gpus
            work, name = job.work, job.work.stage.name
            try:
                folder = work.result(job.process.exitcode)
            except StageFailed as failure:
                if not self.keep_going:
                    raise
                self.failed[name] = failure
                self._progress.ended(name, "failed", work.log)
                self._drop_dependents()
                continue
            self.done[name] = folder
            self.plan.enter(name, folder, argv=work.argv, fingerprint=work.fingerprint)
            self.plan.save()
            self._progress.ended(name, f"done in {time.time() - job.started:.0f} s", folder)
        return len(ended)

    def _drop_dependents(self) -> None:
        """Moves the waiting stages that need a failed one to `failed`."""
        while lost := [stage for stage in self._waiting if stage.inputs & self.failed.keys()]:
            for stage in lost:
                needed = min(stage.inputs & self.failed.keys())
                self.failed[stage.name] = StageFailed(f"stage {stage.name}: needs {needed}, which failed", usage=False)
                self._waiting.remove(stage)


def visible_gpus(count: int) -> list[str]:
    """The first `count` GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    if len(names) < count:
        raise ValueError(f"gpus={count}: CUDA_VISIBLE_DEVICES={visible} has {len(names)}; accepted: up to {len(names)}")
    return names[:count]


def code_digest() -> str:
    """sha256 over the source and the configs, in their order by name."""
    digest = hashlib.sha256()
    for path in sorted(path for package in CODE for path in (ROOT / package).rglob("*")):
        if path.suffix in (".py", ".yaml", ".json") and path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
