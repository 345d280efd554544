"""What linear probes read from the checkpoints of one run, and steering along it: does it cause what one sees?

States are read on the generator's own documents, the same for every checkpoint, so that a change is one of the model
and not of its texts. `known`, `value`, `nece_next` are tasks of `probes.queries.labels`, read where the document names
A; `done` (ours) is read at the last token of a step: is the query's value there, so that the answer comes next?
Solutions of two steps and more are asked in turn after their last step and after one before it, so that half are done;
the same probe on random weights says how much the number of tokens alone tells.

A direction is added to the residual stream behind one block at every token that is written, not to the prompt, and
compared with random directions of equal norm.

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
from probes.queries.table import Queries, Split, draw_split, split_indices
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import LinearProbes, fit_probes
from probes.runs import ClusterBootstrap
from probes.settings import ProbeConfig
from probes.tables import Rows, cells
from synth.dataset import Source
from synth.kernel.rng import key
from synth.world.vocabulary import World

DONE = "done"
STATES = ("known", "value", "nece_next", DONE)
DIRECTION, RANDOM, NOTHING = "direction", "random", "none"


def queries_of(name: str, config: ProbeConfig) -> Split:
    """The queries of a state, on the same problems for all states."""
    q, data = config.probe.queries, config.data.with_context("none")
    train, test = (data.source(part, "collapse") for part in ("train", "test"))
    sizes = (q.fit, q.validation, q.test)
    if name == DONE:
        return Split(*(_done(source, i, config.seed) for source, i in split_indices(train, test, sizes)))
    return draw_split(task_of(name), train, test, sizes, q.most, config.seed, q.balance)


def _done(source: Source, indices: range, seed: int) -> Queries:
    """One query a document: read up to the token before the last one of a step, which `_endings` puts behind. Raises
    ValueError when fewer than two solutions have two steps."""
    documents = source.documents(indices)
    where, ends = between_steps(documents)
    first = np.searchsorted(where, np.arange(len(documents) + 1))  # the start of each solution; its steps follow
    last = first[1:] - 1
    row = np.flatnonzero(last - first[:-1] >= 2)
    if len(row) < 2:
        raise ValueError(f"collapse.states: {len(row)} of {len(indices)} solutions have two steps; accepted: no done")
    label = np.arange(len(row)) % 2
    rngs = [np.random.Generator(np.random.Philox(key(seed, f"probe done/{source.split}", indices[i]))) for i in row]
    picked = zip(row, label, rngs, strict=True)
    place = [last[i] if over else rng.integers(first[i] + 1, last[i]) for i, over, rng in picked]
    query = documents.problems.query[row].astype(np.int64)
    name = documents.problems.slot_names()[row, query].astype(np.int64)
    return Queries(documents, row, ends[place] - 1, query, np.full(len(row), -1), name, label)


def _endings(part: Queries, name: str, world: World) -> np.ndarray:
    if name != DONE:
        return names_in_line(part, world)
    return part.documents.tokens[part.documents.offsets[part.row] + part.cut][:, None].astype(np.int64)


def read_and_fit(model: GPT, name: str, pieces: Split, config: ProbeConfig) -> tuple[list[Tensor], LinearProbes]:
    """Hidden states [S, Q, C] of the three parts at the embedding and behind every block, and a probe for each site.
    Probes are fitted to the first part and chosen with the second."""
    sites, world = chosen_sites(model, RESIDUAL), config.data.spec().load_world()
    states = [read(model, part, _endings(part, name, world), sites).to(model.embed.weight.device) for part in pieces]
    classes = 2 if name == DONE else TASKS[name].classes(world.modulus)
    labels = [pieces.fit.label, pieces.validation.label]
    return states, fit_probes(states[:2], labels, classes, config.probe.linear.l2)


def steer(
    model: GPT, site: str, direction_C: np.ndarray, size: float, strengths: Sequence[float], randoms: int, seed: int,
    answer: Callable[[str], Responses],
) -> Rows:  # fmt: skip
    """A row without steering, and for each strength along the direction and along random ones, `random 1`, ...

    size: of a vector of strength 1, in the residual stream's own units. answer: (label) -> what `model` writes.
    Columns: answers that end, that loop, that are right, their length, and the first two less those without steering,
    paired by problem.
    """
    rngs = [np.random.Generator(np.random.Philox(key(seed, "random direction", i))) for i in range(randoms)]
    others = [v / np.linalg.norm(v) for v in (rng.standard_normal(model.config.n_embd) for rng in rngs)]

    def answers(vector_C: np.ndarray, label: str) -> Responses:
        added_C = torch.from_numpy(vector_C).to(model.embed.weight)
        # a token that is written passes alone; a prompt does not, and is left as it is
        with edit(model, site, lambda x_BTC: x_BTC + added_C if x_BTC.shape[1] == 1 else x_BTC):
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


def rates(found: Responses) -> dict[str, Any]:
    """Rates over all answers, with intervals over problems."""
    bootstrap = ClusterBootstrap(found.row)
    measured = {"ends": bootstrap.rate(found.ended), "loops": bootstrap.rate(found.loops)}
    measured |= {"right": bootstrap.rate(found.verdicts.right)}
    return cells(measured | {"length": bootstrap.ratio(found.lengths.astype(float))})


def effect(found: Responses, plain: Responses) -> dict[str, Any]:
    """The rates of answers under steering, and the change against those without."""
    bootstrap, pairs = (
        ClusterBootstrap(found.row),
        {"ends": (found.ended, plain.ended), "loops": (found.loops, plain.loops)},
    )
    changes = {f"{k}_change": bootstrap.ratio(a.astype(float) - b, within=(-1, 1)) for k, (a, b) in pairs.items()}
    return rates(found) | cells(changes)
