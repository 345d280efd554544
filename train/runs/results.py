"""Reads run folders, and recipe folders as one experiment for each seed. Reports, recipes and probes read runs here.

A file that is not there reads as empty, and so does the torn last line of a JSON-lines file. A file that is there and
cannot be read raises ValueError with its path.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from yaml.representer import SafeRepresenter

from synth.store.files import Record, as_record, naming, read_json, read_json_lines
from train.runs import sha256sums
from train.statistics import Estimate, wilson
from train.tables import format_amount, format_interval

yaml.SafeDumper.add_representer(Record, SafeRepresenter.represent_dict)  # a report shows manifests as YAML
PLANS = "plan-seed*.json"
# Settings of data that change what is written about a problem (mistakes, contexts), not which problems are drawn.
WRITING = frozenset(
    {"retry_rate", "retry_kind", "mask_mistakes", "uncorrected", "contexts", "shortest", "solution_order"}
)


@dataclass(frozen=True)
class Run:
    """One run folder. `name` is its stage: what the recipe calls it, else the folder's name without the hash; of
    earlier versions' distillations, which were all called opd, the method."""

    folder: Path
    stage: str | None = None

    @property
    def name(self) -> str:
        if self.stage is not None:
            return self.stage
        stem = _without_hash(self.folder.name)
        return self.method or stem if stem == "opd" else stem

    @property
    def method(self) -> str | None:
        """Of a distillation: the name of its method."""
        return (self.config.get("method") or {}).get("name")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted setting -> value, `out` aside; of a path the name without its hash."""
        found = flat({key: value for key, value in self.config.items() if key not in ("out", "log")})
        return {k: _without_hash(run_folder_name(v)) if isinstance(v, str) and "/" in v else v for k, v in found}

    @cached_property
    def config(self) -> dict[str, Any]:
        path = self._checked("config.yaml")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: is not YAML ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: holds no settings")
        return content

    def _checked(self, name: str) -> Path:
        """The path of a file whose content is what was written, as far as the folder says."""
        sha256sums.check(self.folder, name)
        return self.folder / name

    manifest = cached_property(lambda self: self.json("manifest"))
    summary = cached_property(lambda self: self.json("summary"))
    ledger = cached_property(lambda self: self.json("ledger"))  # {"tokens", "flops", ...: {kind of work: amount}}
    metrics = cached_property(lambda self: read_json_lines(self._checked("metrics.jsonl")))
    samples = cached_property(lambda self: read_json_lines(self._checked("samples.jsonl")))

    def json(self, name: str) -> dict[str, Any]:
        """The object in `name`.json of the folder; empty where there is no such file."""
        path = self._checked(f"{name}.json")
        content = read_json(path) if path.is_file() else {}
        if not isinstance(content, dict):
            raise ValueError(f"{path}: holds no JSON object")
        return as_record(path, content)

    @property
    def complete(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def kind(self) -> str:
        """One of `train.runs.run_folder.KINDS`, as the manifest says."""
        return self.manifest.get("kind") or kind_of_old_run(self.config, self.summary)

    @property
    def problems(self) -> dict[str, Any]:
        """The settings that decide which problems the run reads or is judged on; empty where it has no data."""
        data = self.config.get("data") or {}
        overrides = {key: value for key, value in (data.get("overrides") or {}).items() if key not in WRITING}
        return {"preset": data.get("preset"), "tokens": data.get("tokens"), **overrides} if data else {}

    @property
    def verdicts(self) -> np.ndarray:
        """Of an evaluation: 1.0 for each problem that is fully solved, 0.0 for each other, float64[n]."""
        return np.array((self.summary.get("verdicts") or {}).get("right", []), dtype=float)

    @property
    def judged_problems(self) -> tuple:
        """What tells on which problems an evaluation's verdicts are: two runs with the same are paired."""
        index = (self.summary.get("verdicts") or {}).get("index", [])
        return self.manifest.get("data"), (self.config.get("data") or {}).get("seed"), self.config.get("split"), *index

    @property
    def inputs(self) -> dict[str, str]:
        """Setting -> name of the run folder that it points at, for every setting whose value looks like a path."""
        paths = ((k, v) for k, v in flat(self.config) if isinstance(v, str) and "/" in v)
        return {setting: run_folder_name(path) for setting, path in paths}

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
        others, names = (run for run in self.runs.values() if run is not evaluation), evaluation.inputs.values()
        return next((run for run in others if run.folder.name in names), None)

    def evaluation_of(self, stage: str, out_of_distribution: bool = False) -> Run | None:
        """The first evaluation of the model that `stage` made, in or out of distribution."""
        if (made := self.runs.get(stage)) is None:
            return None
        judging = (e for e in self.of("evaluation") if self.subject(e) is made)
        return next((e for e in judging if is_out_of_distribution(e, made) == out_of_distribution), None)

    def arms(self) -> list[Run]:
        """The distillations, in the recipe's order."""
        return self.of("distillation")

    def roles(self) -> dict[str, str]:
        """The stages that the distillations name as "teacher" and "student"."""
        found: dict[str, str] = {}
        for run in self.arms():
            for role in ("teacher", "student"):
                if role not in found and (named := self.input(run, role)) is not None:
                    found[role] = named.name
        return found


