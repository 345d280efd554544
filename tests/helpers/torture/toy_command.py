"""A command without torch, which other processes can import: what it was given ends up in a file."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from train.config.compose import plain, run_entry
from train.recipes.stage import StageFailed
from train.runs.run_folder import OutConfig

FAILURES = {
    9: FloatingPointError("loss is not a number"),
    8: StageFailed("stage teacher: n_layer=-1", usage=True),
    7: StageFailed("stage teacher ended with code 1", usage=False),
}  # by the seed at which the command fails


@dataclass(frozen=True)
class ToyConfig:
    seed: int = 0
    lr: float = 0.1
    path: str = "a"
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/toy", "toy"))

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: accepted: 0 or more")


def main(config: ToyConfig) -> None:
    if config.seed in FAILURES:
        raise FAILURES[config.seed]
    Path(config.out.root).mkdir(parents=True, exist_ok=True)
    note = {"config": plain(config), "argv": sys.argv[1:]}
    Path(config.out.root, config.out.name).write_text(json.dumps(note), encoding="utf-8")


def run(folder: Path, *words: str) -> int:
    (folder / "toy.yaml").write_text("defaults: [_self_]\n", encoding="utf-8")
    return run_entry("toy", ToyConfig, main, "Toy.", list(words), folder=folder)
