"""Settings of the analyses, a section for each, checked when they are made. Paths: run folders or checkpoints."""

from dataclasses import dataclass
from typing import Any

LABELS = ("known", "value", "nece_next", "done")  # states that collapse reads


def _least(section: str, config: Any, **bounds: int) -> None:
    for name, least in bounds.items():
        if getattr(config, name) < least:
            raise ValueError(f"{section}.{name}={getattr(config, name)}: accepted: {least} or more")


def _above_zero(section: str, config: Any, name: str) -> None:
    if not getattr(config, name) > 0:
        raise ValueError(f"{section}.{name}={getattr(config, name)}: accepted: above 0")


def _each(section: str, config: Any, name: str, accepted: str, fits: Any) -> None:
    values = getattr(config, name)
    if not values or not all(map(fits, values)):
        raise ValueError(f"{section}.{name}={list(values)}: accepted: {accepted}")


@dataclass(frozen=True)
class SignalConfig:
    """task=signal. `student`: who answers (null: the teacher). `samples` responses to each of `problems` problems."""

    student: str | None = None
    problems: int = 200
    samples: int = 8
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _least("signal", self, problems=1, samples=2)
        _above_zero("signal", self, "temperature")


@dataclass(frozen=True)
class ProvenanceConfig:
    """task=provenance. `model` is the distilled one, `student` what it was before, `teacher` whom it learned from.

    `gaps`: probability ratios a token from which two models differ clearly; the first is the one that is reported in
    full. `positions`: steps from the start that the area between right and wrong answers is taken over.
    """

    teacher: str | None = None
    student: str | None = None
    problems: int = 300
    samples: int = 2
    temperature: float = 1.0
    gaps: tuple[float, ...] = (2.0, 1.5, 4.0)
    positions: int = 3

    def __post_init__(self) -> None:
        _least("provenance", self, problems=1, samples=1, positions=1)
        _above_zero("provenance", self, "temperature")
        _each("provenance", self, "gaps", "a list of numbers above 1", lambda gap: gap > 1)


@dataclass(frozen=True)
class CapabilityConfig:
    """task=capability. `before`: the model that `model` was made from. `k`: of pass@k, at most `samples`."""

    before: str | None = None
    problems: int = 200
    samples: int = 32
    temperature: float = 1.0
    k: tuple[int, ...] = (1, 4, 32)

    def __post_init__(self) -> None:
        _least("capability", self, problems=1, samples=1)
        _above_zero("capability", self, "temperature")
        _each("capability", self, "k", f"a list of numbers from 1 to {self.samples}", lambda k: 1 <= k <= self.samples)


@dataclass(frozen=True)
class RecoveryConfig:
    """task=recovery. Wrong answers of `student` are cut at each of `cuts` and finished by `model`, `samples` times."""

    student: str | None = None
    problems: int = 300
    samples: int = 2
    temperature: float = 1.0
    cuts: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)

    def __post_init__(self) -> None:
        _least("recovery", self, problems=1, samples=1)
        _above_zero("recovery", self, "temperature")
        _each("recovery", self, "cuts", "a list of shares from 0 to below 1", lambda cut: 0 <= cut < 1)


@dataclass(frozen=True)
class FuturesConfig:
    """task=futures. `model` is the student, `teacher` its teacher. `share`: of the tokens with the highest reverse KL.

    `window`: tokens of a future; `tokens`: most candidates that are looked at.
    """

    teacher: str | None = None
    problems: int = 200
    share: float = 0.2
    tokens: int = 600
    window: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _least("futures", self, problems=1, tokens=1, window=1)
        _above_zero("futures", self, "temperature")
        if not 0 < self.share <= 1:
            raise ValueError(f"futures.share={self.share}: accepted: above 0, up to 1")


@dataclass(frozen=True)
class PremiseConfig:
    """task=premise. `before`, `teacher`: further models asked the same (null: none), what `model` was made from."""

    before: str | None = None
    teacher: str | None = None
    problems: int = 300

    def __post_init__(self) -> None:
        _least("premise", self, problems=1)


@dataclass(frozen=True)
class MergeConfig:
    """task=merge. Weights b (a sft + (1-a) model) + (1-b) base, for a, b in `weights`."""

    sft: str | None = None
    base: str | None = None
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    problems: int = 300

    def __post_init__(self) -> None:
        _least("merge", self, problems=1)
        _each("merge", self, "weights", "a list of numbers from 0 to 1", lambda weight: 0 <= weight <= 1)


@dataclass(frozen=True)
class CollapseConfig:
    """task=collapse. `model` is the run folder of a distillation that kept its checkpoints (`out.keep=0`).

    `states`: what is read at each checkpoint. `most`: checkpoints that are looked at, evenly spread, the first and the
    last among them (0: all). `strengths`: of the push along the stopping direction, in standard deviations of the
    states along it; `random`: directions of equal norm beside it. `problems` of the push.
    """

    states: tuple[str, ...] = LABELS
    most: int = 6
    strengths: tuple[float, ...] = (-8.0, -4.0, 4.0, 8.0)
    random: int = 3
    problems: int = 100

    def __post_init__(self) -> None:
        _least("collapse", self, most=0, random=1, problems=1)
        if self.most == 1:
            raise ValueError("collapse.most=1: accepted: 0 (all), or 2 or more")
        _each("collapse", self, "states", f"a list with some of {', '.join(LABELS)}", lambda name: name in LABELS)
        _each("collapse", self, "strengths", "a list of numbers other than 0", lambda strength: strength != 0)


def given(config: Any, section: str, *names: str) -> dict[str, str]:
    """Setting -> path of checkpoints of a section that it cannot do without. Raises ValueError for one that is null."""
    paths = {f"{section}.{name}": getattr(getattr(config, section), name) for name in names}
    for setting, path in paths.items():
        if path is None:
            raise ValueError(f"{setting}=null: task={section} needs it; accepted: a run folder or a checkpoint")
    return paths
