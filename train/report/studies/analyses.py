"""What analyses of distillation found (`probes.run task=...`): the figure of each, and its tables folded below."""

from train.report import page
from train.report.estimates import NotApplicable
from train.report.stage_styles import label
from train.runs.results import Experiment


def found(experiments: list[Experiment]) -> list[str]:
    """One piece for every analysis that has been done, in the recipe's order. Raises NotApplicable if there is none."""
    runs = [run for experiment in experiments for run in experiment.of("analysis") if "lines" in run.summary]
    parts: list[str] = []
    for run in runs:
        image, of = run.folder / "figures" / f"{run.summary['task']}.png", run.summary["figure"]
        parts.append(page.heading(f"{of['title']}: {label(experiments, run.name)}", 3))
        if image.is_file():
            parts.append(page.figure(image, of["title"], f"{of['caption']} {run.folder.name}"))
        parts.append(page.folded(f"tables of {run.folder.name}", page.code("\n".join(run.summary["lines"]))))
    if not parts:
        raise NotApplicable("no analyses")
    return parts
