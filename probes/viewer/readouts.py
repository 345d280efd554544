"""Read-outs: what a linear probe says of one model's own solution, parameter by parameter, before each of its steps.

The probe is fitted for the checkpoint's world on some hundred problems of the train split, at every layer or one, and
judged on problems of the test split, on as many needed (or known) parameters as others. It is then asked about the
solution at hand what it was fitted on: a text that ends where a step ends, a parameter's name behind. The tasks are
those of `probes.queries.labels` that ask about one parameter; `nece` is asked once, before the solution begins.

    probe = fit_readout(model, "value", train, test, place, ReadoutConfig())
    probe.probabilities(states_at(model, world, documents, tokens, slots, cuts, probe.site))      # [cuts * slots, K]

Legend: N queries, C channels, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import GIVEN, TASKS, task_of
from probes.queries.table import Queries, draw_split
from probes.readout.activations import RESIDUAL, chosen_sites, layer_of, names_in_line, read
from probes.readout.controls import majority
from probes.readout.linear import LinearProbes, fit_probes
from probes.runs import ClusterBootstrap, Estimate, Run
from synth.dataset import Source
from synth.documents import Documents
from synth.ranges import AboveZero, BadSetting, Count, Filled, OneOf, Range, settings
from synth.store.files import naming
from synth.world.vocabulary import World

ASKED = tuple(name for name, task in TASKS.items() if not task.pairs)
PROBES = "accepted: a finished run folder of probes.run with linear probes"


@settings
class ReadoutConfig:
    """`problems` to fit on (0: no read-outs), `most` queries each; a quarter as many, 16 or more, to choose with and to
    report on. `layer`: 0 is the embedding; null is the best one. `l2`: strengths to choose from."""

    tasks: tuple[Annotated[str, OneOf(*ASKED)], ...] = ("nece", "known", "value", "nece_next")  # what is read
    problems: Count = 1000  # to fit the read-outs on
    most: Annotated[int, Range(2)] = 8  # queries of a problem
    layer: int | None = None
    l2: Annotated[tuple[AboveZero, ...], Filled] = (1e-3, 1e-2, 1e-1)

    def __post_init__(self) -> None:
        if 0 < self.problems < 8:
            raise BadSetting(f"problems={self.problems}: accepted: 8 or more, or 0 for no read-outs")


class Place(NamedTuple):
    """Where a task is read: the layers and penalties to choose from."""

    layers: tuple[int, ...]
    l2: tuple[float, ...]


class Readout(NamedTuple):
    """A fitted probe of one site, and its accuracy on the test split beside the most frequent label's."""

    task: str
    site: str
    layer: int
    probe: LinearProbes
    accuracy: Estimate
    majority: float

    def probabilities(self, states_NC: Tensor) -> np.ndarray:
        """Of every label, float64[N, K]."""
        return self.probe.logits(states_NC[None])[0].double().softmax(-1).numpy()


def places(model: GPT, config: ReadoutConfig, run: str | None = None) -> dict[str, Place]:
    """Where each task is to be read: as a probe run selected, else as the settings say. Raises ValueError for a layer
    that the model lacks, and for a run that is none."""
    last = model.config.n_layer
    if config.layer is not None and not 0 <= config.layer <= last:
        raise ValueError(f"readout.layer={config.layer}: accepted: 0 (the embedding) to {last}, or null for the best")
    layers = tuple(range(last + 1)) if config.layer is None else (config.layer,)
    found = {task: Place(layers, config.l2) for task in config.tasks}
    if run is None:
        return found
    summary = Path(run) / "summary.json"
    if not summary.is_file():
        raise ValueError(f"probe={run}: holds no summary.json; {PROBES}")
    with naming(summary):
        rows = [row for row in Run(Path(run)).summary.get("results", []) if row.get("probe") == "linear"]
        rows = [row for row in rows if "l2" in row]
    if not rows:
        raise ValueError(f"probe={run}: has no linear probe; {PROBES}")
    for row in sorted(rows, key=lambda row: row["validation"]):  # of each task the best one stays
        if row["task"] in found and row["site"] in chosen_sites(model, RESIDUAL) and config.layer is None:
            found[row["task"]] = Place((row["layer"],), (row["l2"],))
    return found


def fit_readout(model: GPT, task: str, train: Source, test: Source, place: Place, config: ReadoutConfig) -> Readout:
    """Fits at each layer and strength, and keeps what is best on the validation part."""
    n, quarter = config.problems, max(16, config.problems // 4)
    pieces = draw_split(task_of(task, GIVEN), train, test, (n, quarter, quarter), config.most, 0, balance=True)
    names = [site for site in chosen_sites(model, RESIDUAL) if layer_of(site, model.config) in place.layers]
    states = [read(model, piece, names_in_line(piece, train.world), names).float() for piece in pieces]
    classes = TASKS[task].classes(train.world.modulus)
    probes = fit_probes(states[:2], [piece.label for piece in pieces[:2]], classes, place.l2)
    s, test_queries = probes.best, pieces.test
    right = probes.at(s).predict(states[2][s : s + 1])[0] == test_queries.label
    accuracy, most_frequent = ClusterBootstrap(test_queries.row).rate(right), majority(pieces.fit, test_queries).mean()
    return Readout(task, names[s], place.layers[s], probes.at(s), accuracy, float(most_frequent))


def states_at(
    model: GPT, world: World, documents: Documents, tokens: np.ndarray, slots: Sequence[int], cuts: Sequence[int],
    site: str,
) -> Tensor:  # fmt: skip
    """States [cuts * slots, C] behind the name of each of `slots`, where the text `tokens` breaks off at each cut.
    documents: the one document whose problem the text solves."""
    row = np.repeat(np.arange(len(cuts)), len(slots))
    slot = np.tile(np.asarray(slots, dtype=np.int64), len(cuts))
    name = documents.problems.slot_names()[0, slot].astype(np.int64)
    offsets, prompt = np.zeros(len(cuts) + 1, dtype=np.int64), np.repeat(documents.prompt, len(cuts))
    same = Documents(**documents._asdict() | {"tokens": tokens, "offsets": offsets, "prompt": prompt})
    queries = Queries(same, row, np.asarray(cuts, dtype=np.int64)[row], slot, -np.ones_like(row), name, row * 0)
    return read(model, queries, names_in_line(queries, world), [site])[0].float()