def is_out_of_distribution(evaluation: Run, trained: Run) -> bool:
    """Whether an evaluation has other problems than the model's run read; False where that run read none (a merge)."""
    return bool(trained.problems) and evaluation.problems != trained.problems


def kind_of_old_run(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """`Run.kind` for folders whose manifest does not say it (of earlier versions), from their settings and results."""
    if config.get("task", "layers") != "layers":
        return "analysis"
    if {"first", "second"} <= config.keys():
        return "merge"
    found = {"by_ops": "evaluation", "results": "probe"}
    return next((found[key] for key in found if key in summary), "distillation" if "teacher" in config else "training")


def full_accuracy(evaluation: Run) -> Estimate:
    """Share of fully correct solutions of an evaluation, with Wilson's interval."""
    return wilson(*counts(evaluation))


def counts(evaluation: Run) -> tuple[int, int]:
    """How many solutions of an evaluation are fully correct, out of how many."""
    rows = evaluation.summary["by_ops"]
    return sum(int(row["right"]) for row in rows), sum(int(row["n"]) for row in rows)


def plan_of(experiments: list[Experiment]) -> dict[str, Any]:
    """What the recipe's plan file says; empty for runs without a recipe."""
    return next((e.plan for e in experiments if e.plan), {})


def load(paths: list[Path]) -> list[Experiment]:
    """The experiments behind recipe folders and run folders, ordered by seed.

    A recipe folder brings one experiment per plan file. Run folders given one by one are grouped by what points at
    what; two groups of the same stages are two seeds. Raises ValueError for a path that is neither.
    """
    experiments, loose = [], []
    for path in paths:
        if plans := sorted(path.glob(PLANS)):
            for file in plans:  # a recipe that is still at work has named no folder for some stages
                with naming(file):
                    plan = as_record(file, read_json(file))
                    named = [stage for stage in plan.get("stages", []) if "folder" in stage]
                    at = {stage["name"]: path / stage["folder"] for stage in named}
                    runs = {name: Run(folder, name) for name, folder in at.items() if is_run(folder)}
                    experiments.append(Experiment(runs, plan.get("seed"), plan))
            continue
        folders = [path] if is_run(path) else sorted(filter(is_run, path.iterdir())) if path.is_dir() else []
        if not folders:
            raise ValueError(f"{path} is neither a run folder (with config.yaml) nor a folder of runs")
        loose += map(Run, folders)
    return sorted(experiments + _grouped(loose), key=lambda e: (e.seed is None, e.seed or 0))


def _grouped(runs: list[Run]) -> list[Experiment]:
    """Connected components of the graph 'a setting of this run names that folder', every run under a name of its own.
    Runs of one name in two components are seeds of one arm, so those that differ in more than seeds say in what."""

    def points_at(run: Run, other: Run) -> bool:
        return other.folder.name in run.inputs.values()

    groups: list[list[Run]] = []
    for run in runs:
        touching = [g for g in groups if any(points_at(run, other) or points_at(other, run) for other in g)]
        groups = [g for g in groups if g not in touching] + [[r for g in touching for r in g] + [run]]
    singles = [g[0] for g in groups if len(g) == 1]  # runs that point at nothing stand side by side
    groups = [g for g in groups if len(g) > 1] + ([singles] if singles else [])
    names: dict[Path, str] = {}
    for name in dict.fromkeys(run.name for run in runs):
        alike = [run for run in runs if run.name == name]
        found = differences(alike)
        names |= {run.folder: " ".join([name, *settings]) for run, settings in zip(alike, found, strict=True)}
    experiments = []
    for group in groups:
        count = Counter(names[run.folder] for run in group)
        stages = [name if count[name := names[run.folder]] == 1 else run.folder.name for run in group]
        named = {stage: replace(run, stage=stage) for run, stage in zip(group, stages, strict=True)}
        experiments.append(Experiment(named, group[0].config.get("seed")))
    return experiments


def differences(runs: Sequence[Run], seeds: bool = False) -> list[list[str]]:
    """For each run `setting=value` of up to three settings in which these runs differ; `seeds`: seeds count, too. Of
    different methods the name says it all. A setting that a run lacks, as of an earlier version, is no difference."""
    every = [run.settings for run in runs]
    keys = dict.fromkeys(key for settings in every for key in settings if seeds or key.split(".")[-1] != "seed")
    keys = [key for key in keys if len({repr(settings[key]) for settings in every if key in settings}) > 1]
    if "method.name" in keys:
        keys = ["method.name", *(key for key in keys if not key.startswith("method."))]
    return [[f"{key}={settings[key]}" for key in keys[:3] if key in settings] for settings in every]


def described(data: Mapping[str, Any]) -> str:
    """The data of a config in a few words: the preset and what differs from it."""
    tokens = {} if data.get("tokens", "phrase") == "phrase" else {"tokens": data["tokens"]}
    settings = (data.get("overrides") or {}) | tokens
    return " ".join([str(data.get("preset", "unknown")), *(f"{name}={value}" for name, value in settings.items())])


def outcome(run: Run) -> str:
    """What came of a finished run in one line: the model, its data, the result and on how many problems."""
    data = described(run.config.get("data") or {})
    if run.kind == "evaluation":
        rate = full_accuracy(run)
        return f"{run.config['checkpoint']} on data {data}: {format_interval(rate)} fully right, n = {rate.n}"
    last, spent = run.summary.get("last", {}), [f"{run.summary['steps']:,} steps"]
    spent += [f"{format_amount(run.summary[unit])} {name}" for unit, name in (("tokens", "tokens"), ("flops", "FLOPs"))]
    found = [f"loss {last['smooth_loss']:.4f}"] if is_number(last.get("smooth_loss")) else []
    if is_number(last.get("eval_full")):
        rate = wilson(round(last["eval_full"] * last["eval_n"]), int(last["eval_n"]))
        found.append(f"{format_interval(rate)} fully right, n = {rate.n} held-out problems")
    found += [f"KL to oracle {last['kl_to_oracle']:.4f}"] if is_number(last.get("kl_to_oracle")) else []
    what = f"{run.method} from {run.config['student']}" if run.method else run.name
    return f"{what} on data {data}: {', '.join(spent)}; {', '.join(found)}"


def _without_hash(name: str) -> str:
    stem, dash, tail = name.rpartition("-")
    return stem if dash and len(tail) == 8 else name


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
