"""What a task of `probes.run` is: a file with such an object, entered once in `probes.run`.

An analysis of distillation is a task with tables and one figure, made by `task_of` from

    Settings        its section of the settings
    run             (config, section, models, log) -> {"tables", "notes"} and perhaps "curves", written but not printed
    figure          (summary) -> its one figure

Tables are as in `probes.tables`; they go to summary.json and to tables/NAME.csv. `notes` are lines to go with them.
What `log` holds is not done again after a kill. Intervals are 95%, bootstrapped over problems.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.gpt import GPT
from probes.runs import CaptionedFigure, ResumeLog, draw, save
from probes.settings import ProbeConfig
from probes.tables import tables_csv, tables_text
from synth.ranges import settings
from synth.store.files import atomic_write

Models = Mapping[str, GPT]  # setting that names a checkpoint -> the model; `model` is always among them
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """Work on one checkpoint, or on several, that ends in the summary.json of a run folder.

    config: the settings; the default of its field `task` is the task's name. prepare: what the work needs, made and
    checked before a folder is there: (config, models) -> anything. run: (config, models, what `prepare` gave, folder)
    -> the content of summary.json. text: a summary as lines for a person. checkpoints: setting -> path of the
    checkpoints that are read besides `model`. The first three raise ValueError for what cannot be done.
    """

    config: type[ProbeConfig]
    prepare: Callable[[Any, Models], Any]
    run: Callable[[Any, Models, Any, Path], dict[str, Any]]
    text: Callable[[Summary], str]
    checkpoints: Callable[[Any], dict[str, str]] = lambda config: {}


def task_of(
    name: str,
    section: type,
    run: Callable[[ProbeConfig, Any, Models, ResumeLog], dict[str, Any]],
    figure: Callable[[Summary], CaptionedFigure],
    needs: tuple[str, ...] = (),
    accepts: tuple[str, ...] = (),
    check: Callable[[ProbeConfig], None] = lambda config: None,
) -> Task:
    """The task of an analysis. `needs`, `accepts`: settings of its section that name checkpoints it must, or may, have.
    check: raises ValueError for settings that cannot work, before a checkpoint is read."""

    def checkpoints(config: ProbeConfig) -> dict[str, str]:
        check(config)
        paths = {f"{name}.{key}": getattr(getattr(config, name), key) for key in (*needs, *accepts)}
        for key in needs:
            if paths[f"{name}.{key}"] is None:
                raise ValueError(f"{name}.{key}=null: task={name} needs it; accepted: a run folder or a checkpoint")
        return {setting: path for setting, path in paths.items() if path is not None}

    def write(config: ProbeConfig, models: Models, prepared: None, folder: Path) -> dict[str, Any]:
        found = run(config, getattr(config, name), models, ResumeLog(folder / "metrics.jsonl"))
        found = {"stage": "analysis", "task": name, **found}
        (folder / "tables").mkdir(exist_ok=True)
        for table, rows in (found["tables"] | found.get("curves", {})).items():
            atomic_write(folder / "tables" / f"{table}.csv", tables_csv(rows))
        drawn = draw(figure, found)
        save(drawn, folder / "figures" / f"{name}.png")
        lines = [*tables_text(found["tables"]), *found["notes"]]
        return found | {"lines": lines, "figure": {"title": drawn.title, "caption": drawn.caption}}

    own = {"task": name, name: field(default_factory=section), "__annotations__": {"task": str, name: section}}
    config = settings(type("Config", (ProbeConfig,), own))
    return Task(config, lambda config, models: None, write, lambda found: "\n".join(found["lines"]), checkpoints)
