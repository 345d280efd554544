"""A recipe: the stages of an experiment as processes, two at a time, then the report on what came out.

    python -m train.recipe recipe=quickstart               # under ten minutes on two cores
    python -m train.recipe recipe=quickstart scale=smoke   # the same path in under a minute, without claims
    python -m train.recipe recipe=quickstart seed=1        # another seed; the report shows all seeds together
    python -m train.recipe recipe=quickstart start.teacher=zoo/tiny-teacher-0   # a checkpoint instead of a stage

Everything goes to OUT/RECIPE (OUT/RECIPE-SCALE where the scale is not cpu): a run folder for each stage, the stages'
output in logs/, report.html and figures/. What is complete is not run again; the same command continues a recipe that
was stopped. `recipe.stages.NAME.set.SETTING=VALUE` changes one setting of one stage.

A recipe may copy a stage over lists of its own (`train.recipes.grid`) and over seeds. A list's name is then a setting that
cuts it down, and what is run in parts adds up in one folder and one report:

    python -m train.recipe recipe=arena methods=[opd,kd] seeds=2
"""

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from train import report
from train.config.compose import CONFIGS, REQUIRED, run_entry
from train.core import checkpoint
from train.recipes.grid import awaited, check_lists, chosen, copies, filled
from train.recipes.runner import Record, Stage, StageFailed, check_graph, nested, run
from train.report.verdicts import Verdict
from train.runs.expectation import COMPARING, MEASURES


