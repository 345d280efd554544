"""Settings that every task of `probes.run` has; a task adds a section of its own, under its name."""

from dataclasses import field
from functools import partial
from typing import Literal

from probes.queries.labels import ALL, TASKS
from probes.readout.linear import LinearConfig
from probes.readout.vprobe import VProbeConfig
from probes.runs import REQUIRED, DataConfig, OutConfig, checkpoint
from probes.words import LAYERS
from synth.ranges import BadSetting, Positive, settings
from synth.store.encodings import PHRASE

LINEAR, VPROBE = "linear", "vprobe"  # probes, as summaries name them


@settings
class QueryConfig:
    """Problems to `fit` on and for `validation` (train split) and to `test` on; at most `most` queries a problem.

    `balance`: as many parameters of one group of labels as of the other, so that majority is right about half the time;
    else parameters are drawn uniformly, as in the paper. `nece`: which parameters nece asks about, `all` as in the
    paper, or `given`, those that have a sentence and are not the query: in a small world the others' names tell.
    """

    fit: Positive = 1500  # problems to fit on
    validation: Positive = 300  # problems that choose the settings of the fit
    test: Positive = 600  # problems to test on
    most: Positive = 10  # queries of a problem
    balance: bool = False
    nece: Literal["all", "given"] = ALL

    def __post_init__(self) -> None:
        if self.balance and self.most < 2:
            raise BadSetting(f"most={self.most}: accepted: 2 or more with balance=true")


@settings
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


@settings
class ProbeConfig:
    """Settings of the command. `seed`: of the queries, the probes' initial weights and order, and the random model.

    `task`: layers, what each probe reads at each layer; mistakes, what the model knew of its own; export, activations
    and labels as files; the others are analyses of distillation. On the command line `checkpoint` is another name of
    `model`. Without `data` it reads the model's own. The section of a task is shown by
    `python -m probes.run task=NAME --help`.
    """

    model: str = REQUIRED  # a run folder, one of its checkpoints/step-N folders, or zoo/NAME
    task: str = LAYERS
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    threads: int = 1  # of the CPU
    device: str = "cpu"  # cpu, cuda or cuda:N
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/probes", "probe"))
    complete = staticmethod(partial(checkpoint.take_data, "model"))

    def __post_init__(self) -> None:
        if self.data.tokens != PHRASE:
            raise ValueError(f"data.tokens={self.data.tokens}: probes read names of one token each; accepted: {PHRASE}")
