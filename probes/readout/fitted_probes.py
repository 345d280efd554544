"""Probes that are fitted once on the generator's own documents and then asked about any text.

before   V-probe: asked at the end of the sentence before, by the name between markers; the model has not written it
after    linear probe, at the best layer: on the model's own state once it has written `Define NAME as`
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import TASKS
from probes.queries.table import Queries
from probes.readout import vprobe
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import LinearConfig, Split, fit_probes
from probes.readout.vprobe import VProbeConfig
from synth.world.vocabulary import World

BEFORE, AFTER = "before", "after"

Answer = Callable[[Queries], np.ndarray]  # most likely labels


class FittedProbe(NamedTuple):
    """What it answers, and where it is right on the test queries, which it was not fitted on."""

    answer: Answer
    right: np.ndarray  # bool[Q]


def fitted_probes(
    model: GPT, world: World, splits: Mapping[str, Split], linear: LinearConfig, v: VProbeConfig, seed: int
) -> dict[tuple[str, str], FittedProbe]:
    """A probe for each task and time, before and after."""
    found = {}
    for task, split in splits.items():
        classes = TASKS[task].classes(world.modulus)
        probe = vprobe.train(model, split.fit, classes, v, seed)
        answers: dict[str, Answer] = {
            BEFORE: lambda queries, probe=probe: vprobe.predict(model, probe, queries),
            AFTER: _after(linear, model, world, split, classes),
        }
        for when, answer in answers.items():
            found[task, when] = FittedProbe(answer, answer(split.test) == split.test.label)
    return found


def _after(config: LinearConfig, model: GPT, world: World, split: Split, classes: int) -> Answer:
    sites = chosen_sites(model, RESIDUAL)

    def states(queries: Queries, sites: list[str]) -> Tensor:
        return read(model, queries, names_in_line(queries, world, closed=True), sites).to(model.embed.weight.device)

    parts = (split.fit, split.validation)
    probes = fit_probes([states(part, sites) for part in parts], [part.label for part in parts], classes, config.l2)
    best = probes.at(probes.best)
    return lambda queries: best.predict(states(queries, [sites[probes.best]]))[0]
