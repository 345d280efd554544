"""A recipe many times, over seeds and settings: each a process of its own, here or as jobs of a SLURM cluster.

    python -m train.sweep recipe=quickstart seeds=[0,1,2]                        # one after the other
    python -m train.sweep recipe=quickstart jobs=4 gpus=4                        # four side by side, a GPU each
    python -m train.sweep recipe=quickstart grid='["stages.opd.set.optim.lr=0.002,0.005"]'
    python -m train.sweep recipe=quickstart scale=gpu launcher=slurm slurm.slurm_partition=gpu slurm.timeout_min=1440

Every line of `grid` is `SETTING=VALUE,VALUE`; the sweep is all combinations of them with all seeds. Without a grid
everything goes to OUT/RECIPE as `train.recipe` puts it, else to a folder for each combination below OUT. Recipes skip
what is complete and continue what was stopped, so the same command again finishes a sweep; a SLURM job that is
preempted goes back to the queue by itself. SLURM needs the extra `cluster`, and a folder that all machines see.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from synth.ranges import Positive, settings
from train import report
from train.config.compose import load, run_entry
from train.recipe import RecipeConfig
from train.recipes.stage_process import ROOT

POLL = 0.5  # seconds between two checks of the jobs


class SweepFailed(Exception):
    """Some recipes of a sweep failed."""


@settings
class SweepConfig:
    """Settings of the command. `set`: arguments for every recipe. `jobs`: recipes side by side on this machine.

    gpus: how many GPUs of this machine to use, one for each recipe; 0 leaves the choice to the recipes. slurm:
    parameters of submitit's executor.
    """

    recipe: str = "quickstart"
    scale: str = "cpu"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    grid: list[str] = field(default_factory=list)
    set: list[str] = field(default_factory=list)
    launcher: Literal["local", "slurm"] = "local"
    jobs: Positive = 1
    gpus: int = 0
    slurm: dict[str, Any] = field(default_factory=lambda: {"timeout_min": 1440, "cpus_per_task": 8, "gpus_per_node": 1})
    out: str = "runs"

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: accepted: at least one, each once")
        for line in self.grid:
            setting, _, values = line.partition("=")
            if not setting or not all(values.split(",")):
                raise ValueError(f"grid: {line!r} is not understood; accepted: SETTING=VALUE,VALUE")
        if self.gpus < 0 or 0 < self.gpus < self.jobs:
            raise ValueError(f"gpus={self.gpus}: accepted: 0, or at least jobs={self.jobs}")


@dataclass(frozen=True)
class RecipeRun:
    """One recipe of a sweep: its name for people, its `key=value` arguments, and its folder."""

    name: str
    argv: tuple[str, ...]
    folder: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "train.recipe", *self.argv]


Ended = Iterator[tuple[RecipeRun, str | None]]  # a recipe that has ended, and what went wrong, in one line


def plan_runs(config: SweepConfig) -> list[RecipeRun]:
    """All recipes of the sweep, grid first. Raises ValueError when one of them would refuse its settings."""
    axes = [[(line.partition("=")[0], v) for v in line.partition("=")[2].split(",")] for line in config.grid]
    found = []
    for point in itertools.product(*axes):
        part = ",".join(f"{name.split('.')[-1]}={value}" for name, value in point)
        shared = [f"recipe={config.recipe}", f"scale={config.scale}", *config.set, f"out={Path(config.out, part)}"]
        shared += [f"{name}={value}" for name, value in point]
        for seed in config.seeds:
            argv = [*shared, "seeds=1", f"seed={seed}"]  # seeds are the sweep's, also for a recipe that has its own
            name = " ".join([config.recipe, *(f"{n}={v}" for n, v in point), f"seed={seed}"])
            found.append(RecipeRun(name, tuple(argv), load("recipe", RecipeConfig, argv).folder))
    if len({(run.folder, run.argv[-1]) for run in found}) < len(found):
        raise ValueError(f"grid={config.grid}: two points would share a folder; accepted: settings of different names")
    return found


def environment(**more: str) -> dict[str, str]:
    """The environment of a recipe, in which this code can be imported."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}


