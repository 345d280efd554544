"""A setting that changes with the step, and the checks of single numbers that the parts' settings share."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A number that changes with the step: from `start` on a line to `end` at step `steps`; `jump`: at once there."""

    start: float
    end: float
    steps: int
    jump: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"schedule steps={self.steps}: accepted are whole numbers from 1")
        for name in ("start", "end"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"schedule {name}={getattr(self, name)}: accepted are numbers from 0")
        if self.start == self.end:
            raise ValueError(f"schedule start={self.start}, end={self.end}: nothing changes; accepted: two numbers")

    def at(self, step: int) -> float:
        """The value at a step."""
        done = float(step >= self.steps) if self.jump else min(1.0, step / self.steps)
        return self.start + done * (self.end - self.start)


def at_step(schedule: Schedule | None, step: int, constant: float = 1.0) -> float:
    """The schedule's value, `constant` where there is none."""
    return constant if schedule is None else schedule.at(step)


def require(name: str, value: str, accepted: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of the accepted names."""
    names = tuple(accepted)
    if value not in names:
        raise ValueError(f"{name}={value} is not known; accepted: {', '.join(names)}")


def whole(name: str, value: int | None, least: int = 1) -> None:
    """Raise ValueError unless a number is at least `least`, or null."""
    if value is not None and value < least:
        raise ValueError(f"{name}={value}: accepted are whole numbers from {least}")


def unit(name: str, value: float | None, *, closed: bool = False) -> None:
    """Raise ValueError unless a number lies strictly between 0 and 1 (`closed`: or is 0 or 1), or is null."""
    if value is None or (0.0 <= value <= 1.0 if closed else 0.0 < value < 1.0):
        return
    raise ValueError(f"{name}={value}: accepted are numbers {'from 0 to 1' if closed else 'strictly between 0 and 1'}")


def positive(name: str, value: float | None) -> None:
    """Raise ValueError unless a number is above 0, or null."""
    if value is not None and not value > 0.0:
        raise ValueError(f"{name}={value}: accepted are positive numbers")