@dataclass(frozen=True)
class StageConfig:
    """A stage as a recipe's YAML writes it: the module to run, what to wait for beside its inputs, and its settings.

    over: lists of the recipe that it is copied over; each: item -> settings that only its copies have.
    """

    entry: str = REQUIRED
    label: str = ""
    after: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    each: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One number of an analysis: `column` of the only row of `table` that has these values."""

    table: str = REQUIRED
    column: str = REQUIRED
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Expectation:
    """A claim that the recipe makes: `measure` of `stage` (and `task`, for a probe) reaches `at_least`.

    measure=lead is how far `stage` is ahead of `against`, in fully correct solutions of the same problems; measure=cell
    is what `cell` says of a table that the stage has left.
    """

    claim: str = REQUIRED
    measure: str = REQUIRED
    stage: str = REQUIRED
    at_least: float = REQUIRED
    task: str | None = None
    against: str | None = None
    cell: Cell | None = None

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ValueError(f"recipe.expect measure={self.measure}: accepted: {', '.join(MEASURES)}")
        if (self.measure == "cell") != (self.cell is not None):
            raise ValueError(
                f"recipe.expect measure={self.measure}: accepted: measure=cell with a cell, others without"
            )
        if (self.measure in COMPARING) != (self.against is not None):
            needs = "a stage" if self.measure in COMPARING else f"null; it goes with {', '.join(COMPARING)}"
            raise ValueError(f"recipe.expect against={self.against} with measure={self.measure}: accepted: {needs}")


@dataclass(frozen=True)
class RecipeFile:
    """The content of configs/recipe/NAME.yaml.

    lists: what stages are copied over; seeds: how many it takes. controls: stages that every arm is compared with; the
    report then ranks the arms (`train.report.studies.arm_ranking`). keep_going: whether the other stages run on when one fails.
    """

    name: str = REQUIRED
    title: str = REQUIRED
    about: str = ""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    expect: list[Expectation] = field(default_factory=list)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    seeds: int = 1
    controls: list[str] = field(default_factory=list)
    keep_going: bool = False

    @property
    def overs(self) -> dict[str, list[str]]:
        """Stage -> the lists that it is copied over."""
        return {name: stage.over for name, stage in self.stages.items()}


@dataclass(frozen=True)
class ScaleFile:
    """The content of configs/scale/NAME.yaml: settings for all stages of an entry, then for stages by name.

    `claims` is whether the recipe's expectations are meant to hold at this scale.
    """

    name: str = REQUIRED
    claims: bool = True
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeConfig:
    """Settings of the command. `slots`: stages that run side by side. `seed`: of everything that is drawn.

    seeds: how many, from `seed` on; null for the recipe's own number. only: list of the recipe -> items to run now.
    start: stage -> a checkpoint that stands for it, so that it is not run; `{seed}` in it is the seed.
    """

    recipe: RecipeFile = field(default_factory=RecipeFile)
    scale: ScaleFile = field(default_factory=ScaleFile)
    seed: int = 0
    slots: int = 2
    out: str = "runs"
    seeds: int | None = None
    only: dict[str, list[Any]] = field(default_factory=dict)
    start: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.slots < 1:
            raise ValueError(f"slots={self.slots}: accepted: 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: accepted: 0 or more")
        if not self.recipe.stages:
            raise ValueError(f"recipe={self.recipe.name}: has no stages; accepted: a recipe with at least one")
        if (count := self.recipe.seeds if self.seeds is None else self.seeds) < 1:
            raise ValueError(f"seeds={count}: accepted: 1 or more")
        check_lists(self.recipe.lists, self.recipe.overs)
        chosen(self.recipe.lists, self.only)
        names = [stage.name for stage in stages_of(self)]
        if strange := [stage for stage in self.recipe.controls if stage not in names]:
            raise ValueError(f"recipe.controls={strange[0]}: is no stage; accepted: {', '.join(names)}")
        for stage in self.start:
            if stage not in names:
                raise ValueError(f"start.{stage}: is no stage; accepted: {', '.join(names)}")
        for expectation in self.recipe.expect:
            for stage in filter(None, (expectation.stage, expectation.against)):
                if stage not in names:
                    raise ValueError(f"recipe.expect stage={stage}: is no stage; accepted: {', '.join(names)}")

    @property
    def folder(self) -> Path:
        name = self.recipe.name if self.scale.name == "cpu" else f"{self.recipe.name}-{self.scale.name}"
        return Path(self.out) / name


def stages_of(config: RecipeConfig, only: Mapping[str, Sequence[Any]] | None = None) -> list[Stage]:
    """The recipe's stages with the settings of its scale, its lists cut down to `only`.

    Raises ValueError when no order starts them all."""
    recipe, scale = config.recipe, config.scale
    lists, stages = chosen(recipe.lists, only or {}), []
    for base, stage in recipe.stages.items():
        if strange := stage.each.keys() - {str(item) for name in stage.over for item in recipe.lists[name]}:
            raise ValueError(
                f"recipe.stages.{base}.each.{min(strange)}: is no item of {', '.join(stage.over) or 'a list'}"
            )
        for name, items in copies(base, stage.over, lists):
            settings = nested(stage.set)
            for item in items.values():
                settings |= nested(stage.each.get(str(item), {}))
            settings = {key: filled(value, items, recipe.overs) for key, value in settings.items()}
            settings |= nested(scale.entries.get(stage.entry, {})) | nested(scale.stages.get(base, {}))
            settings |= nested(scale.stages.get(name, {})) if name != base else {}
            after = [one for needed in stage.after for one in awaited(needed, items, recipe.overs, lists)]
            label = filled(stage.label, items, recipe.overs) or name
            stages.append(Stage(name, stage.entry, settings, tuple(after), str(label)))
    check_graph(stages)
    return stages


def main(config: RecipeConfig) -> None:
    """Runs what is missing, seed by seed, writes the report, and prints the verdicts and where the page is."""
    if config.folder.exists() and not config.folder.is_dir():
        raise ValueError(f"{config.folder}: exists and is not a folder; accepted: another out=")
    facts = {"recipe": config.recipe.name, "scale": config.scale.name, "claims": config.scale.claims}
    facts |= {"title": config.recipe.title, "about": config.recipe.about, "controls": config.recipe.controls}
    facts["expect"] = [asdict(expectation) for expectation in config.recipe.expect]
    everything, now = stages_of(config), stages_of(config, config.only)
    seeds = range(config.seed, config.seed + (config.seeds or config.recipe.seeds))
    given, failures = {seed: started(config, seed) for seed in seeds}, []
    for seed in seeds:
        record = Record(config.folder / f"plan-seed{seed}.json", facts | {"seed": seed}, everything)
        failed: dict[str, StageFailed] = {}
        run(now, record, seed, config.slots, given[seed], failed if config.recipe.keep_going else None)
        record.save()
        failures += [(f"seed {seed}, {failure}", failure.usage) for failure in failed.values()]
    page = report.build([config.folder])
    if config.scale.claims:
        print(verdicts_table(report.judged(config.folder)))
    print(f"report: {page}")
    if failures:
        raise StageFailed("\n".join(said for said, _ in failures), usage=any(usage for _, usage in failures))


def started(config: RecipeConfig, seed: int) -> dict[str, Path]:
    """Stage -> the checkpoint that stands for it. Raises ValueError when there is none."""
    given = {stage: path.replace("{seed}", str(seed)) for stage, path in config.start.items()}
    for stage, path in given.items():
        checkpoint.find(path, f"start.{stage}")
    return {stage: Path(path) for stage, path in given.items()}


def verdicts_table(verdicts: list[Verdict]) -> str:
    """One line for each expectation."""
    return "\n".join(f"{verdict.word:<17} {verdict.claim}: {verdict.number}" for verdict in verdicts)


def spelt_out(words: Sequence[str]) -> list[str]:
    """The words with `LIST=[...]` as `only.LIST=[...]`, for the lists of the recipe that they choose."""
    name = next((word.removeprefix("recipe=") for word in words if word.startswith("recipe=")), "quickstart")
    path = CONFIGS / "recipe" / f"{name}.yaml"
    lists = (yaml.safe_load(path.read_text(encoding="utf-8")).get("lists") or {}) if path.is_file() else {}
    return [f"only.{word}" if word.partition("=")[0] in lists else word for word in words]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def entry(argv: list[str] | None = None) -> int:
    """The command: exit code 0 done, 1 a stage failed, 2 bad input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        words = spelt_out(sys.argv[1:] if argv is None else argv)
        return run_entry("recipe", RecipeConfig, main, __doc__ or "", words)
    except StageFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 2 if failed.usage else 1


if __name__ == "__main__":
    sys.exit(entry())
