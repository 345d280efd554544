"""Checks that the parts' settings share: one line that names the setting, its value and what is accepted."""

from collections.abc import Iterable
from typing import Any


def require(name: str, value: str, accepted: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of the accepted names."""
    names = tuple(accepted)
    if value not in names:
        raise ValueError(f"{name}={value} is not known; accepted: {', '.join(names)}")


def only(name: str, value: Any, applies: bool, where: str) -> None:
    """Raise ValueError unless the setting is set exactly where it means something.

    Args:
        name: the setting, as the user writes it.
        value: its value, None for unset.
        applies: whether the other settings make it meaningful.
        where: in words, when it is meaningful.
    """
    if applies and value is None:
        raise ValueError(f"{name}=null: a value is required with {where}")
    if not applies and value is not None:
        raise ValueError(f"{name}={value} has no effect here; it belongs to {where}; accepted: null")
