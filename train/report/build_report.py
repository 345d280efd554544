"""Builds report.html and its figures: which parts a report has, in which order, for which kind of recipe."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from synth.store.files import atomic_write
from train import plotting
from train.report import page, sections
from train.report.estimates import Missing, NotApplicable, solution_accuracy
from train.report.figures import accuracy, probe_map, training
from train.report.studies import arm_ranking, collapse, correction_data, regime_map
from train.report.verdicts import Verdict, judge
from train.runs.choices import load_best
from train.runs.expectation import expectations
from train.runs.results import Experiment, described, plan_of
from train.tables import format_interval

FigureMaker = Callable[[list[Experiment]], plotting.CaptionedFigure]
Section = Callable[[list[Experiment]], list[page.Piece]]
# figures by file name, or a function that makes one for each run
Figures = dict[str, FigureMaker] | Callable[[list[Experiment]], dict[str, FigureMaker]]
COMPUTE = {"arms": accuracy.arms, "compute": accuracy.over_compute, "cost": accuracy.cost}
# heading, figures by file name, and text below them; in the order a reader asks
PARTS: tuple[tuple[str, Figures, Section | None], ...] = (
    ("What the models solve", {"accuracy": accuracy.by_operations}, sections.accuracy_table),
    ("The arms at equal compute", COMPUTE, sections.arms_table),
    ("Mistakes that are taken back", {"corrections": correction_data.figure}, correction_data.section),
    ("Learning, and how far from perfect", {"loss": training.loss}, None),
    ("Rollouts while distilling", {"rollouts": training.health}, None),
    ("A collapse and its cures", {"collapse": collapse.figure}, collapse.section),
    ("The course of each distillation", training.courses, None),
    ("What the hidden states know", {"probe": probe_map.layer_map}, None),
    ("What the analyses found", {}, sections.analyses),
    ("Ten rollouts, step by step", {}, sections.ten_rollouts),
    ("Where all of this comes from", {}, sections.provenance),
)
# For recipes with `controls`: more arms than a figure with a colour for each can show.
RANKED = (
    ("The arms, ranked by what they gained for their compute", {"ranking": arm_ranking.figure}, arm_ranking.section),
    *PARTS[-2:],
)
MAPS = {"regime-map": regime_map.map_figure, "regime-curves": regime_map.curves_figure}
MAPPED = (("Where the family of methods wins", MAPS, regime_map.section), *PARTS[-2:])  # for recipes with a `map`


def build(paths: list[Path], out: Path | None = None) -> Path:
    """Writes `out`/report.html and `out`/figures/*.png (ranking.md where arms are ranked); returns the page's path.

    `out` is the folder itself where only one is given. Raises ValueError for paths that hold no runs."""
    if out is None and len(paths) > 1:
        raise ValueError(f"{len(paths)} runs are given and no place for their report; accepted: --out FOLDER")
    experiments, out = load_best(paths), out or paths[0]
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is not a folder; accepted: a folder, new or old")
    out.mkdir(parents=True, exist_ok=True)
    plan, ranked = plan_of(experiments), arm_ranking.controls_of(experiments)
    body = sections.headline(experiments)
    for title, figures, section in MAPPED if plan.get("map") else RANKED if ranked else PARTS:
        makers = figures(experiments) if callable(figures) else figures
        drawn = [partial(_figure, make, out / "figures" / f"{name}.png") for name, make in makers.items()]
        pieces, anything = _pieces([*drawn, *([section] if section else [])], experiments)
        # A recipe declares its parts, so a missing one is noted; of single runs, parts with only notes are left out.
        if anything or (plan and pieces):
            body += [page.piece("heading", title), *pieces]
    if ranked:
        try:
            atomic_write(out / "ranking.md", arm_ranking.table(experiments).markdown() + "\n")
        except Missing:
            (out / "ranking.md").unlink(missing_ok=True)  # the page says what is missing
    target = out / "report.html"
    atomic_write(target, page.document(plan.get("title") or "Glasshouse report", body))
    return target


def judged(folder: Path) -> list[Verdict]:
    """The verdicts on a recipe's expectations, for the terminal."""
    experiments = load_best([folder])
    return [judge(experiments, expectation) for expectation in expectations(plan_of(experiments))]


def outcome(folder: Path) -> str:
    """What came out of a recipe, in one line: the accuracy of up to eight of its models, on how many problems."""
    experiments = load_best([folder])
    try:
        found = {stage: solution_accuracy(experiments, stage).pooled for stage in accuracy.evaluated(experiments)}
    except Missing:
        return f"{folder}: no evaluation"
    data = dict.fromkeys(described(run.config.get("data") or {}) for e in experiments for run in e.of("evaluation"))
    rates = [f"{stage} {format_interval(rate)} (n = {rate.n})" for stage, rate in found.items()]
    more = f", and {len(rates) - 8} more" if len(rates) > 8 else ""
    return f"{folder} on data {' | '.join(data)}, fully right: {', '.join(rates[:8])}{more}"


def _pieces(parts: list[Section], experiments: list[Experiment]) -> tuple[list[page.Piece], bool]:
    """The pieces of all parts, a note for each that is missing, and whether there is anything but notes."""
    pieces, anything = [], False
    for part in parts:
        try:
            pieces += part(experiments)
            anything = True
        except NotApplicable:
            continue
        except Missing as missing:
            pieces.append(page.piece("paragraph", f"Not shown: {missing}.", "note"))
    return pieces, anything


def _figure(make: FigureMaker, path: Path, experiments: list[Experiment]) -> list[page.Piece]:
    path.unlink(missing_ok=True)  # a figure of an earlier report must not stand for data that are gone
    drawn = plotting.draw(make, experiments)
    plotting.save(drawn, path)
    return [page.figure(path, drawn.title, drawn.caption)]
