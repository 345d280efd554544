"""What a task of `probes.run` is. A new one is a file with such an object, entered once in `probes.run.TASKS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.gpt import GPT
from probes.settings import ProbeConfig

Models = Mapping[str, GPT]  # setting that names a checkpoint -> the model; `model` is always among them


def no_checkpoints(config: Any) -> dict[str, str]:
    """Of a task that reads `model` alone."""
    return {}


@dataclass(frozen=True)
class Task:
    """Work on one checkpoint, or on several, that ends in the summary.json of a run folder.

    config: the settings; the default of its field `task` is the task's name. prepare: what the work needs, made and
    checked before a folder is there: (config, models) -> anything. run: (config, models, what `prepare` gave, folder)
    -> the content of summary.json. text: a summary as lines for a person. checkpoints: setting -> path of the
    checkpoints that are read besides `model`. The first three raise ValueError for what cannot be done.
    """

    config: type[ProbeConfig]
    prepare: Callable[[Any, Models], Any]
    run: Callable[[Any, Models, Any, Path], dict[str, Any]]
    text: Callable[[Mapping[str, Any]], str]
    checkpoints: Callable[[Any], dict[str, str]] = no_checkpoints
