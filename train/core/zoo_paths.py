"""Where the models are that come with the code: `zoo/NAME` is accepted wherever a checkpoint is (train/zoo.py adds)."""

from pathlib import Path

import models

ZOO = Path(models.__file__).resolve().parent / "zoo"


def expand(path: str | Path, setting: str = "checkpoint") -> Path:
    """The path with `zoo/NAME` replaced by the folder of that model; other paths as they are. Raises ValueError, naming
    the setting, when the zoo has no such model."""
    path = Path(path)
    if path.parts[:1] != ("zoo",) or path.exists():
        return path
    if len(path.parts) < 2 or not (ZOO / path.parts[1]).is_dir():
        raise ValueError(
            f"{setting}={path}: is not in the zoo; accepted: {', '.join(f'zoo/{name}' for name in names())}"
        )
    return ZOO.joinpath(*path.parts[1:])


def names() -> list[str]:
    """Names of the models in the zoo."""
    return sorted(path.parent.name for path in ZOO.glob("*/checkpoints.jsonl"))
