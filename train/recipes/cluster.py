"""The stages of a recipe as jobs of a cluster, through submitit: each waits for what it needs, the report for all.

A job runs its stage as `train.recipes.runner` would, under torchrun where the stage has several processes, on one node
or on several. A job that is preempted, or comes to its time limit, goes back to the queue, and its stage continues from
its last checkpoint, bit for bit. A job whose inputs failed is cancelled. Jobs of one name run one after the other, so a
recipe that is submitted twice finds what the first time has done. All nodes must see the recipe's folder.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from synth.store.files import read_json, write_json
from train.recipes.plan import PlanFile
from train.recipes.stage import TORCHRUN, Resources, Stage, StageFailed, Work
from train.recipes.stage_process import PATIENCE, stage_environment

POLL = 0.2  # seconds between two looks at a file
LATE = 300.0  # seconds after which a note of another node is visible here, whatever the file system keeps
LISTED = ("slurm_additional_parameters",)  # parameters of submitit that add to ours
CPUS = 2  # of each process: one computes, one makes the data of a GPU ready


@dataclass(frozen=True)
class StageJob:
    """What the job of a stage does. done: folders of the stages that are complete, and paths that stand for stages.
    wait: whether to wait for inputs that are at work; where the cluster keeps the order, that is needless."""

    stage: Stage
    root: Path
    seed: int
    done: dict[str, Path]
    code: str
    wait: bool

    def __call__(self) -> str:
        """Runs the stage; returns its run folder, which it also notes for the others. Raises StageFailed."""
        try:
            work = Work.of(self.stage, self.root, self.seed, self.done | self._inputs(), self.code)
            folder = work.result(run(work))
        except StageFailed as failure:
            if is_first_node():
                write_json(self.note, {"failed": str(failure)})
            raise
        if is_first_node():
            about = {"folder": str(folder), "argv": work.argv, "fingerprint": work.fingerprint}
            write_json(work.note, about)
        return str(folder)

    def checkpoint(self) -> Any:
        """Asked for by submitit when the job is preempted: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    @property
    def note(self) -> Path:
        """The file that says how the stage ended."""
        return self._note(self.stage.name)

    def command_line(self) -> str:
        """What the job runs, as a line of shell; the folder of an input that is not there yet is read when it is."""
        missing = {name: Path(f"__{name}__") for name in self.stage.inputs - self.done.keys()}
        work = Work.of(self.stage, self.root, self.seed, self.done | missing, self.code)
        entry, argv = self.stage.resources.command(self.stage.entry, work.argv, "JOB", "FIRST_NODE")
        words = shlex.join(["torchrun"] if entry == TORCHRUN else ["python", "-m", entry]) + " " + shlex.join(argv)
        for name, path in missing.items():
            file = self._note(name).with_suffix(".path")
            words = words.replace(str(path), f'"$(cat {shlex.quote(str(file))})"')
        return words

    def _note(self, name: str) -> Path:
        return self.root / "logs" / f"{name}-seed{self.seed}.json"

    def _inputs(self) -> dict[str, Path]:
        """The run folders of the stages that it needs, once they are there. Raises StageFailed when one is not."""
        found = {}
        for name in sorted(self.stage.inputs - self.done.keys()):
            noted = awaited(self._note(name), None if self.wait else LATE)
            if "folder" not in noted:
                raise StageFailed(f"stage {self.stage.name}: needs {name}, which failed", usage=False)
            found[name] = Path(noted["folder"])
        return found


def awaited(note: Path, patience: float | None) -> dict[str, Any]:
    """What a job has noted, as soon as it is there; {} after `patience` seconds (None: never)."""
    end = time.monotonic() + (patience if patience is not None else float("inf"))
    while not note.is_file() and time.monotonic() < end:
        time.sleep(POLL)
    return read_json(note) if note.is_file() else {}


def is_first_node() -> bool:
    """Whether this process, of a job, is on the first of its nodes."""
    from submitit import JobEnvironment

    return JobEnvironment().global_rank == 0


