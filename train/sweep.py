"""A recipe many times, over seeds and settings: each a process of its own, here or as jobs of a SLURM cluster.

    python -m train.sweep recipe=quickstart seeds=[0,1,2]                        # one after the other
    python -m train.sweep recipe=quickstart jobs=4 gpus=4                        # four side by side, a GPU each
    python -m train.sweep recipe=quickstart grid='["stages.opd.set.optim.lr=0.002,0.005"]'
    python -m train.sweep recipe=quickstart scale=gpu launcher=slurm slurm.slurm_partition=gpu slurm.timeout_min=1440

Every line of `grid` is `SETTING=VALUE,VALUE`; the sweep is all combinations of them with all seeds. A setting that
begins with `stages.` is one of the recipe. Without a grid everything goes to OUT/RECIPE as `train.recipe` puts it, else
to a folder for each combination below OUT. Recipes skip what is complete and continue what was stopped, so the same
command again finishes a sweep; a SLURM job that is preempted goes back to the queue by itself. SLURM needs the extra
`cluster`, and a folder that all machines see.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from train import report
from train.config.compose import load, run_entry
from train.recipe import RecipeConfig
from train.recipes.runner import ROOT

LAUNCHERS = ("local", "slurm")
POLL = 0.5  # seconds between looks at the jobs


class SweepFailed(Exception):
    """Some recipes of a sweep did not come to their end."""


@dataclass(frozen=True)
class SweepConfig:
    """Settings of the command. `set`: words for every recipe. `jobs`: recipes side by side on this machine. `gpus`:
    cards of this machine to give out, one to each of them; 0 leaves the choice to the recipes. `slurm`: parameters of
    submitit's executor."""

    recipe: str = "quickstart"
    scale: str = "cpu"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    grid: list[str] = field(default_factory=list)
    set: list[str] = field(default_factory=list)
    launcher: str = "local"
    jobs: int = 1
    gpus: int = 0
    slurm: dict[str, Any] = field(default_factory=dict)
    out: str = "runs"

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: accepted: at least one, each once")
        for line in self.grid:
            setting, _, values = line.partition("=")
            if not setting or not all(values.split(",")):
                raise ValueError(f"grid: {line!r} is not understood; accepted: SETTING=VALUE,VALUE")
        if self.launcher not in LAUNCHERS:
            raise ValueError(f"launcher={self.launcher}: accepted: {', '.join(LAUNCHERS)}")
        if self.jobs < 1:
            raise ValueError(f"jobs={self.jobs}: accepted: 1 or more")
        if self.gpus < 0 or 0 < self.gpus < self.jobs:
            raise ValueError(f"gpus={self.gpus}: accepted: 0, or at least jobs={self.jobs}")


@dataclass(frozen=True)
class Run:
    """One recipe of a sweep: its name for people, its `key=value` words, and its folder."""

    name: str
    words: tuple[str, ...]
    folder: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "train.recipe", *self.words]


class Job(Protocol):
    """A recipe under way, here or elsewhere."""

    def done(self) -> bool:
        """Whether it has ended."""

    def trouble(self) -> str | None:
        """After its end: None, or in one line what went wrong and where to read on."""


def runs(config: SweepConfig) -> list[Run]:
    """All recipes of the sweep, grid first. Raises ValueError when one of them would refuse its settings."""
    axes = [[(line.partition("=")[0], v) for v in line.partition("=")[2].split(",")] for line in config.grid]
    found = []
    for point in itertools.product(*axes):
        part = ",".join(f"{name.split('.')[-1]}={value}" for name, value in point)
        out = Path(config.out, part)
        words = [f"recipe={config.recipe}", f"scale={config.scale}", *config.set, f"out={out}"]
        words += [f"{'recipe.' if name.startswith('stages.') else ''}{name}={value}" for name, value in point]
        for seed in config.seeds:
            one = [*words, "seeds=1", f"seed={seed}"]  # seeds are the sweep's, also for a recipe that has its own
            checked = load("recipe", RecipeConfig, one)
            name = " ".join([config.recipe, *(f"{n}={v}" for n, v in point), f"seed={seed}"])
            found.append(Run(name, tuple(one), checked.folder))
    folders = {(run.folder, run.words[-1]) for run in found}
    if len(folders) < len(found):
        raise ValueError(f"grid={config.grid}: two points would share a folder; accepted: settings of different names")
    return found