def visible_gpus(count: int) -> list[str]:
    """The first `count` GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    if len(names) < count:
        raise ValueError(f"gpus={count}: CUDA_VISIBLE_DEVICES={visible} has {len(names)}; accepted: up to {len(names)}")
    return names[:count]


def run_local(config: SweepConfig, planned: Sequence[RecipeRun], logs: Path) -> Ended:
    """Runs recipes on this machine, `config.jobs` at a time; stops them when the caller stops."""
    devices = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus(config.gpus)] or [{} for _ in range(config.jobs)]
    waiting = list(enumerate(planned))
    running: dict[subprocess.Popen, tuple[RecipeRun, Path, dict[str, str]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < config.jobs:
                k, run = waiting.pop(0)
                log, device = logs / f"{k}.log", devices.pop(0)
                with log.open("w", encoding="utf-8") as output:
                    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
                    running[subprocess.Popen(run.command, env=environment(**device), **streams)] = (run, log, device)
            for process in [process for process in running if process.poll() is not None]:
                run, log, device = running.pop(process)
                devices.append(device)
                yield run, _error_of(process.returncode, log)
            time.sleep(POLL)
    finally:
        for process in running:
            process.terminate()  # a recipe then ends its stages
        for process in running:
            process.wait()


def _error_of(code: int, log: Path) -> str | None:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    error = next((line for line in lines if line.startswith("error: ")), f"code {code}")
    return f"{error.removeprefix('error: ')} ({log})" if code else None


class PreemptibleCommand:
    """What a SLURM job does: runs a command, which submitit queues again when the job is preempted."""

    def __init__(self, command: Sequence[str]):
        self.command = list(command)

    def __call__(self) -> None:
        subprocess.run(self.command, check=True, env=environment())

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_slurm(config: SweepConfig, planned: Sequence[RecipeRun], logs: Path, cluster: str = "slurm") -> Ended:
    """Submits every recipe as a job. Raises ValueError without submitit or SLURM, or on a parameter unknown to them."""
    try:
        import submitit
    except ImportError:
        raise ValueError("launcher=slurm: submitit is missing; accepted: pip install 'glasshouse[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(folder=str(logs / "%j"), cluster=cluster)
        executor.update_parameters(**{"name": f"sweep-{config.recipe}", **config.slurm})
    except (RuntimeError, TypeError, NameError, ValueError, AssertionError) as error:
        raise ValueError(f"launcher=slurm: {str(error).splitlines()[0]}") from error
    jobs = [(run, executor.submit(PreemptibleCommand(run.command))) for run in planned]
    while jobs:
        for run, job in [(run, job) for run, job in jobs if job.done()]:
            jobs.remove((run, job))
            yield run, _error_of_job(job)
        time.sleep(POLL)


def _error_of_job(job: Any) -> str | None:
    error = job.exception()
    if error is None:
        return None
    lines = str(error).splitlines()  # the trace that submitit wrapped, then where its logs are
    last = next((line for line in reversed(lines) if "Error" in line), lines[0])
    return f"job {job.job_id}: {last} ({job.paths.stderr})"


def launch(config: SweepConfig, planned: Sequence[RecipeRun], logs: Path) -> dict[str, str]:
    """Runs all recipes; returns what went wrong, by name of the recipe, in the order planned."""
    logs.mkdir(parents=True, exist_ok=True)
    launched = (run_local if config.launcher == "local" else run_slurm)(config, planned, logs)
    errors = {run.name: error for run, error in tqdm(launched, "recipes", len(planned), unit=" recipe", disable=None)}
    return {run.name: error for run in planned if (error := errors[run.name]) is not None}


def main(config: SweepConfig) -> None:
    """Runs the sweep and writes one report for each combination of settings, over all seeds."""
    planned = plan_runs(config)
    errors = launch(config, planned, Path(config.out) / "sweep-logs")
    for folder in dict.fromkeys(run.folder for run in planned if run.name not in errors):
        print(f"report: {report.build([folder])}")
    if errors:
        raise SweepFailed("; ".join(f"{name}: {error}" for name, error in errors.items()))


def entry(argv: list[str] | None = None) -> int:
    """The command: exit code 0 done, 1 a recipe failed, 2 bad input, 130 interrupted."""
    try:
        return run_entry("sweep", SweepConfig, main, __doc__ or "", argv)
    except SweepFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(entry())
