"""What linear probes read from a checkpoint, and which known directions they read it along.

States are read on the generator's own documents, the same for every checkpoint, so that a change is one of the model
and not of its texts. `known`, `value`, `nece_next` are tasks of `probes.queries.labels`, read where the document names A;
`done` (ours) is read at the last token of a step: is the query's value there, so that the answer comes next? Solutions
of two steps and more are asked in turn after their last step and after one before it, so that half are done; how far
the number of tokens alone tells, the same probe on random weights says.

Legend: S sites, Q queries, C channels, K classes, R strengths.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import TASKS, between_steps, task_of
from probes.queries.table import Queries, draw
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import Fit, Split, fit
from probes.settings import ProbeConfig
from synth.dataset import Source
from synth.kernel.rng import key
from synth.world.vocabulary import World

DONE = "done"


class Reading(NamedTuple):
    """A probe fitted at every site of one checkpoint, and its best strength at each, by the validation part."""

    fitted: Fit
    strength_S: np.ndarray  # int64
    validation_S: np.ndarray  # accuracy
    right_SQ: np.ndarray  # bool, on the test part

    def predict(self, states_SQC: Tensor) -> np.ndarray:
        """Labels that these probes give to other states, int64[S, Q]."""
        label_SRQ = self.fitted.predict(states_SQC.to(self.fitted.mean_SC.device))
        return label_SRQ[torch.arange(len(label_SRQ)), torch.from_numpy(self.strength_S)].cpu().numpy()

    def direction(self, site: int) -> np.ndarray:
        """Of two classes: the unit vector in the residual stream along which the second one grows, float64[C]."""
        weight_CK = self.fitted.weight_SRCK[site, self.strength_S[site]] / self.fitted.scale_SC[site][:, None]
        way_C = (weight_CK[:, 1] - weight_CK[:, 0]).double().cpu().numpy()
        return way_C / np.linalg.norm(way_C)


def questions(name: str, config: ProbeConfig) -> Split:
    """The queries of a state, on the same problems for all states."""
    q, (train, test) = (
        config.probe.queries,
        (config.data.with_context("none").source(part, "collapse") for part in ("train", "test")),
    )
    pieces = ((train, range(q.fit)), (train, range(q.fit, q.fit + q.validation)), (test, range(q.test)))
    if name == DONE:
        return Split(*(_done(source, indices, config.seed) for source, indices in pieces))
    asked = task_of(name)
    return Split(*(draw(asked, source, indices, q.most, config.seed, q.balance) for source, indices in pieces))


def classes(name: str, modulus: int) -> int:
    """How many labels a state has."""
    return 2 if name == DONE else TASKS[name].classes(modulus)


def _done(source: Source, indices: range, seed: int) -> Queries:
    """One query a document: read up to the token before the last one of a step, which `states` puts behind.

    Raises ValueError when fewer than two solutions have two steps.
    """
    documents = source.documents(indices)
    where, ends = between_steps(documents)
    first = np.searchsorted(where, np.arange(len(documents) + 1))  # the start of each solution; its steps follow
    last = first[1:] - 1
    row = np.flatnonzero(last - first[:-1] >= 2)
    if len(row) < 2:
        raise ValueError(
            f"collapse.states: {len(row)} of {len(indices)} solutions have two steps; accepted: without done"
        )
    label = np.arange(len(row)) % 2
    rngs = [np.random.Generator(np.random.Philox(key(seed, f"probe done/{source.split}", indices[i]))) for i in row]
    picked = zip(row, label, rngs, strict=True)
    place = [last[i] if over else rng.integers(first[i] + 1, last[i]) for i, over, rng in picked]
    query = documents.problems.query[row].astype(np.int64)
    name = documents.problems.slot_names()[row, query].astype(np.int64)
    return Queries(documents, row, ends[place] - 1, query, np.full(len(row), -1), name, label)


def states(model: GPT, name: str, pieces: Split, world: World) -> list[Tensor]:
    """States [S, Q, C] of the three parts of a split, at the embedding and behind every block."""
    sites = chosen_sites(model, RESIDUAL)
    return [read(model, part, _endings(part, name, world), sites) for part in pieces]


def _endings(part: Queries, name: str, world: World) -> np.ndarray:
    if name != DONE:
        return names_in_line(part, world)
    return part.documents.tokens[part.documents.offsets[part.row] + part.cut][:, None].astype(np.int64)


def reading(found: list[Tensor], pieces: Split, n_classes: int, l2: tuple[float, ...], device: torch.device) -> Reading:
    """Probes fitted to the states of the first part, chosen with the second, tested on the third."""
    fitted = fit(found[0].to(device), torch.from_numpy(pieces.fit.label).to(device), n_classes, l2)
    right_SRN = fitted.predict(found[1].to(device)).cpu() == torch.from_numpy(pieces.validation.label)
    accuracy_SR = right_SRN.double().mean(-1).numpy()
    best = Reading(fitted, accuracy_SR.argmax(1), accuracy_SR.max(1), np.zeros(0, dtype=bool))
    return best._replace(right_SQ=best.predict(found[2]) == pieces.test.label)
