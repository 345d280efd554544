"""The colour and marker of each stage: the teacher is blue, the student before is grey, others have their own colours.

Every stage has a marker of its own besides, and both are the same in all figures.
"""

from typing import NamedTuple

from train.plotting import BLUE, CYCLE, GREY, MARKERS
from train.runs.results import Experiment


class StageStyle(NamedTuple):
    color: str
    marker: str


def stage_styles(experiments: list[Experiment]) -> dict[str, StageStyle]:
    """Colour and marker of every stage that made a model: teacher, student, then the others in the recipe's order."""
    special: dict[str, str] = {}
    stages: list[str] = []
    for experiment in experiments:
        roles = experiment.roles()
        special |= {roles[role]: color for role, color in (("teacher", BLUE), ("student", GREY)) if role in roles}
        stages += [name for name, run in experiment.runs.items() if run.kind in ("training", "distillation", "merge")]
    order = list(dict.fromkeys([*special, *stages]))
    rest = [stage for stage in order if stage not in special]
    colors = special | {stage: CYCLE[i % len(CYCLE)] for i, stage in enumerate(rest)}
    return {stage: StageStyle(colors[stage], MARKERS[i % len(MARKERS)]) for i, stage in enumerate(order)}


def label(experiments: list[Experiment], stage: str) -> str:
    """What the recipe calls a stage, else its name."""
    return next((text for e in experiments if (text := e.label(stage)) != stage), stage)
