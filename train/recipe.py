"""A recipe: the stages of an experiment as processes, two at a time, then the report on what came out.

    python -m train.recipe recipe=quickstart               # under ten minutes on two cores
    python -m train.recipe recipe=quickstart scale=smoke   # the same path in under a minute, without claims
    python -m train.recipe recipe=quickstart seed=1        # another seed; the report shows all seeds together

Everything goes to OUT/RECIPE (OUT/RECIPE-SCALE where the scale is not cpu): a run folder for each stage, the stages'
output in logs/, report.html and figures/. What is complete is not run again; the same command continues a recipe that
was stopped. `recipe.stages.NAME.set.SETTING=VALUE` changes one setting of one stage.
"""

import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from train import report
from train.config import REQUIRED, run_entry
from train.report.verdicts import MEASURES, Verdict
from train.stages import Record, Stage, StageFailed, check_graph, nested, run


@dataclass(frozen=True)
class StageConfig:
    """A stage as a recipe's YAML writes it: the module to run, what to wait for beside its inputs, and its settings."""

    entry: str = REQUIRED
    label: str = ""
    after: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Expectation:
    """A claim that the recipe makes: `measure` of `stage` (and `task`, for a probe) reaches `at_least`."""

    claim: str = REQUIRED
    measure: str = REQUIRED
    stage: str = REQUIRED
    at_least: float = REQUIRED
    task: str | None = None

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ValueError(f"recipe.expect measure={self.measure}: accepted: {', '.join(MEASURES)}")


@dataclass(frozen=True)
class RecipeFile:
    """The content of configs/recipe/NAME.yaml."""

    name: str = REQUIRED
    title: str = REQUIRED
    about: str = ""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    expect: list[Expectation] = field(default_factory=list)


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
    """Settings of the command. `slots`: stages that run side by side. `seed`: of everything that is drawn."""

    recipe: RecipeFile = field(default_factory=RecipeFile)
    scale: ScaleFile = field(default_factory=ScaleFile)
    seed: int = 0
    slots: int = 2
    out: str = "runs"

    def __post_init__(self):
        if self.slots < 1:
            raise ValueError(f"slots={self.slots}: accepted: 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: accepted: 0 or more")
        if not self.recipe.stages:
            raise ValueError(f"recipe={self.recipe.name}: has no stages; accepted: a recipe with at least one")
        for expectation in self.recipe.expect:
            if expectation.stage not in self.recipe.stages:
                stages = ", ".join(self.recipe.stages)
                raise ValueError(f"recipe.expect stage={expectation.stage}: is no stage; accepted: {stages}")

    @property
    def folder(self) -> Path:
        name = self.recipe.name if self.scale.name == "cpu" else f"{self.recipe.name}-{self.scale.name}"
        return Path(self.out) / name


def stages_of(config: RecipeConfig) -> list[Stage]:
    """The recipe's stages with the settings of its scale. Raises ValueError when no order starts them all."""
    stages = []
    for name, stage in config.recipe.stages.items():
        settings = nested(stage.set) | nested(config.scale.entries.get(stage.entry, {}))
        settings |= nested(config.scale.stages.get(name, {}))
        stages.append(Stage(name, stage.entry, settings, tuple(stage.after), stage.label or name))
    check_graph(stages)
    return stages


def main(config: RecipeConfig) -> None:
    """Runs what is missing, writes the report, and prints the verdicts and where the page is."""
    stages = stages_of(config)
    if config.folder.exists() and not config.folder.is_dir():
        raise ValueError(f"{config.folder}: exists and is not a folder; accepted: another out=")
    facts = {
        "recipe": config.recipe.name,
        "scale": config.scale.name,
        "seed": config.seed,
        "claims": config.scale.claims,
    }
    facts |= {"title": config.recipe.title, "about": config.recipe.about}
    facts["expect"] = [asdict(expectation) for expectation in config.recipe.expect]
    record = Record(config.folder / f"plan-seed{config.seed}.json", facts, stages)
    run(stages, record, config.seed, config.slots)
    record.save()
    page = report.build([config.folder])
    if config.scale.claims:
        print(verdicts_table(report.judged(config.folder)))
    print(f"report: {page}")


def verdicts_table(verdicts: list[Verdict]) -> str:
    """One line for each expectation."""
    return "\n".join(f"{verdict.word:<17} {verdict.claim}: {verdict.number}" for verdict in verdicts)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def entry(argv: list[str] | None = None) -> int:
    """The command: exit code 0 done, 1 a stage failed, 2 bad input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run_entry("recipe", RecipeConfig, main, __doc__ or "", argv)
    except StageFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 2 if failed.usage else 1


if __name__ == "__main__":
    sys.exit(entry())
