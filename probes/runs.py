"""All that probes take from `train`: settings, checkpoints, run folders, evaluation, statistics, the style of figures.

The one place where this package meets `train`; the other files of `probes` import these names from here. Its own part
is to note what a run has done so far, and to open any checkpoint with the data it belongs to: a run folder, a
checkpoints/step-N folder, or a Hugging Face folder. A checkpoint of ours notes its data. A Hugging Face folder says
only its vocabulary; the first preset with exactly that vocabulary is taken unless one is named.

    opened = open_checkpoint("runs/quickstart/teacher-1a2b3c4d")
    opened.model, opened.data.source("test")
    log.once("nece linear", fit)        # calls fit() the first time; from then on gives its value
"""

# ruff: noqa: F401, I001  the other files of probes import these names from here

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.gpt import GPT
from models.huggingface.export import load as load_hugging_face
from synth.spec import presets
from synth.store.encodings import PHRASE
from synth.store.files import append_json_line, finite, read_json_lines, write_json_lines
from synth.store.hf_tokenizer import load_folder
from train.config.compose import REQUIRED, plain, run_entry
from train.config.schema import build
from train.core import checkpoint, zoo_paths
from train.core.torch_setup import set_up
from train.data.batches import DataConfig, check_vocabulary
from train.evaluation.evaluator import Evaluation, evaluate, held_out_loss, rate
from train.evaluation.evaluator import pass_at_k
from train.evaluation.repetition import periods
from train.merge import merge_models
from train.opd.topd import derived as derivation_states
from train.plotting import BLUE, CYCLE, GREEN, GREY, ORANGE, RC_PARAMS, RED
from train.plotting import CaptionedFigure, draw, error_bars, legend_once, save
from train.report.figures.probe_map import layer_map
from train.report.figures.training import health
from train.report.sections import fragment as rollout_fragment
from train.report.page import label, stage_styles
from train.runs.collapse import HEALTH, STEADY, departure
from train.runs.results import Experiment, Run, load, run_folder_name
from train.runs.run_folder import OutConfig, RunFolder, open_run
from train.statistics import ClusterBootstrap, Estimate, correlation, paired_difference, wilson
from train.tables import Table

ACCEPTED = "a run folder, one of its checkpoints/step-N folders, or a Hugging Face folder"


@dataclass(frozen=True)
class OpenCheckpoint:
    """A model in evaluation mode, the data its problems come from, and what to call it."""

    name: str
    model: GPT
    data: DataConfig


def open_checkpoint(path: str | Path, setting: str = "checkpoint", preset: str | None = None) -> OpenCheckpoint:
    """The checkpoint at `path`; `preset` names other problems than its own. Raises ValueError naming the setting where
    nothing can be read at `path`, its tokens are no phrases, or the preset has another vocabulary."""
    path = zoo_paths.expand(path, setting)
    if not path.exists():
        raise ValueError(f"{setting}={path}: does not exist; accepted: {ACCEPTED}")
    if (path / "config.json").is_file():
        return _open_hugging_face(path, setting, preset)
    step = checkpoint.find(path, setting)
    notes = checkpoint.notes(step, setting)
    data = build(DataConfig, notes["data"])
    if data.tokens != PHRASE:
        raise ValueError(f"{setting}={path}: was trained with data.tokens={data.tokens}; accepted: {PHRASE} tokens")
    if preset is not None:
        data = DataConfig(preset)
    check_vocabulary(notes, data, str(path))
    name = f"{step.parent.parent.name}, {step.name}" if step.parent.name == "checkpoints" else step.name
    return OpenCheckpoint(name, checkpoint.load_model(step, setting), data)


def _open_hugging_face(path: Path, setting: str, preset: str | None) -> OpenCheckpoint:
    try:
        model = load_hugging_face(path)
        tokenizer, _ = load_folder(str(path))
    except ValueError as error:
        raise ValueError(f"{setting}={path}: {error}") from None
    vocabulary = tokenizer.get_vocab()
    for name in presets() if preset is None else [preset]:
        data = DataConfig(name)
        world = data.spec().load_world()
        if world.size <= model.config.vocab_size and vocabulary == {text: i for i, text in enumerate(world.vocabulary)}:
            return OpenCheckpoint(path.name, model, data)
    tried = "any preset" if preset is None else f"preset={preset}"
    raise ValueError(f"{setting}={path}: its vocabulary is not that of {tried}; accepted: a folder of train.export")


class ResumeLog:
    """Named parts of a run, each done once, in metrics.jsonl: a killed run goes on after its last finished part. Values
    are JSON: None for a number that is not finite, no tuples. A line with `value` ends a part; lines before it, the
    V-probe's losses, belong to the part after them and are dropped on a new start where that was not finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_json_lines(path)
        whole = max((i + 1 for i, line in enumerate(lines) if "value" in line), default=0)
        if whole < len(lines):
            write_json_lines(path, lines[:whole])
        self._done = {line["part"]: line for line in lines[:whole] if "value" in line}

    def __contains__(self, part: str) -> bool:
        return part in self._done

    def loss(self, part: str, step: int, loss: float, progress: float) -> None:
        """A loss inside a part; `progress` is the share of the whole run that is done."""
        append_json_line(self.path, {"part": part, "step": step, "loss": loss, "progress": progress}, durable=False)

    def once(self, part: str, make: Callable[[], Any], progress: float | None = None) -> Any:
        """The value of a part, made at the first call; `progress` is that of the run after it."""
        if part not in self._done:
            start = time.monotonic()
            line = {"part": part, "value": finite(make()), "seconds": time.monotonic() - start}
            line |= {} if progress is None else {"progress": progress}
            append_json_line(self.path, line)
            self._done[part] = line
        return self._done[part]["value"]

    @property
    def seconds(self) -> float:
        """Of all finished parts."""
        return sum(line["seconds"] for line in self._done.values())
