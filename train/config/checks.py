"""Checks of settings in `__post_init__`: ValueError in one line with the setting, its value, and what is accepted."""

import math
from collections.abc import Iterable
from typing import Any


def check_least(config: Any, least: float, *names: str, group: str = "") -> None:
    """These numbers of `config` must be finite and `least` or more; null passes. `group`: the prefix of their names."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{group}{name}={value}: accepted: {least} or more")


def check_positive(config: Any, *names: str, group: str = "") -> None:
    """These numbers of `config` must be finite and above 0; null passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{group}{name}={value}: accepted: above 0")


def check_choice(config: Any, accepted: Iterable[str], *names: str, group: str = "") -> None:
    """These texts of `config` must be among the accepted."""
    accepted = tuple(accepted)
    for name in names:
        if getattr(config, name) not in accepted:
            raise ValueError(f"{group}{name}={getattr(config, name)}: accepted: {', '.join(accepted)}")
