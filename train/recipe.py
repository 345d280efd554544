"""A recipe: the stages of an experiment as processes, two at a time, then the report on what came out.

    python -m train.recipe recipe=quickstart               # under ten minutes on two cores
    python -m train.recipe recipe=quickstart scale=smoke   # the same path in under a minute, without claims
    python -m train.recipe recipe=quickstart seed=1        # another seed; the report shows all seeds together
    python -m train.recipe recipe=quickstart start.teacher=zoo/tiny-teacher-0   # a checkpoint instead of a stage
    python -m train.recipe recipe=quickstart stages.opd.set.optim.lr=0.001      # another setting of one stage

Everything goes to OUT/RECIPE (OUT/RECIPE-SCALE where the scale is not cpu): a run folder for each stage, the stages'
output in logs/, report.html and figures/. The same command continues a recipe that was stopped.

A recipe may copy a stage over lists of its own (`train.recipes.grid`) and over seeds. A list's name is a setting that
cuts it down, and what is run in parts adds up in one folder and one report:

    python -m train.recipe recipe=arena methods=[opd,kd] seeds=2
"""

if __name__ == "__main__":  # before the rest is imported
    from train.config.early import early

    early("recipe")

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from synth.ranges import Count, Positive, settings
from train.config.compose import REQUIRED, run_entry, words_of
from train.recipes.cluster import Cluster, Submission, script, submissions, submit
from train.recipes.grid import check_lists, copies, expand_after, select_items, substitute
from train.recipes.plan import PlanFile
from train.recipes.runner import Runner, code_digest, visible_gpus
from train.recipes.stage import Resources, Stage, StageFailed, check_graph
from train.runs.choices import name_without
from train.runs.expectation import Expectation
from train.runs.results import flat


@dataclass(frozen=True)
class StageConfig:
    """A stage in a recipe's YAML: the module to run, what to wait for beside its inputs, and its settings.

    over: lists of the recipe that it is copied over. each: item -> settings that only its copies have. resources: what
    it runs on.
    """

    entry: str = REQUIRED  # the command, a module
    label: str = ""  # for the page
    after: list[str] = field(default_factory=list)  # stages to wait for, beside its inputs
    set: dict[str, Any] = field(default_factory=dict)  # settings of the command
    over: list[str] = field(default_factory=list)
    each: dict[str, dict[str, Any]] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)  # what it runs on


@dataclass(frozen=True)
class MapConfig:
    """A map of regimes (`train.report.studies.regime_map`): its rows and columns are lists of the recipe; `family`: the
    arms that are compared with all others in a cell."""

    rows: str = REQUIRED  # list of the recipe
    columns: str = REQUIRED  # list of the recipe
    family: list[str] = field(default_factory=list)


@settings
class RecipeFile:
    """The content of configs/recipe/NAME.yaml.

    lists: what stages are copied over. seeds: how many. controls: stages that every arm is compared with; the report
    then ranks the arms (`train.report.studies.arm_ranking`). choose: lists of which every arm takes the best item; it
    then goes by its name without it (`train.runs.choices`). map: what the report draws a map of. keep_going: the
    other stages run on when one fails.
    """

    name: str = REQUIRED  # of the recipe and its folder
    title: str = REQUIRED  # of its page
    about: str = ""  # the text under the title
    stages: dict[str, StageConfig] = field(default_factory=dict)  # name -> stage
    expect: list[Expectation] = field(default_factory=list)  # the claims that are judged
    lists: dict[str, list[Any]] = field(default_factory=dict)
    seeds: Positive = 1
    controls: list[str] = field(default_factory=list)
    choose: list[str] = field(default_factory=list)
    map: MapConfig | None = None
    keep_going: bool = False

    @property
    def overs(self) -> dict[str, list[str]]:
        """Stage -> the lists that it is copied over."""
        return {name: stage.over for name, stage in self.stages.items()}


@dataclass(frozen=True)
class ScaleFile:
    """The content of configs/scale/NAME.yaml: settings for all stages of an entry, then for stages by name. `claims`:
    the recipe's expectations are meant to hold at this scale. resources: entry or stage -> what it runs on."""

    name: str = REQUIRED  # of the scale
    claims: bool = True
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)  # command -> settings of all its stages
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> its settings
    resources: dict[str, Resources] = field(default_factory=dict)  # command or stage -> what it runs on


LOGGED = ("train.pretrain", "train.opd.run")  # entries with the setting `log`


