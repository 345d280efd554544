"""Settings of `probes.run`, checked when they are made."""

from dataclasses import dataclass, field

from probes.analyses import settings as analyses
from probes.queries.labels import ALL, GIVEN, TASKS, check_tasks
from probes.readout.activations import RESIDUAL
from probes.readout.linear import LinearConfig
from probes.readout.vprobe import VProbeConfig
from probes.runs import REQUIRED, DataConfig, OutConfig
from synth.store.encodings import PHRASE

LAYERS, MISTAKES, EXPORT = "layers", "mistakes", "export"
ANALYSES = ("signal", "provenance", "capability", "recovery", "futures", "premise", "merge", "collapse")
LINEAR, VPROBE = "linear", "vprobe"


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
        for name, least in (("fit", 1), ("validation", 1), ("test", 1), ("most", 2 if self.balance else 1)):
            if getattr(self, name) < least:
                raise ValueError(f"probe.queries.{name}={getattr(self, name)}: accepted: {least} or more")
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
class MistakesConfig:
    """task=mistakes. `problems` of the test split; `probe`: the detector that retries listen to.

    vprobe is asked by the name between markers, linear once `Define NAME as` is written, as in the paper. `retries` a
    solution at most when a detector says that a sentence was wrong (the paper: 10), then as many as `more_retries` (the
    paper: 50); `beams` of the beam search against it (0: none); `temperature` of a sentence that is drawn anew;
    `max_new_tokens` of a solution, null: twice the longest right one.
    """

    problems: int = 512
    probe: str = VPROBE
    retries: int = 10
    more_retries: int = 50
    beams: int = 4
    temperature: float = 1.0
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("problems", 1), ("retries", 1), ("more_retries", 1), ("beams", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"mistakes.{name}={getattr(self, name)}: accepted: {least} or more")
        if self.probe not in (LINEAR, VPROBE):
            raise ValueError(f"mistakes.probe={self.probe}: accepted: {LINEAR}, {VPROBE}")
        if not self.temperature > 0:
            raise ValueError(f"mistakes.temperature={self.temperature}: accepted: above 0")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"mistakes.max_new_tokens={self.max_new_tokens}: accepted: 1 or more, or null")


@dataclass(frozen=True)
class ExportSettings:
    """task=export. `tasks` whose activations and labels are written; `sites` as in `probe.linear.sites`."""

    tasks: tuple[str, ...] = ("nece", "value")
    sites: tuple[str, ...] = RESIDUAL
    texts: int = 4096  # texts to a shard: what is held in memory at a time

    def __post_init__(self) -> None:
        check_tasks("export.tasks", self.tasks)
        for name in ("tasks", "sites"):
            if not getattr(self, name):
                raise ValueError(f"export.{name}=[]: accepted: a list with one or more")
        if self.texts < 1:
            raise ValueError(f"export.texts={self.texts}: accepted: 1 or more")


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of the command. `seed`: of the queries, the probes' initial weights and order, and the random model.

    `task`: layers, what each probe reads at each layer; mistakes, what the model knew of its own; export, activations
    and labels as files; the others are analyses of distillation, each with a section of its own
    (`probes.analyses.settings`). On the command line `checkpoint` is another name of `model`.
    """

    model: str = REQUIRED
    task: str = LAYERS
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    mistakes: MistakesConfig = field(default_factory=MistakesConfig)
    export: ExportSettings = field(default_factory=ExportSettings)
    threads: int = 1
    device: str = "cpu"
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/probes", "probe"))
    signal: analyses.SignalConfig = field(default_factory=analyses.SignalConfig)
    provenance: analyses.ProvenanceConfig = field(default_factory=analyses.ProvenanceConfig)
    capability: analyses.CapabilityConfig = field(default_factory=analyses.CapabilityConfig)
    recovery: analyses.RecoveryConfig = field(default_factory=analyses.RecoveryConfig)
    futures: analyses.FuturesConfig = field(default_factory=analyses.FuturesConfig)
    premise: analyses.PremiseConfig = field(default_factory=analyses.PremiseConfig)
    merge: analyses.MergeConfig = field(default_factory=analyses.MergeConfig)
    collapse: analyses.CollapseConfig = field(default_factory=analyses.CollapseConfig)

    def __post_init__(self) -> None:
        if self.task not in (tasks := (LAYERS, MISTAKES, EXPORT, *ANALYSES)):
            raise ValueError(f"task={self.task}: accepted: {', '.join(tasks)}")
        if self.data.tokens != PHRASE:
            raise ValueError(f"data.tokens={self.data.tokens}: probes read names of one token each; accepted: {PHRASE}")