class LocalJob:
    """A process of this machine; its output goes to a log."""

    def __init__(self, run: Run, log: Path, card: str | None):
        self.log = log
        environment = {**os.environ, **({} if card is None else {"CUDA_VISIBLE_DEVICES": card})}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                run.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )

    def done(self) -> bool:
        return self.process.poll() is not None

    def trouble(self) -> str | None:
        if self.process.returncode == 0:
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line for line in lines if line.startswith("error: ")), f"code {self.process.returncode}")
        return f"{said.removeprefix('error: ')} ({self.log})"


class SlurmJob:
    """A job of submitit."""

    def __init__(self, job: Any):
        self.job = job

    def done(self) -> bool:
        return self.job.done()

    def trouble(self) -> str | None:
        error = self.job.exception()
        if error is None:
            return None
        lines = str(error).splitlines()  # the trace that submitit wrapped, then where its logs are
        said = next((line for line in reversed(lines) if "Error" in line), lines[0])
        return f"job {self.job.job_id}: {said} ({self.job.paths.stderr})"


class Requeued:
    """What a SLURM job does: runs a command, which submitit puts into the queue again when the job is preempted."""

    def __init__(self, command: Sequence[str]):
        self.command = list(command)

    def __call__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(self.command, check=True, env=environment)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def cards(gpus: int) -> list[str]:
    """The first `gpus` cards that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(gpus)]
    if len(names) < gpus:
        raise ValueError(f"gpus={gpus}: CUDA_VISIBLE_DEVICES={visible} has {len(names)}; accepted: up to {len(names)}")
    return names[:gpus]


def start_here(config: SweepConfig, planned: list[Run], logs: Path) -> Iterator[tuple[Run, Job]]:
    """Starts a recipe whenever there is room for one more; ends them all when this is not carried on to its end."""
    free = cards(config.gpus) if config.gpus else [None] * config.jobs
    under_way: list[tuple[LocalJob, str | None]] = []
    try:
        for k, run in enumerate(planned):
            while len(under_way) == config.jobs:
                for ended in [pair for pair in under_way if pair[0].done()]:
                    under_way.remove(ended)
                    free.append(ended[1])
                time.sleep(POLL)
            under_way.append((LocalJob(run, logs / f"{k}.log", card := free.pop(0)), card))
            yield run, under_way[-1][0]
        while not all(job.done() for job, _ in under_way):
            time.sleep(POLL)
    finally:
        for job, _ in under_way:
            if not job.done():
                job.process.terminate()  # a recipe answers by ending its stages
                job.process.wait()


def start_on_slurm(
    config: SweepConfig, planned: list[Run], logs: Path, cluster: str = "slurm"
) -> Iterator[tuple[Run, Job]]:
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
    for run in planned:
        yield run, SlurmJob(executor.submit(Requeued(run.command)))


@contextmanager
def shown(total: int) -> Iterator[tqdm]:
    with tqdm(total=total, desc="recipes", unit=" recipe", disable=None) as bar:
        yield bar


def launch(config: SweepConfig, planned: list[Run], logs: Path, cluster: str = "slurm") -> dict[str, str]:
    """Brings all recipes to their end; returns what went wrong, by name of the recipe."""
    logs.mkdir(parents=True, exist_ok=True)
    here = config.launcher == "local"
    starting = start_here(config, planned, logs) if here else start_on_slurm(config, planned, logs, cluster)
    jobs: dict[str, Job] = {}
    with shown(len(planned)) as bar:
        for run, job in starting:
            jobs[run.name] = job
            bar.update(sum(j.done() for j in jobs.values()) - bar.n)
        while not all(job.done() for job in jobs.values()):
            bar.update(sum(j.done() for j in jobs.values()) - bar.n)
            time.sleep(POLL)
        bar.update(len(planned) - bar.n)
    return {name: said for name, job in jobs.items() if (said := job.trouble()) is not None}


def main(config: SweepConfig) -> None:
    """Runs the sweep and writes one report for each combination of settings, over all seeds."""
    planned = runs(config)
    troubles = launch(config, planned, Path(config.out) / "sweep-logs")
    for folder in dict.fromkeys(run.folder for run in planned):
        if any(run.folder == folder and run.name not in troubles for run in planned):
            print(f"report: {report.build([folder])}")
    if troubles:
        raise SweepFailed("; ".join(f"{name}: {said}" for name, said in troubles.items()))


def entry(argv: list[str] | None = None) -> int:
    """The command: exit code 0 done, 1 a recipe failed, 2 bad input, 130 interrupted."""
    try:
        return run_entry("sweep", SweepConfig, main, __doc__ or "", argv)
    except SweepFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(entry())
