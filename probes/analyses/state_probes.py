"""What linear probes read from the checkpoints of one run.

States are read on the generator's own documents, the same for every checkpoint, so that a change is one of the model
and not of its texts. `known`, `value`, `nece_next` are tasks of `probes.queries.labels`, read where the document names
A; `done` (ours) is read at the last token of a step: is the query's value there, so that the answer comes next?
Solutions of two steps and more are asked in turn after their last step and after one before it, so that half are done;
how far the number of tokens alone tells, the same probe on random weights says.

Legend: S sites, Q queries, C channels.
"""

import numpy as np
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import TASKS, between_steps, task_of
from probes.queries.table import Queries, draw
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import LinearProbes, Split, fit_probes
from probes.settings import ProbeConfig
from synth.dataset import Source
from synth.kernel.rng import key
from synth.world.vocabulary import World

DONE = "done"
STATES = ("known", "value", "nece_next", DONE)


def queries_of(name: str, config: ProbeConfig) -> Split:
    """The queries of a state, on the same problems for all states."""
    q, data = config.probe.queries, config.data.with_context("none")
    train, test = (data.source(part, "collapse") for part in ("train", "test"))
    pieces = ((train, range(q.fit)), (train, range(q.fit, q.fit + q.validation)), (test, range(q.test)))
    if name == DONE:
        return Split(*(_done(source, indices, config.seed) for source, indices in pieces))
    task = task_of(name)
    return Split(*(draw(task, source, indices, q.most, config.seed, q.balance) for source, indices in pieces))


def _done(source: Source, indices: range, seed: int) -> Queries:
    """One query a document: read up to the token before the last one of a step, which `_endings` puts behind.

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


def read_states(model: GPT, name: str, pieces: Split, world: World) -> list[Tensor]:
    """Hidden states [S, Q, C] of the three parts of a split, at the embedding and behind every block."""
    sites = chosen_sites(model, RESIDUAL)
    return [read(model, part, _endings(part, name, world), sites).to(model.embed.weight.device) for part in pieces]


def _endings(part: Queries, name: str, world: World) -> np.ndarray:
    if name != DONE:
        return names_in_line(part, world)
    return part.documents.tokens[part.documents.offsets[part.row] + part.cut][:, None].astype(np.int64)


def state_probes(found: list[Tensor], name: str, pieces: Split, config: ProbeConfig) -> LinearProbes:
    """Probes of a state, one for each site, fitted to the first part and chosen with the second."""
    classes = 2 if name == DONE else TASKS[name].classes(config.data.spec().load_world().modulus)
    return fit_probes(found[:2], [part.label for part in pieces[:2]], classes, config.probe.linear.l2)
