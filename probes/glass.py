"""The glass: one problem and a model's own solution of it, to be stepped through in one self-contained HTML page.

    python -m probes.glass checkpoint=runs/quickstart/teacher-1a2b3c4d index=3 out=glass.html
    python -m probes.glass checkpoint=TEACHER beside=STUDENT text=problem.jsonl

The page shows the dependency graph (needed, ready, done so far), every token with its probability under the model and
the exact oracle and the verdict of its step, and on hover what else could have come and what linear probes read before
the step. `checkpoint` and `beside` (a second model on the same problem) are run folders, checkpoints/step-N folders, or
Hugging Face folders of train.export. The problem is number `index` of the split's stream `look`, as in the notebook
`tour`, or record number `index` of the file `text` (JSON lines of `python -m synth.generate --out FILE`); its solution
there is not read. `probe` is a run folder of probes.run, whose choice of layer and penalty the read-outs then use.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("glass")

import json
import sys
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, FileSystemLoader
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from probes.runs import REQUIRED, OpenCheckpoint, open_checkpoint, run_entry, set_up
from probes.viewer.problem_json import log_probabilities, panel_json, problem_json, readings, solve
from probes.viewer.readouts import ReadoutConfig, fit_readout, places
from synth.dataset import Source
from synth.documents import Documents
from synth.oracle.next_token import POLICIES
from synth.problem.records import from_record
from synth.problem_source import SPLITS
from synth.ranges import Count, NotNegative, OneOf, settings
from synth.store.files import atomic_write

FOLDER = Path(__file__).resolve().parent / "viewer"
STREAM = "look"


@settings
class GlassConfig:
    """Settings of the command. `preset`: of other problems than the checkpoint's own. `policy`: what the oracle says
    after something impossible (`synth.oracle.next_token`). `temperature` 0 is greedy, `seed` is of the sampling."""

    checkpoint: str = REQUIRED  # the model that is looked at
    beside: str | None = None  # a second model, shown next to it
    index: Count = 0  # of the problem
    text: str | None = None  # a solution of one's own in place of the model's
    split: Annotated[str, OneOf(*SPLITS)] = "test"  # whose problems
    preset: str | None = None
    temperature: NotNegative = 0.0  # of the solution, 0 for greedy
    seed: int = 0  # of the solution's draws
    policy: Annotated[str, OneOf(*POLICIES)] = "continue"
    probe: str | None = None  # which read-outs are trained for the page
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    threads: int = 1  # of the CPU
    out: str = "glass.html"  # the page to write

    def __post_init__(self) -> None:
        if Path(self.out).suffix != ".html":
            raise ValueError(f"out={self.out}: accepted: a file name that ends in .html")


def main(config: GlassConfig) -> None:
    """Writes the page, or nothing."""
    set_up(config.threads)
    out = Path(config.out)
    if not out.resolve().parent.is_dir():
        raise ValueError(f"out={out}: the folder above it does not exist; accepted: a path in an existing folder")
    opened = [open_checkpoint(config.checkpoint, "checkpoint", config.preset)]
    if config.beside is not None:
        opened.append(open_checkpoint(config.beside, "beside", config.preset))
        if len({one.data.spec().load_world().vocabulary for one in opened}) > 1:
            raise ValueError(f"beside={config.beside}: its vocabulary is not that of {config.checkpoint}")
    atomic_write(out, page(page_json(opened, config)))
    print(out)


def page_json(opened: list[OpenCheckpoint], config: GlassConfig) -> dict[str, Any]:
    """All that the page shows, as JSON: the problem, and a panel for each of one or two models."""
    data = opened[0].data
    source = data.source(config.split, STREAM)
    documents, where = _problem(source, config)
    solutions = [solve(one.model, source.world, documents, config.temperature, config.seed) for one in opened]
    prompt, panels = documents.prompt_tokens(0).tolist(), []
    for one, solution, other in zip(opened, solutions, reversed(opened), strict=True):
        logp_RV = log_probabilities(other.model, prompt, solution.tokens) if other is not one else None
        panel = panel_json(one.name, solution, source, documents, config.policy, logp_RV)
        if config.readout.problems:
            train, test = (one.data.source(split, "probe") for split in ("train", "test"))
            chosen = places(one.model, config.readout, config.probe).items()
            probes = [fit_readout(one.model, task, train, test, place, config.readout) for task, place in chosen]
            panel["reads"] = readings(one.model, source.world, documents, solution, panel["rows"], probes)
        panels.append(panel)
    return {"where": where, "problem": problem_json(source, documents), "panels": panels}


def _problem(source: Source, config: GlassConfig) -> tuple[Documents, str]:
    """The one document to look at, and where it comes from."""
    if config.text is None:
        return source.documents([config.index]), f"problem {config.index} of the {config.split} split"
    record = _record(Path(config.text), config.index)
    world = source.world
    if record.get("modulus") != world.modulus:
        raise ValueError(f"text={config.text}: modulus={record.get('modulus')}; accepted: {world.modulus}, the model's")
    names = [name for layer in record.get("layers", []) for name in (layer["category"], *layer["items"])]
    if unknown := [name for name in names if not world.is_name(name)]:
        raise ValueError(f"text={config.text}: {unknown[0]!r} is no name of the model's world; accepted: its own names")
    try:
        problem = from_record(record, world)
    except ValueError as error:
        raise ValueError(f"text={config.text}: {error}") from None
    return source.solve(problem, "glass"), f"record {config.index} of {Path(config.text).name}"


def _record(path: Path, index: int) -> dict[str, Any]:
    """Record number `index` of a file of JSON lines."""
    accepted = "accepted: a file of JSON lines as synth.generate --out writes it"
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text={path}: cannot be read ({error}); {accepted}") from None
    if index >= len(lines):
        raise ValueError(f"index={index}: {path} holds {len(lines)} records; accepted: 0 to {len(lines) - 1}")
    try:
        record = json.loads(lines[index])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"text={path}: record {index} is not JSON ({error}); {accepted}") from None
    if not isinstance(record, dict):
        raise ValueError(f"text={path}: record {index} is no JSON object; {accepted}")
    return record


def page(shown: dict[str, Any]) -> str:
    """The HTML of what `page_json` gave. All text reaches the page as JSON with `<` escaped, and from there as text."""
    templates = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, keep_trailing_newline=True)
    data = htmlsafe_json_dumps(shown, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = data.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("glass.css", "glass.js"))
    return templates.get_template("glass.html.jinja").render(shown=shown, data=data, style=style, script=script)


if __name__ == "__main__":
    sys.exit(run_entry("glass", GlassConfig, main, __doc__ or ""))
