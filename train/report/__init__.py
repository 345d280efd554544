"""The report: figures and one self-contained page, built from run folders only.

    results.py    reads run folders; one experiment for each seed
    measures.py   accuracies, shares of a gap, probe margins, with intervals     verdicts.py   expectations: met or not
    style.py      one look for all figures          training.py   loss and oracle, health of rollouts
    accuracy.py   accuracy, arms, compute, costs    probing.py    layer-wise probe map
    corrections.py   arms trained on mistakes that are taken back     published.py   their published numbers
    collapse.py   onset of a collapse, its cures, the signs before it (onset.py)
    course.py     one distillation, every diagnostic
    ranking.py    many arms: gain per FLOP, paired tests against controls
    analyses.py   figures and tables of probes.run task=signal and its like
    rollouts.py   ten rollouts, step by step        sections.py   tables and prose        page.py   HTML

A part whose data are missing becomes a note on the page, never an exception. Try: `python -m train.report
runs/quickstart`.
"""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from train import plotting
from train.report import page, sections
from train.report.estimates import Missing, NotApplicable
from train.report.figures import accuracy, distillation_course, probe_map, training
from train.report.studies import analyses, arena, collapse, correction_data
from train.report.verdicts import Verdict, judge
from train.runs.results import Experiment, load

Maker = Callable[[list[Experiment]], plotting.CaptionedFigure]
Section = Callable[[list[Experiment]], list[str]]
Figures = dict[str, Maker] | Callable[[list[Experiment]], dict[str, Maker]]  # or as many as the runs ask for

NOT_SHOWN = '<p class="note">Not shown'

# heading, figures by file name, and text below them; in the order a reader asks
PARTS: tuple[tuple[str, Figures, Section | None], ...] = (
    ("What the models solve", {"accuracy": accuracy.by_operations}, sections.accuracy_table),
    (
        "The arms at equal compute",
        {"arms": accuracy.arms, "compute": accuracy.over_compute, "cost": accuracy.cost},
        sections.arms_table,
    ),
    ("Mistakes that are taken back", {"corrections": correction_data.over_rates}, correction_data.table),
    ("Learning, and how far from perfect", {"loss": training.loss}, None),
    ("Rollouts while distilling", {"rollouts": training.health}, None),
    ("A collapse and its cures", {"collapse": collapse.figure}, collapse.tables),
    ("The course of each distillation", distillation_course.figures, None),
    ("What the hidden states know", {"probe": probe_map.layer_map}, None),
    ("What the analyses found", {}, analyses.found),
    ("Ten rollouts, step by step", {}, sections.ten_rollouts),
    ("Where all of this comes from", {}, sections.provenance),
)
# For recipes with `controls`: more arms than a figure with a colour for each can show.
RANKED = (
    ("The arms, ranked by what they gained for their compute", {"ranking": arena.forest}, arena.section),
    *PARTS[-2:],
)


def build(paths: list[Path], out: Path | None = None) -> Path:
    """Writes `out`/report.html and `out`/figures/*.png (ranking.md where arms are ranked); returns the page's path.

    `out` is the folder itself where only one is given. Raises ValueError for paths that hold no runs."""
    if out is None and len(paths) > 1:
        raise ValueError(f"{len(paths)} runs are given and no place for their report; accepted: --out FOLDER")
    experiments = load(paths)
    out = out or paths[0]
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is not a folder; accepted: a folder, new or old")
    plan = next((e.plan for e in experiments if e.plan), {})
    parts = _guarded(sections.headline, experiments)
    for title, figures, section in RANKED if arena.wanted(experiments) else PARTS:
        pieces = []
        for name, maker in (figures(experiments) if callable(figures) else figures).items():
            pieces += _guarded(partial(_figure, maker, out / "figures" / f"{name}.png"), experiments)
        pieces += _guarded(section, experiments) if section is not None else []
        # A recipe says what belongs to it, so what is missing is news there; single runs have few of the parts.
        if (plan and pieces) or not all(piece.startswith(NOT_SHOWN) for piece in pieces):
            parts += [page.heading(title), *pieces]
    if arena.wanted(experiments):
        with contextlib.suppress(Missing):  # the page says what is missing
            _write(out / "ranking.md", arena.markdown(experiments))
    return _write(out / "report.html", page.document(plan.get("title") or "Glasshouse report", parts))


def _write(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(target)


def judged(folder: Path) -> list[Verdict]:
    """The verdicts on a recipe's expectations, for the terminal."""
    experiments = load([folder])
    plan = next((e.plan for e in experiments if e.plan), {})
    return [judge(experiments, expectation) for expectation in plan.get("expect", [])]


def _figure(maker: Maker, path: Path, experiments: list[Experiment]) -> list[str]:
    path.unlink(missing_ok=True)  # a figure of an earlier report must not stand for data that are gone
    drawn = plotting.draw(maker, experiments)
    plotting.save(drawn, path)
    return [page.figure(path, drawn.title, drawn.caption)]


def _guarded(section: Section, experiments: list[Experiment]) -> list[str]:
    """The section, or a note on what is missing: a file torn or of an older form must not cost the other sections."""
    try:
        return section(experiments)
    except NotApplicable:
        return []
    except Missing as missing:
        return [f"{NOT_SHOWN}: {page.escape(str(missing))}.</p>"]
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, AttributeError) as error:
        return [f"{NOT_SHOWN}: its data could not be read ({page.escape(repr(error))}).</p>"]
