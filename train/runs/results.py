"""Reads back what runs left behind: run folders, and recipe folders as one experiment per seed.

Everything that reports and comparisons know comes from files in run folders, so a figure can always be traced to
them. A file that is missing or torn reads as empty; whoever needs it says so. Try: `python -m train.compare
'runs/*/*'`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from train.statistics import Estimate, wilson

PLANS = "plan-seed*.json"


@dataclass(frozen=True)
class Run:
    """One run folder. `name` is its stage: what the recipe calls it, else the folder's name without the hash."""

    folder: Path
    stage: str | None = None

    @property
    def name(self) -> str:
        if self.stage is not None:
            return self.stage
        stem, dash, tail = self.folder.name.rpartition("-")
        return stem if dash and len(tail) == 8 else self.folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            config = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return config if isinstance(config, dict) else {}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_json(self.folder / "summary.json")

    @cached_property
    def ledger(self) -> dict[str, dict[str, float]]:
        """{"tokens" | "flops" | "seconds": {kind of work: amount}}."""
        ledger = read_json(self.folder / "ledger.json")
        return {unit: kinds for unit, kinds in ledger.items() if isinstance(kinds, dict)}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "metrics.jsonl")

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "samples.jsonl")

    @property
    def complete(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def kind(self) -> str:
        """What the run is, told by what it left: evaluation, probe, analysis, distillation or training."""
        if self.config.get("task", "layers") != "layers":  # of probes.run, which has a task in its settings
            return "analysis"
        if "by_ops" in self.summary:
            return "evaluation"
        if "results" in self.summary:
            return "probe"
        return "distillation" if "teacher" in self.config else "training"

    @property
    def inputs(self) -> dict[str, str]:
        """Setting -> name of the run folder that it points at, for every setting whose value looks like a path."""
        return {
            key: run_folder_name(value) for key, value in flat(self.config) if isinstance(value, str) and "/" in value
        }

    def curve(self, key: str, against: str = "step") -> tuple[list[float], list[float]]:
        """The logged values of one metric and where they were taken; lines without both are left out."""
        points = [(line[against], line[key]) for line in self.metrics if is_number(line.get(key)) and against in line]
        return [x for x, _ in points], [y for _, y in points]

    def total(self, unit: str) -> float:
        """Sum of one unit of the ledger over all kinds of work; 0 without a ledger."""
        return float(sum(self.ledger.get(unit, {}).values()))


@dataclass(frozen=True)
class Experiment:
    """Runs that belong together (one seed of a recipe): stage name -> run, and what the recipe says about them."""

    runs: dict[str, Run]
    seed: int | None = None
    plan: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[Run]:
        return [run for run in self.runs.values() if run.kind == kind]

    def label(self, stage: str) -> str:
        return next((s["label"] for s in self.plan.get("stages", []) if s["name"] == stage and s.get("label")), stage)

    def input(self, run: Run, role: str) -> Run | None:
        """The run that a setting `role`, or one inside a section of that name, points at."""
        names = [name for setting, name in run.inputs.items() if setting.split(".")[0] == role]
        return next((other for other in self.runs.values() if other.folder.name in names), None)

    def subject(self, evaluation: Run) -> Run | None:
        """The run whose model an evaluation or a probe looked at."""
        return next(
            (r for r in self.runs.values() if r is not evaluation and r.folder.name in evaluation.inputs.values()), None
        )

    def evaluations_of(self, stage: str) -> list[Run]:
        """The evaluations of the model that came from `stage`: in distribution, then, if any, out of it."""
        return [e for e in self.of("evaluation") if (s := self.subject(e)) is not None and s.name == stage]

    def evaluation_of(self, stage: str) -> Run | None:
        """The first evaluation whose model came from `stage`."""
        return next(iter(self.evaluations_of(stage)), None)

    def arms(self) -> list[Run]:
        """The runs that went on from the same student: every distillation, in the recipe's order."""
        return self.of("distillation")


def full_accuracy(evaluation: Run) -> Estimate:
    """Share of fully correct solutions of an evaluation, with Wilson's interval.

    Raises KeyError if its summary holds no counts."""
    right, n = counts(evaluation)
    return wilson(right, n)


def counts(evaluation: Run) -> tuple[int, int]:
    rows = evaluation.summary["by_ops"]
    return sum(int(row["right"]) for row in rows), sum(int(row["n"]) for row in rows)


def load(paths: list[Path]) -> list[Experiment]:
    """The experiments behind recipe folders and run folders, ordered by seed.

    A recipe folder brings one experiment per plan file. Run folders given one by one are grouped by what points at
    what; two groups of the same stages are two seeds. Raises ValueError for a path that is neither.
    """
    experiments, loose = [], []
    for path in paths:
        plans = sorted(path.glob(PLANS))
        if plans:
            experiments += [_planned(path, read_json(plan)) for plan in plans]
        elif is_run(path):
            loose.append(Run(path))
        else:
            found = [Run(p) for p in sorted(path.iterdir()) if is_run(p)] if path.is_dir() else []
            if not found:
                raise ValueError(f"{path} is neither a run folder (with config.yaml) nor a folder of runs")
            loose += found
    experiments += _grouped(loose)
    return sorted(experiments, key=lambda e: (e.seed is None, e.seed or 0))


def _planned(folder: Path, plan: dict[str, Any]) -> Experiment:
    """The stages of a plan that have run; a recipe that is still at work has named no folder for the others."""
    named = {stage["name"]: folder / stage["folder"] for stage in plan.get("stages", []) if "folder" in stage}
    return Experiment({name: Run(path, name) for name, path in named.items() if is_run(path)}, plan.get("seed"), plan)


def _grouped(runs: list[Run]) -> list[Experiment]:
    """Connected components of the graph 'a setting of this run names that folder'."""
    groups: list[list[Run]] = []
    for run in runs:
        touching = [g for g in groups if any(_connected(run, other) for other in g)]
        groups = [g for g in groups if g not in touching] + [[r for g in touching for r in g] + [run]]
    singles = [g[0] for g in groups if len(g) == 1]
    joined = [g for g in groups if len(g) > 1]
    if singles:  # runs that point at nothing stand side by side, under names that tell them apart
        joined.append(singles)
    return [Experiment(_named(group), group[0].config.get("seed")) for group in joined]


def _connected(a: Run, b: Run) -> bool:
    return a.folder.name in b.inputs.values() or b.folder.name in a.inputs.values()


def _named(group: list[Run]) -> dict[str, Run]:
    names = [run.name for run in group]
    return {run.name if names.count(run.name) == 1 else run.folder.name: run for run in group}


def is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def run_folder_name(path: str) -> str:
    """The run folder's name in a path to a run folder or to one of its checkpoints."""
    parts = Path(path).parts
    return parts[parts.index("checkpoints") - 1] if "checkpoints" in parts[1:] else parts[-1] if parts else ""


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of a nested mapping."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn line (the last one of a killed run) is left out."""
    lines = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    except OSError:
        return []
    return lines