def run(work: Work) -> int:
    """Runs the stage in this job; returns its exit code. It ends with the job, and does not hear the signal that tells
    the job that it is preempted."""
    from submitit import JobEnvironment

    here, resources = JobEnvironment(), work.stage.resources
    entry, argv = resources.command(work.stage.entry, work.argv, here.job_id, here.hostnames[0])
    work.log.parent.mkdir(parents=True, exist_ok=True)
    with work.log.open("a", encoding="utf-8") if here.global_rank == 0 else sys.stdout as log:
        process = subprocess.Popen(
            [sys.executable, "-m", entry, *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=stage_environment(),
            preexec_fn=_deaf_to_preemption,
        )
        try:
            return process.wait()
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _deaf_to_preemption() -> None:
    from submitit import JobEnvironment

    signal.signal(JobEnvironment._usr_sig(), signal.SIG_IGN)


@dataclass(frozen=True)
class ReportJob:
    """What the last job does: enters what the others noted into the plans, seed by seed, and writes the report."""

    plans: Mapping[int, PlanFile]
    conclude: Callable[[Sequence[str]], Any]
    waits_for: Sequence[Path] = ()

    def __call__(self) -> Any:
        """What `conclude` returns of a line for each stage that failed."""
        for note in self.waits_for:
            awaited(note, None)
        failures = []
        for seed, plan in self.plans.items():
            failures += plan.take_notes(seed)
            plan.save()
        return self.conclude(failures)


@dataclass(frozen=True)
class Submission:
    """A job to submit. after: names of the jobs that must succeed first; any_end: or come to whatever end."""

    name: str
    call: "StageJob | ReportJob"
    resources: Resources
    after: tuple[str, ...] = ()
    any_end: bool = False


class Cluster:
    """Submits jobs. parameters: of submitit's executor (`slurm_partition`, `slurm_account`, `cpus_per_task`, ...).

    Raises ValueError, in one line, without submitit or SLURM, or on a parameter that they do not know.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any], cluster: str = "slurm") -> None:
        try:
            import submitit
        except ImportError:
            accepted = "accepted: pip install 'glasshouse[cluster]', or launcher=local"
            raise ValueError(f"launcher=slurm: the package submitit is not installed; {accepted}") from None
        self.name, self.parameters, self.jobs = folder.name, dict(parameters), dict[str, Any]()
        try:
            self._make = partial(submitit.AutoExecutor, folder=str(folder / "logs" / "jobs" / "%j"), cluster=cluster)
            self._make().update_parameters(**self.parameters)
        except (RuntimeError, TypeError, NameError, ValueError, AssertionError) as error:
            raise ValueError(
                f"launcher=slurm: {str(error).splitlines()[0]}; accepted: a machine of the cluster"
            ) from error

    def submit(self, one: Submission) -> Any:
        """Submits a job, and remembers it under its name."""
        ids = [self.jobs[name].job_id for name in one.after if name in self.jobs]
        waits = [":".join(["afterany" if one.any_end else "afterok", *ids])] if ids else []
        more = {"dependency": ",".join([*waits, "singleton"]), "kill-on-invalid-dep": "yes"}
        resources, processes = one.resources, one.resources.processes_of_a_node
        asked = {
            "name": f"{self.name}.{one.name}",
            "timeout_min": resources.minutes or 60,
            "nodes": resources.nodes or 1,
            "tasks_per_node": 1,
            "cpus_per_task": CPUS * processes,
            "slurm_additional_parameters": more | dict(self.parameters.get("slurm_additional_parameters", {})),
        }
        asked |= {"gpus_per_node": resources.gpus} if resources.gpus else {}
        executor = self._make()
        executor.update_parameters(**asked | {k: v for k, v in self.parameters.items() if k not in LISTED})
        before = dict(os.environ)
        os.environ.update(stage_environment())  # jobs take over the environment that they are submitted from
        try:
            self.jobs[one.name] = executor.submit(one.call)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return self.jobs[one.name]


def submissions(
    plans: Mapping[int, PlanFile],
    stages: Sequence[Stage],
    given: Mapping[int, Mapping[str, Path]],
    code: str,
    conclude: Callable[[Sequence[str]], Any],
    wait: bool = False,
) -> list[Submission]:
    """A job for each stage that is not complete, in an order in which they can run, and the report's. Writes nothing.

    plans, given: of each seed; given: paths that stand for stages. wait: as in `StageJob`.
    """
    found, notes = list[Submission](), list[Path]()
    for seed, plan in plans.items():
        plan.take_notes(seed)
        done, waiting, root = dict(given[seed]), list(stages), plan.path.parent
        placed = set(done)
        while waiting:
            stage = next(one for one in waiting if one.inputs <= placed)
            waiting.remove(stage)
            placed.add(stage.name)
            if stage.name in done:
                continue
            if stage.inputs <= done.keys():
                work = Work.of(stage, root, seed, done, code)
                if (folder := plan.complete_folder(stage, work.fingerprint)) is not None:
                    done[stage.name] = folder
                    continue
            after = tuple(f"{name}-seed{seed}" for name in sorted(stage.inputs - done.keys()))
            job = StageJob(stage, root, seed, dict(done), code, wait)
            found.append(Submission(f"{stage.name}-seed{seed}", job, stage.resources, after))
            notes.append(job.note)
    report = ReportJob(plans, conclude, tuple(notes) if wait else ())
    everything = tuple(one.name for one in found)
    return [*found, Submission("report", report, Resources(minutes=30), everything, any_end=True)]


def submit(all_jobs: Sequence[Submission], cluster: Cluster) -> None:
    """Submits the jobs and prints a line for each."""
    for one in all_jobs:
        if isinstance(one.call, StageJob):
            one.call.note.parent.mkdir(parents=True, exist_ok=True)
            one.call.note.unlink(missing_ok=True)  # of an earlier job, which failed
    for one in all_jobs:
        job = cluster.submit(one)
        print(f"{one.name:<24} job {job.job_id:<10} {one.resources}; after {', '.join(one.after) or 'nothing'}")


def script(all_jobs: Sequence[Submission], folder: Path) -> str:
    """The jobs as a script of commands, each with its resources and the jobs that it waits for."""
    lines = [f"mkdir -p {shlex.quote(str(folder / 'logs'))}"]
    for one in all_jobs:
        after = ("the end of " if one.any_end else "") + (", ".join(one.after) or "nothing")
        command = f"python -m train.report {shlex.quote(str(folder))}"
        if isinstance(one.call, StageJob):
            command = one.call.command_line()
        lines += ["", f"# {one.name}: {one.resources}; after {after}", command]
    return "\n".join(lines)
