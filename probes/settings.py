"""Settings that every task of `probes.run` has, and the checks that settings share.

A task adds a section of its own: its file holds the dataclass of the section and a subclass of `ProbeConfig` with it,
whose default for `task` is the name on the command line.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from probes.queries.labels import ALL, GIVEN, TASKS
from probes.readout.linear import LinearConfig
from probes.readout.vprobe import VProbeConfig
from probes.runs import REQUIRED, DataConfig, OutConfig
from synth.store.encodings import PHRASE

LINEAR, VPROBE = "linear", "vprobe"  # probes, as summaries name them


def check_at_least(section: str, settings: Any, **bounds: int) -> None:
    """Raises ValueError for a setting below its bound."""
    for name, least in bounds.items():
        if getattr(settings, name) < least:
            raise ValueError(f"{section}.{name}={getattr(settings, name)}: accepted: {least} or more")


def check_above_zero(section: str, settings: Any, name: str) -> None:
    if not getattr(settings, name) > 0:
        raise ValueError(f"{section}.{name}={getattr(settings, name)}: accepted: above 0")


def check_each(section: str, settings: Any, name: str, accepted: str, fits: Callable[[Any], bool]) -> None:
    """Raises ValueError for a list that is empty or has an entry that does not fit."""
    values = getattr(settings, name)
    if not values or not all(map(fits, values)):
        raise ValueError(f"{section}.{name}={list(values)}: accepted: {accepted}")


@dataclass(frozen=True)
class QueryConfig:
    """Problems to `fit` on and for `validation` (train split) and to `test` on; at most `most` queries a problem.

    `balance`: as many parameters of one group of labels as of the other, so that majority is right about half the time;
    else parameters are drawn uniformly, as in the paper. `nece`: which parameters nece asks about, `all` as in the
    paper, or `given`, those that have a sentence and are not the query: in a small world the others' names tell.
    """

    fit: int = 1500
    validation: int = 300
    test: int = 600
    most: int = 10
    balance: bool = False
    nece: str = ALL

    def __post_init__(self) -> None:
        check_at_least("probe.queries", self, fit=1, validation=1, test=1, most=2 if self.balance else 1)
        if self.nece not in (ALL, GIVEN):
            raise ValueError(f"probe.queries.nece={self.nece}: accepted: {ALL}, {GIVEN}")


@dataclass(frozen=True)
class ProbeSettings:
    """The content of configs/probe/NAME.yaml; a probe without tasks is left out."""

    queries: QueryConfig = field(default_factory=QueryConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    vprobe: VProbeConfig = field(default_factory=VProbeConfig)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(
                f"probe.linear.tasks, probe.vprobe.tasks: both empty; accepted: lists with some of {', '.join(TASKS)}"
            )

    @property
    def tasks(self) -> list[str]:
        return [task for task in TASKS if task in (*self.linear.tasks, *self.vprobe.tasks)]


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of the command. `seed`: of the queries, the probes' initial weights and order, and the random model.

    `task`: layers, what each probe reads at each layer; mistakes, what the model knew of its own; export, activations
    and labels as files; the others are analyses of distillation. On the command line `checkpoint` is another name of
    `model`. The section of a task is shown by `python -m probes.run task=NAME --help`.
    """

    model: str = REQUIRED
    task: str = "layers"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    threads: int = 1
    device: str = "cpu"
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/probes", "probe"))

    def __post_init__(self) -> None:
        if self.data.tokens != PHRASE:
            raise ValueError(f"data.tokens={self.data.tokens}: probes read names of one token each; accepted: {PHRASE}")
