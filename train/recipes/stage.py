"""A stage of a recipe: a command, what it needs first, what it runs on; and the work that it is once that is there."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synth.exit_codes import CommandFailed
from synth.kernel.rng import key
from synth.ranges import Count, Positive, settings
from train.config.grammar import as_arguments

DISTRIBUTED = ("train.pretrain", "train.opd.run")  # entries that run in several processes
PORT = 29500  # torchrun's own, of the first node


class StageFailed(CommandFailed):
    """A stage ended with an error. `usage`: it refused its settings."""

    def __init__(self, message: str, usage: bool):
        super().__init__(message)
        self.usage = usage
        self.code = 2 if usage else 1


@settings
class Resources:
    """What a stage runs on; null: what the scale says, else one process without a GPU, for an hour.

    gpus: of each node, with a process for each. nodes: machines. processes: on each node, where it is not one for each
    GPU. minutes: the longest that a job takes.
    """

    gpus: Count | None = None  # of each node, with a process for each
    nodes: Positive | None = None  # machines
    processes: Positive | None = None  # on each node, where it is not one for each GPU
    minutes: Positive | None = None  # the longest that a job takes

    def __or__(self, other: "Resources") -> "Resources":
        """These with what `other` says."""
        given = {name: value for name, value in vars(other).items() if value is not None}
        return Resources(**vars(self) | given)

    @property
    def processes_of_a_node(self) -> int:
        return self.processes or max(1, self.gpus or 0)

    @property
    def processes_of_all_nodes(self) -> int:
        return self.processes_of_a_node * (self.nodes or 1)

    def __str__(self) -> str:
        nodes = f"{self.nodes or 1} node{'s' if (self.nodes or 1) > 1 else ''}"
        parts = [nodes, f"{self.gpus or 0} GPUs each", f"{self.processes_of_all_nodes} processes"]
        return ", ".join([*parts, f"{self.minutes or 60} minutes"])

    def command(self, entry: str, argv: Sequence[str], job: str = "", host: str = "") -> tuple[str, list[str]]:
        """The module to run and its arguments: the entry itself, or torchrun around it for several processes.

        job, host: what tells the torchruns of this job's nodes from others, and the first of the nodes.
        """
        if self.processes_of_all_nodes == 1:
            return entry, list(argv)
        where = ["--standalone"]
        if (self.nodes or 1) > 1:
            endpoint = f"--rdzv-endpoint={host}:{PORT}"
            where = [f"--nnodes={self.nodes}", "--rdzv-backend=c10d", f"--rdzv-id={job}", endpoint]
        return TORCHRUN, [*where, f"--nproc-per-node={self.processes_of_a_node}", "-m", entry, *argv]


TORCHRUN = "torch.distributed.run"


@dataclass(frozen=True)
class Stage:
    """One command of a recipe: `python -m entry` with `settings` (dotted setting -> value) once `needs` are done.

    In a value, or in a list, `@NAME` is the run folder of stage NAME, `@seed` the recipe's seed, `{seed}` the same
    inside a text, and `@seed/TEXT` a seed derived from it by hashing. `items`: of the lists that it is a copy over.
    """

    name: str
    entry: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    label: str = ""
    items: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)

    @property
    def inputs(self) -> set[str]:
        """Names of the stages that this one needs: those its settings point at, and `needs`."""
        values = [one for value in self.settings.values() for one in (value if isinstance(value, list) else [value])]
        texts = [value[1:] for value in values if isinstance(value, str) and value.startswith("@")]
        return {text for text in texts if text != "seed" and not text.startswith("seed/")} | set(self.needs)

    @property
    def gpus(self) -> int:
        """GPUs that it uses on a node: what it asks for, or the one of `device=cuda`."""
        return self.resources.gpus or int(self.settings.get("device") == "cuda")

    def argv(self, folders: Mapping[str, Path], seed: int) -> list[str]:
        """The settings as `key=value` arguments, with every reference resolved."""
        values = {name: _resolve(value, folders, seed) for name, value in self.settings.items()}
        return as_arguments(values)


def _resolve(value: Any, folders: Mapping[str, Path], seed: int) -> Any:
    if isinstance(value, list):
        return [_resolve(one, folders, seed) for one in value]
    if not isinstance(value, str):
        return value
    if not value.startswith("@"):
        return value.replace("{seed}", str(seed))
    if value == "@seed":
        return seed
    if value.startswith("@seed/"):
        return key(seed, "recipe " + value.removeprefix("@seed/"), 0) % 2**31
    return str(folders[value[1:]])


def check_graph(stages: list[Stage]) -> None:
    """Raises ValueError when a stage needs one that is not there, or two need each other."""
    names = [stage.name for stage in stages]
    for stage in stages:
        if stage.resources.processes_of_all_nodes > 1 and stage.entry not in DISTRIBUTED:
            accepted = f"gpus up to 1, nodes=1, processes=1, or a stage of {', '.join(DISTRIBUTED)}"
            raise ValueError(f"stage {stage.name}: resources: {stage.entry} is one process; accepted: {accepted}")
        for needed in sorted(stage.inputs - set(names)):
            raise ValueError(f"stage {stage.name} needs {needed}, which the recipe lacks; accepted: {', '.join(names)}")
    done: set[str] = set()
    while ready := [s.name for s in stages if s.name not in done and s.inputs <= done]:
        done.update(ready)
    if stuck := [name for name in names if name not in done]:
        raise ValueError(f"stages {', '.join(stuck)} need each other in a circle; accepted: an order to start them in")


@dataclass(frozen=True)
class Work:
    """A stage whose inputs are known: its arguments, a hash of all that its result depends on, and where it writes."""

    stage: Stage
    argv: list[str]
    fingerprint: str
    path_file: Path

    @staticmethod
    def of(stage: Stage, root: Path, seed: int, folders: Mapping[str, Path], code: str) -> "Work":
        """The work of a stage in the recipe folder `root`. folders: of its inputs. code: hash of the code."""
        path_file = root / "logs" / f"{stage.name}-seed{seed}.path"
        out = {"root": root, "name": stage.name, "path_file": path_file}
        argv = [*stage.argv(folders, seed), *(f"out.{name}={value}" for name, value in out.items())]
        fingerprint = hashlib.sha256(json.dumps([stage.entry, argv, code]).encode()).hexdigest()
        return Work(stage, argv, fingerprint, path_file)

    @property
    def log(self) -> Path:
        """What the stage prints."""
        return self.path_file.with_suffix(".log")

    @property
    def note(self) -> Path:
        """What a job says of its result."""
        return self.path_file.with_suffix(".json")

    @property
    def folder(self) -> Path | None:
        """The run folder, once the stage has opened it."""
        return Path(os.fsdecode(self.path_file.read_bytes()).strip()) if self.path_file.is_file() else None

    def result(self, code: int | None) -> Path:
        """The run folder of the stage that ended with this exit code. Raises StageFailed when it did not succeed."""
        if code == 0 and self.folder is not None:
            return self.folder
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        refusals = [line for line in lines if line.startswith("error: ")]
        if refusals and (code == 2 or self.stage.resources.processes_of_all_nodes > 1):  # torchrun ends with 1
            raise StageFailed(f"stage {self.stage.name}: {refusals[-1].removeprefix('error: ')}", usage=True)
        what = f"ended with code {code}" if code else "ended without a run folder"
        tail = "\n".join(f"  {line}" for line in lines[-12:])
        raise StageFailed(f"stage {self.stage.name} {what}; the end of {self.log}:\n{tail}", usage=False)