@settings
class RecipeConfig:
    """Settings of the command. `slots`: stages that run side by side. `seed`: of everything that is drawn.

    launcher: local runs the stages on this machine; slurm submits each as a job, and ends. slurm: parameters of
    submitit. gpus: of this machine, each given to one stage at a time; 0: every stage sees all. dry_run: print the
    commands of all stages, with their resources and what they wait for, and run none.
    seeds: how many, from `seed` on; null for the recipe's own number. only: list of the recipe -> items to run now.
    log: what the training stages log to beside metrics.jsonl (extra `log`).
    start: stage -> a checkpoint that stands for it, so that it is not run; `{seed}` in it is the seed.
    """

    recipe: RecipeFile = field(default_factory=RecipeFile)
    scale: ScaleFile = field(default_factory=ScaleFile)
    seed: Count = 0
    slots: Positive = 2
    out: str = "runs"  # folder that recipes go to
    seeds: Positive | None = None
    only: dict[str, list[Any]] = field(default_factory=dict)
    start: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)  # STAGE.SETTING -> value of the command line, which wins
    variant: str = ""  # end of the folder's name; `-m` writes there what differs between its runs, but for the seed
    log: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)  # of the training stages
    launcher: Literal["local", "slurm"] = "local"  # stages on this machine, or as jobs of SLURM
    slurm: dict[str, Any] = field(default_factory=dict)  # parameters of submitit: slurm_partition, ...
    gpus: Count = 0  # of this machine, each given to one stage at a time; 0: all see all
    dry_run: bool = False  # print the commands of all stages and run none

    def __post_init__(self) -> None:
        if not self.recipe.stages:
            raise ValueError(f"recipe={self.recipe.name}: has no stages; accepted: a recipe with at least one")
        if self.slurm and self.launcher != "slurm":
            raise ValueError(
                f"slurm={self.slurm}: has no effect with launcher={self.launcher}; accepted: launcher=slurm"
            )
        if self.gpus and self.launcher != "local":
            raise ValueError(f"gpus={self.gpus}: has no effect with launcher={self.launcher}; accepted: gpus=0")
        check_lists(self.recipe.lists, self.recipe.overs)
        select_items(self.recipe.lists, self.only)
        stages = stages_of(self)
        names = [stage.name for stage in stages]
        named = [(f"recipe.controls={stage}", stage) for stage in self.recipe.controls]
        named += [(f"start.{stage}", stage) for stage in self.start]
        for one in self.recipe.expect:
            named += [(f"recipe.expect stage={stage}", stage) for stage in (one.stage, one.against) if stage]
        lists = [("recipe.choose", name) for name in self.recipe.choose]
        if self.recipe.map:
            lists += [("recipe.map", name) for name in (self.recipe.map.rows, self.recipe.map.columns)]
        for setting, name in lists:
            if name not in self.recipe.lists:
                raise ValueError(f"{setting}: {name} is no list; accepted: {', '.join(self.recipe.lists)}")
        chosen = [name_without(stage.name, stage.items, self.recipe.choose) for stage in stages]
        for setting, stage in named:
            if stage not in [*names, *chosen]:
                raise ValueError(f"{setting}: is no stage; accepted: {', '.join(names)}")

    @staticmethod
    def alias(config: Mapping[str, Any], key: str) -> str:
        """A list of the recipe is short for only.LIST, stages.NAME for recipe.stages.NAME; stages.NAME.set.KEY is kept
        apart from what recipe and scale say."""
        key = f"recipe.{key}" if key.startswith("stages.") else key
        found = re.fullmatch(r"recipe\.stages\.([^.]+)\.set\.(.+)", key)
        if found and found[1] in config["recipe"]["stages"]:
            return f"given.{found[1]}.{found[2]}"
        return f"only.{key}" if key in config["recipe"]["lists"] else key

    @staticmethod
    def named(values: dict[str, Any], differs: dict[str, str]) -> dict[str, Any]:
        """The settings of one run of a sweep: the seeds of a recipe share its folder."""
        return values | {"variant": words_of(differs, ("seed", "seeds", "recipe", "scale", "out"))}

    @property
    def folder(self) -> Path:
        """Where all of it goes."""
        name = self.recipe.name if self.scale.name == "cpu" else f"{self.recipe.name}-{self.scale.name}"
        return Path(self.out, f"{name}-{self.variant}" if self.variant else name)


def stages_of(config: RecipeConfig, only: Mapping[str, Sequence[Any]] | None = None) -> list[Stage]:
    """The recipe's stages with the settings of its scale, its lists cut down to `only`. Raises ValueError when no order
    starts them all."""
    recipe, scale, stages = config.recipe, config.scale, []
    lists = select_items(recipe.lists, only or {})
    for base, stage in recipe.stages.items():
        items_of_stage = {str(item) for name in stage.over for item in recipe.lists[name]}
        for item in sorted(stage.each.keys() - items_of_stage):
            accepted = ", ".join(stage.over) or "a list"
            raise ValueError(f"recipe.stages.{base}.each.{item}: is no item of {accepted}")
        for name, items in copies(base, stage.over, lists):
            settings = dict(flat(stage.set))
            for item in items.values():
                settings |= flat(stage.each.get(str(item), {}))
            settings = {key: substitute(value, items, recipe.overs) for key, value in settings.items()}
            for more in (scale.entries.get(stage.entry), scale.stages.get(base), scale.stages.get(name)):
                settings |= flat(more or {})
            own = f"{base}."
            settings |= {key.removeprefix(own): value for key, value in flat(config.given) if key.startswith(own)}
            if config.log and stage.entry in LOGGED:
                settings["log"] = config.log
            after = tuple(expand_after(stage.after, items, recipe.overs, lists))
            label = substitute(stage.label, items, recipe.overs) or name
            resources = Resources()
            for wanted in (*map(scale.resources.get, (stage.entry, base, name)), stage.resources):
                resources |= wanted or Resources()
            stages.append(Stage(name, stage.entry, settings, after, str(label), items, resources))
    check_graph(stages)
    return stages


