"""A setting that changes with the step, and ranges that several parts share (beside `synth.ranges`)."""

from typing import Annotated

from synth.ranges import NotNegative, Positive, Range, settings

OpenShare = Annotated[float, Range(above=0, below=1)]
Discount = Annotated[float, Range(above=0, most=1)]


@settings
class Schedule:
    """A number that changes with the step: from `start` on a line to `end` at step `steps`; `jump`: at once there."""

    start: NotNegative  # value at step 0
    end: NotNegative  # value from `steps` on
    steps: Positive  # of the way from start to end
    jump: bool = False

    def __post_init__(self) -> None:
        if self.start == self.end:
            raise ValueError(f"schedule start={self.start}, end={self.end}: nothing changes; accepted: two numbers")

    def at(self, step: int) -> float:
        """The value at a step."""
        done = float(step >= self.steps) if self.jump else min(1.0, step / self.steps)
        return self.start + done * (self.end - self.start)


def at_step(schedule: Schedule | None, step: int, constant: float = 1.0) -> float:
    """The schedule's value, `constant` where there is none."""
    return constant if schedule is None else schedule.at(step)
