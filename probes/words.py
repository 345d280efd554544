"""Words of the command line of `probes.run` that are read before its settings are known."""

from collections.abc import Sequence

LAYERS = "layers"  # the task when none is named


def task_of(words: Sequence[str]) -> str:
    """The task that `task=` names, or the usual one."""
    named = [word.partition("=")[2] for word in words if word.startswith("task=")]
    return named[-1] if named else LAYERS


def rewrite(words: list[str], _: type) -> list[str]:
    """`checkpoint=` is another name of `model=`. Raises ValueError where both are given."""
    names = [word.partition("=")[0] for word in words]
    if "checkpoint" in names and "model" in names:
        raise ValueError("checkpoint and model: both are given and mean the same; accepted: one")
    return [f"model={word.partition('=')[2]}" if word.startswith("checkpoint=") else word for word in words]
