"""Models that have learnt nothing: with weights that all matter, and saved as a run folder has them."""

from pathlib import Path

import torch

from models.gpt import GPT, GPTConfig
from train.core import checkpoint
from train.core.budget_and_ledger import TrainState
from train.data.batches import DataConfig, vocabulary_notes

SMALL_WORLD = DataConfig("tiny", {"ops": 2, "edges": 4})


def perturbed(model: GPT, scale: float = 0.3, seed: int = 1) -> GPT:
    """The same model after noise on every weight: the first weights are so small that many a mistake would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape, generator=generator)
    return model


def save_untrained(
    folder: Path, *steps: int, data: DataConfig = SMALL_WORLD, seed: int | None = None, context: int = 256, **settings
) -> Path:
    """A run folder with a checkpoint of another untrained model at every step; `seed` is the step unless given."""
    folder.mkdir(parents=True)
    for step in steps or (1,):
        shape = GPTConfig(data.spec().load_world().size, 2, 2, 16, context, **settings)
        model = GPT(shape, step if seed is None else seed)
        optimizer = torch.optim.SGD(model.parameters())
        checkpoint.save(folder, model, optimizer, TrainState(step=step), vocabulary_notes(data))
    return folder
