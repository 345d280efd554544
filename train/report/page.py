"""The page of a report: one file without scripts, fonts or links, made of the templates and style sheets in templates/.

Every text is escaped unless it is a piece of HTML that a template made (`Markup`), or a `train.tables.Table`.
"""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from train.plotting import BLUE, CYCLE, GREY, MARKERS
from train.runs.results import Experiment
from train.tables import Table

Piece = Markup | Table

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def piece(macro: str, *arguments: Any) -> Markup:
    """What a macro of templates/pieces.html makes of the arguments."""
    return Markup(getattr(_TEMPLATES.get_template("pieces.html").module, macro)(*arguments).strip())


def note(macro: str, style: str = "soft", **values: Any) -> Markup:
    """A paragraph with the text of a macro of templates/notes.html, on how to read a section."""
    text = getattr(_TEMPLATES.get_template("notes.html").module, macro)(**values)
    return piece("paragraph", Markup(" ".join(text.split())), style)


def figure(png: Path, title: str, caption: str) -> Markup:
    """A PNG file inside the page."""
    return piece("figure", base64.b64encode(png.read_bytes()).decode(), png.name, title, caption)


def document(title: str, parts: Iterable[Piece]) -> str:
    """The whole page."""
    return _TEMPLATES.get_template("page.html").render(title=title, parts=parts)


def rollout_style() -> Markup:
    """The style of a rollout, for a page that is not a report."""
    return Markup(f"<style>{_TEMPLATES.get_template('rollout.css').render()}</style>")


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
        models = ("training", "distillation", "merge", "grow")
        stages += [name for name, run in experiment.runs.items() if run.kind in models]
    order = list(dict.fromkeys([*special, *stages]))
    rest = [stage for stage in order if stage not in special]
    colors = special | {stage: CYCLE[i % len(CYCLE)] for i, stage in enumerate(rest)}
    return {stage: StageStyle(colors[stage], MARKERS[i % len(MARKERS)]) for i, stage in enumerate(order)}


def label(experiments: list[Experiment], stage: str) -> str:
    """What the recipe calls a stage, else its name."""
    return next((text for e in experiments if (text := e.label(stage)) != stage), stage)
