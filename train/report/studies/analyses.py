"""What analyses of distillation found (`probes.run task=...`): the figure of each, and its tables folded below."""

from train.report.estimates import NotApplicable
from train.report.page import Piece, figure, piece
from train.report.stage_styles import label
from train.runs.results import Experiment


def section(experiments: list[Experiment]) -> list[Piece]:
    """The pieces of every finished analysis, in the recipe's order. Raises NotApplicable if there is none."""
    pieces: list[Piece] = []
    for run in (run for e in experiments for run in e.of("analysis") if "lines" in run.summary):
        image, drawn = run.folder / "figures" / f"{run.summary['task']}.png", run.summary["figure"]
        pieces.append(piece("heading", f"{drawn['title']}: {label(experiments, run.name)}", 3))
        if image.is_file():
            pieces.append(figure(image, drawn["title"], f"{drawn['caption']} {run.folder.name}"))
        pieces.append(piece("folded_code", f"tables of {run.folder.name}", "\n".join(run.summary["lines"])))
    if not pieces:
        raise NotApplicable("no analyses")
    return pieces