def main(config: RecipeConfig) -> None:
    """Runs what is missing, seed by seed, writes the report, and prints the verdicts and where the page is."""
    if config.folder.exists() and not config.folder.is_dir():
        raise ValueError(f"{config.folder}: exists and is not a folder; accepted: another out=")
    seeds = range(config.seed, config.seed + (config.seeds or config.recipe.seeds))
    given = {seed: starting_points(config, seed) for seed in seeds}
    if config.dry_run:
        print(script(all_jobs(config, given), config.folder))
    elif config.launcher == "slurm":
        submit(all_jobs(config, given), Cluster(config.folder, config.slurm))
        print(f"{config.folder / 'report.html'} is written when the last job has ended")
    else:
        failures = [failure for seed in seeds for failure in run_seed(config, seed, given[seed])]
        conclude(config.folder, config.scale.claims, failures)


def conclude(folder: Path, claims: bool, failures: Sequence[StageFailed | str]) -> None:
    """Writes the report and prints the verdicts and where the page is. Raises StageFailed where stages failed."""
    from train import report  # imports matplotlib, which no stage waits for

    page = report.build([folder])
    for verdict in report.judged(folder) if claims else []:
        print(f"{verdict.word:<17} {verdict.claim}: {verdict.number}")
    print(f"{report.outcome(folder)}\nreport: {page}")
    if failures:
        usage = any(isinstance(failure, StageFailed) and failure.usage for failure in failures)
        raise StageFailed("\n".join(map(str, failures)), usage)


def plan_of(config: RecipeConfig, seed: int, given: Mapping[str, tuple[Path, Path]]) -> PlanFile:
    """The plan of one seed; given: the path of each checkpoint that stands for a stage, as given and as it is."""
    facts = {"recipe": config.recipe.name, "scale": config.scale.name, "claims": config.scale.claims}
    facts |= {"title": config.recipe.title, "about": config.recipe.about, "controls": config.recipe.controls}
    facts |= {"choose": config.recipe.choose} if config.recipe.choose else {}
    facts |= {"map": asdict(config.recipe.map)} if config.recipe.map else {}
    facts |= {"expect": [asdict(expectation) for expectation in config.recipe.expect], "seed": seed}
    plan = PlanFile(config.folder / f"plan-seed{seed}.json", facts, stages_of(config))
    for name, (_, folder) in given.items():
        plan.enter(name, folder)
    return plan


def all_jobs(
    config: RecipeConfig, given: Mapping[int, Mapping[str, tuple[Path, Path]]], wait: bool = False
) -> list[Submission]:
    """The jobs of all seeds, and the report's."""
    plans = {seed: plan_of(config, seed, points) for seed, points in given.items()}
    paths = {seed: {name: path for name, (path, _) in points.items()} for seed, points in given.items()}
    ending = partial(conclude, config.folder, config.scale.claims)
    return submissions(plans, stages_of(config, config.only), paths, code_digest(), ending, wait)


def run_seed(config: RecipeConfig, seed: int, given: Mapping[str, tuple[Path, Path]]) -> list[StageFailed]:
    """Runs the stages of one seed; returns the failures that `recipe.keep_going` allows."""
    plan = plan_of(config, seed, given)
    paths = {name: path for name, (path, _) in given.items()}
    gpus = visible_gpus(config.gpus) if config.gpus else []
    runner = Runner(plan, seed, config.slots, paths, config.recipe.keep_going, gpus)
    runner.run(stages_of(config, config.only))
    plan.save()
    return [StageFailed(f"seed {seed}, {failure}", failure.usage) for failure in runner.failed.values()]


def starting_points(config: RecipeConfig, seed: int) -> dict[str, tuple[Path, Path]]:
    """Stage -> the path of the checkpoint that stands for it, as given and with `zoo/` filled in. Raises ValueError
    when there is none."""
    if not config.start:
        return {}
    from train.core import checkpoint, zoo_paths  # imports torch

    found = {}
    for stage, path in config.start.items():
        path = Path(path.replace("{seed}", str(seed)))
        checkpoint.weights_digest(path, f"start.{stage}")
        found[stage] = (path, zoo_paths.expand(path))
    return found


def entry(argv: list[str] | None = None) -> int:
    """The command: exit code 0 done, 1 a stage failed, 2 bad input."""
    return run_entry("recipe", RecipeConfig, main, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(entry())
