"""Any checkpoint with the data it belongs to: a run folder, a checkpoints/step-N folder, or a Hugging Face folder.

A checkpoint of ours notes its data. A Hugging Face folder says only its vocabulary; the first preset with exactly that
vocabulary is taken unless one is named.

    opened = open_checkpoint("runs/quickstart/teacher-1a2b3c4d")
    opened.model, opened.data.source("test")
"""

from dataclasses import dataclass
from pathlib import Path

from models.gpt import GPT
from models.huggingface.export import load
from synth.spec import presets
from synth.store.encodings import PHRASE
from synth.tokenizer import load_folder
from train.config.schema import build
from train.core import checkpoint
from train.data.batches import DataConfig, check_vocabulary

ACCEPTED = "a run folder, one of its checkpoints/step-N folders, or a Hugging Face folder"


@dataclass(frozen=True)
class Opened:
    """A model in evaluation mode, the data its problems come from, and what to call it."""

    name: str
    model: GPT
    data: DataConfig


def open_checkpoint(path: str | Path, setting: str = "checkpoint", preset: str | None = None) -> Opened:
    """The checkpoint at `path`; `preset` names other problems than its own.

    Raises ValueError naming the setting where nothing can be read at `path`, its tokens are no phrases, or the preset
    has another vocabulary.
    """
    path = checkpoint.expand_zoo_path(path, setting)
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
    return Opened(name, checkpoint.load_model(step, setting), data)


def _open_hugging_face(path: Path, setting: str, preset: str | None) -> Opened:
    try:
        model = load(path)
        tokenizer, _ = load_folder(str(path))
    except ValueError as error:
        raise ValueError(f"{setting}={path}: {error}") from None
    vocabulary = tokenizer.get_vocab()
    for name in presets() if preset is None else [preset]:
        data = DataConfig(name)
        world = data.spec().load_world()
        if world.size <= model.config.vocab_size and vocabulary == {text: i for i, text in enumerate(world.vocabulary)}:
            return Opened(path.name, model, data)
    tried = "any preset" if preset is None else f"preset={preset}"
    raise ValueError(f"{setting}={path}: its vocabulary is not that of {tried}; accepted: a folder of train.export")
