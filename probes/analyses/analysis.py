"""An analysis of distillation as a task of `probes.run`: one file with its settings, its function and its figure.

    Settings        its section; a subclass Config of `ProbeConfig` holds it
    run             (config, models, log) -> {"tables", "notes"} and perhaps "curves", which are written but not printed
    figure          (summary) -> its one figure
    TASK            task_of(Config, run, figure, needs=(...)), entered in `probes.run.ANALYSES`

Tables are as in `probes.tables`; they go to summary.json and to tables/NAME.csv. `notes` are lines to go with them.
What `log` holds is not done again after a kill. Intervals are 95%, bootstrapped over problems.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from probes.resume_log import ResumeLog
from probes.runs import CaptionedFigure, draw, error_bars, save
from probes.settings import ProbeConfig
from probes.tables import Row, estimate_of, tables_csv, tables_text
from probes.tasks.task import Models, Task
from synth.store.files import atomic_write

Summary = Mapping[str, Any]


def task_of(
    config: type[ProbeConfig],
    run: Callable[[Any, Models, ResumeLog], dict[str, Any]],
    figure: Callable[[Summary], CaptionedFigure],
    needs: tuple[str, ...] = (),
    accepts: tuple[str, ...] = (),
    check: Callable[[Any], None] = lambda config: None,
) -> Task:
    """The task of an analysis. `needs`, `accepts`: settings of its section that name checkpoints it must, or may, have.

    check: raises ValueError for settings that cannot work, before a checkpoint is read.
    """
    name = config.task

    def checkpoints(config: ProbeConfig) -> dict[str, str]:
        check(config)
        paths = {f"{name}.{key}": getattr(getattr(config, name), key) for key in (*needs, *accepts)}
        for key in needs:
            if paths[f"{name}.{key}"] is None:
                raise ValueError(f"{name}.{key}=null: task={name} needs it; accepted: a run folder or a checkpoint")
        return {setting: path for setting, path in paths.items() if path is not None}

    def write(config: ProbeConfig, models: Models, prepared: None, folder: Path) -> dict[str, Any]:
        found = {"stage": "analysis", "task": name, **run(config, models, ResumeLog(folder / "metrics.jsonl"))}
        (folder / "tables").mkdir(exist_ok=True)
        for table, rows in (found["tables"] | found.get("curves", {})).items():
            atomic_write(folder / "tables" / f"{table}.csv", tables_csv(rows))
        drawn = draw(figure, found)
        save(drawn, folder / "figures" / f"{name}.png")
        lines = [*tables_text(found["tables"]), *found["notes"]]
        return found | {"lines": lines, "figure": {"title": drawn.title, "caption": drawn.caption}}

    return Task(config, lambda config, models: None, write, lambda found: "\n".join(found["lines"]), checkpoints)


def plot_intervals(ax: Axes, rows: Sequence[Row], x: str, y: str, **style: Any) -> None:
    """A line through the intervals in column `y` over the numbers in column `x`."""
    value, error = error_bars([estimate_of(row[y]) for row in rows])
    if rows:
        ax.errorbar([row[x] for row in rows], value, error, **style)


def percent_axis(*axes: Axes) -> None:
    """Shares on the vertical axis as whole percents."""
    for ax in axes:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
