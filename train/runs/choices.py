"""What a recipe chooses by itself: of every arm that was run at several settings (say: learning rates), the best one.

A recipe names the lists to choose from in `choose`. A distillation that was evaluated and is over such a list takes the
item whose runs solved most validation problems during training, mean over the seeds: never by the evaluation that is
reported. From then on it goes by its name without the item, and the others are gone with what judged them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train.runs.results import Experiment, Run, load, plan_of


def name_without(stage: str, items: Mapping[str, Any], lists: list[str]) -> str:
    """The name of a copy of a stage without its items of some lists."""
    kept = [str(item) for name, item in items.items() if name not in lists]
    return "-".join([stage.removesuffix("-" + "-".join(map(str, items.values()))), *kept]) if items else stage


def load_best(paths: list[Path]) -> list[Experiment]:
    """`train.runs.results.load`, then `best_choices`."""
    return best_choices(load(paths))


def best_choices(experiments: list[Experiment]) -> list[Experiment]:
    """The experiments with the best of each arm alone; its plan's stages say in `chosen` what it took."""
    plan = plan_of(experiments)
    lists = plan.get("choose") or []
    offered: dict[str, list[str]] = defaultdict(list)
    items = {stage["name"]: stage.get("items") or {} for stage in plan.get("stages", [])}
    for stage, own in items.items():
        if own.keys() & set(lists) and any(_is_judged(e, stage) for e in experiments):
            offered[name_without(stage, own, lists)].append(stage)
    best = {max(stages, key=lambda stage: validation_share(experiments, stage)) for stages in offered.values()}
    dropped = {stage for stages in offered.values() for stage in stages} - best
    return [_narrowed(e, best, dropped, items, lists) for e in experiments] if offered else experiments


def validation_share(experiments: list[Experiment], stage: str) -> float:
    """Share of validation problems that the stage's runs solved at their best evaluation, mean over seeds."""
    best = [max(run.curve("eval_full")[1], default=0.0) for e in experiments if (run := e.runs.get(stage))]
    return float(np.mean(best)) if best else 0.0


def _is_judged(experiment: Experiment, stage: str) -> bool:
    run = experiment.runs.get(stage)
    return run is not None and run.kind == "distillation" and experiment.evaluation_of(stage) is not None


def _narrowed(
    experiment: Experiment, best: set[str], dropped: set[str], items: Mapping[str, Mapping[str, Any]], lists: list[str]
) -> Experiment:
    """One seed with the best alone, under the names without what was chosen."""
    kept, names = {}, {}
    for stage, run in experiment.runs.items():
        of = experiment.subject(run) if run.kind != "distillation" else None
        arm = stage if of is None else of.name
        if arm in dropped:
            continue
        names[stage] = name_without(stage, items.get(stage, {}), lists) if arm in best else stage
        kept[names[stage]] = Run(run.folder, names[stage])
    stages = []
    for stage in experiment.plan.get("stages", []):
        if (name := names.get(stage["name"])) is not None:
            own = items[stage["name"]]
            chosen = {key: item for key, item in own.items() if name != stage["name"] and key in lists}
            left = {key: item for key, item in own.items() if key not in chosen}
            stages.append(stage | {"name": name, "items": left, "chosen": ", ".join(map(str, chosen.values()))})
    return replace(experiment, runs=kept, plan=experiment.plan | {"stages": stages})
