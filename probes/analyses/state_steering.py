"""What linear probes read from the checkpoints of one run.

States are read on the generator's own documents, the same for every checkpoint, so that a change is one of the model
and not of its texts. `known`, `value`, `nece_next` are tasks of `probes.queries.labels`, read where the document names
A; `done` (ours) is read at the last token of a step: is the query's value there, so that the answer comes next?
Solutions of two steps and more are asked in turn after their last step and after one before it, so that half are done;
how far the number of tokens alone tells, the same probe on random weights says.

Legend: S sites, Q queries, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from models.hooks import edit
from probes.analyses.responses import Responses
from probes.queries.labels import TASKS, between_steps, task_of
from probes.queries.table import Queries, draw
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import LinearProbes, Split, fit_probes
from probes.runs import ClusterBootstrap
from probes.settings import ProbeConfig
from probes.tables import cell
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


DIRECTION, RANDOM, NOTHING = "direction", "random", "none"


def steer(
    model: GPT,
    site: str,
    direction_C: np.ndarray,
    size: float,
    strengths: Sequence[float],
    randoms: int,
    seed: int,
    answer: Callable[[str], Responses],
) -> list[dict[str, Any]]:
    """A row without steering, and for each strength along the direction and along random ones, `random 1`, ...

    size: of a vector of strength 1, in the residual stream's own units. answer: (label) -> what `model` writes.
    Columns: answers that end, that loop, that are right, their length, and the first two less those without steering,
    paired by problem.
    """
    rngs = [np.random.Generator(np.random.Philox(key(seed, "random direction", i))) for i in range(randoms)]
    others = [v / np.linalg.norm(v) for v in (rng.standard_normal(model.config.n_embd) for rng in rngs)]

    def answers(vector_C: np.ndarray, label: str) -> Responses:
        added_C = torch.from_numpy(vector_C).to(model.embed.weight)
        with edit(model, site, lambda x_BTC: _added_to_written(x_BTC, added_C)):
            return answer(label)

    plain = answers(np.zeros(model.config.n_embd), NOTHING)
    rows = [{"push": NOTHING, "strength": 0.0} | effect(plain, plain)]
    for strength in strengths:
        along = answers(strength * size * direction_C, f"{strength:+g}")
        rows.append({"push": DIRECTION, "strength": strength} | effect(along, plain))
        for i, v in enumerate(others):
            found = answers(strength * size * v, f"random {i} {strength:+g}")
            rows.append({"push": f"{RANDOM} {i + 1}", "strength": strength} | effect(found, plain))
    return rows


def _added_to_written(x_BTC: Tensor, added_C: Tensor) -> Tensor:
    """A token that is written passes alone; a prompt does not, and is left as it is."""
    return x_BTC + added_C if x_BTC.shape[1] == 1 else x_BTC


def effect(found: Responses, plain: Responses) -> dict[str, Any]:
    """Rates over all answers, with intervals over problems."""
    bootstrap, ended, loops = ClusterBootstrap(found.row), found.ended, found.loops
    return {
        "ends": cell(bootstrap.rate(ended)),
        "loops": cell(bootstrap.rate(loops)),
        "right": cell(bootstrap.rate(found.verdicts.right)),
        "length": cell(bootstrap.ratio(found.lengths.astype(float))),
        "ends_change": cell(bootstrap.ratio(ended.astype(float) - plain.ended, within=(-1, 1))),
        "loops_change": cell(bootstrap.ratio(loops.astype(float) - plain.loops, within=(-1, 1))),
    }
