"""The glass: one problem and a model's own solution of it, to be stepped through in one self-contained HTML page.

    python -m probes.glass checkpoint=runs/quickstart/teacher-1a2b3c4d index=3 out=glass.html
    python -m probes.glass checkpoint=TEACHER beside=STUDENT text=problem.jsonl

The page shows the dependency graph (needed, ready, done so far), every token with its probability under the model and
the exact oracle and the verdict of its step, and on hover what else could have come and what linear probes read before
the step. `checkpoint` and `beside` (a second model on the same problem) are run folders, checkpoints/step-N folders, or
Hugging Face folders of train.export. The problem is number `index` of the split's stream `look`, as in the tour, or
record number `index` of the file `text` (JSON lines of `python -m synth.generate --out FILE`); its solution there is
not read. `probe` is a run folder of probes.run, whose choice of layer and penalty the read-outs then use.
"""

import json
import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from probes.runs import REQUIRED, OpenCheckpoint, open_checkpoint, run_entry, set_up
from probes.viewer.problem_json import log_probabilities, of_model, of_problem, read_out, solve
from probes.viewer.readouts import ReadoutConfig, fit_probe, places
from synth.dataset import Source
from synth.documents import Documents
from synth.oracle.next_token import POLICIES
from synth.problem.records import from_record
from synth.problem_source import SPLITS
from synth.store.files import atomic_write

FOLDER = Path(__file__).resolve().parent / "viewer"
STREAM = "look"
# Nothing may be fetched, so the page is the same offline, and no text of a record can reach outside it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class GlassConfig:
    """Settings of the command. `preset`: of other problems than the checkpoint's own. `policy`: what the oracle says
    after something impossible (`synth.oracle.next_token`). `temperature` 0 is greedy, `seed` is of the sampling."""

    checkpoint: str = REQUIRED
    beside: str | None = None
    index: int = 0
    text: str | None = None
    split: str = "test"
    preset: str | None = None
    temperature: float = 0.0
    seed: int = 0
    policy: str = "continue"
    probe: str | None = None
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    threads: int = 1
    out: str = "glass.html"

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index={self.index}: accepted: 0 or more")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: accepted: 0 (greedy) or more")
        for name, accepted in (("split", tuple(SPLITS)), ("policy", POLICIES)):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}={getattr(self, name)}: accepted: {', '.join(accepted)}")
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
    atomic_write(out, page(account(opened, config)))
    print(out)


def account(opened: list[OpenCheckpoint], config: GlassConfig) -> dict[str, Any]:
    """All that the page shows, as JSON: the problem, and a panel for each of one or two models."""
    data = opened[0].data
    source = data.source(config.split, STREAM)
    documents, where = _problem(source, config)
    world = source.world
    solutions = [solve(one.model, world, documents, config.temperature, config.seed) for one in opened]
    prompt = documents.prompt_tokens(0).tolist()
    panels = []
    for i, one in enumerate(opened):
        other = None
        if len(opened) == 2:
            other = log_probabilities(opened[1 - i].model, prompt, solutions[i].tokens)
        panel = of_model(one.name, solutions[i], source, documents, config.policy, other)
        if config.readout.problems:
            train, test = (one.data.source(split, "probe") for split in ("train", "test"))
            chosen = places(one.model, config.readout, config.probe).items()
            probes = [fit_probe(one.model, task, train, test, place, config.readout) for task, place in chosen]
            read_out(panel, one.model, world, documents, solutions[i], probes)
        panels.append(panel)
    problem = of_problem(source, documents)
    return {"where": where, "problem": problem, "panels": panels}


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
    """The HTML of an account. All text reaches the page as JSON, in which `<` is escaped, and from there as text."""
    told = json.dumps(shown, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        told = told.replace(sign, f"\\u{ord(sign):04x}")
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("glass.css", "glass.js"))
    title = escape(f"{shown['problem']['question']} | the glass")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{style}</style></head>\n<body>\n"
        '<noscript>This page is drawn by its own script, which is switched off.</noscript>\n<main id="glass"></main>\n'
        f'<script type="application/json" id="account">{told}</script>\n<script>\n{script}</script>\n</body></html>\n'
    )


if __name__ == "__main__":
    sys.exit(run_entry("glass", GlassConfig, main, __doc__ or ""))
