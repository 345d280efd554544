"""Probes that are fitted once on the generator's own documents and then asked about any text.

before   V-probe: asked at the end of the sentence before, by the name between markers; the model has not written it
after    linear probe, at the best layer: on the model's own state once it has written `Define NAME as`
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import TASKS
from probes.queries.table import Queries
from probes.readout import vprobe
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import LinearConfig, Split, fit
from probes.settings import LINEAR, VPROBE, ProbeConfig
from synth.world.vocabulary import World

BEFORE, AFTER = "before", "after"
WHEN = {VPROBE: BEFORE, LINEAR: AFTER}


class Reader(NamedTuple):
    """A fitted probe. `answer`: queries -> most likely labels. `right`: on the test queries it was not fitted on."""

    answer: Callable[[Queries], np.ndarray]
    right: np.ndarray  # bool[Q]


def readers(config: ProbeConfig, model: GPT, world: World, splits: dict[str, Split]) -> dict[tuple[str, str], Reader]:
    """A reader for each task and time, before and after."""
    found = {}
    for task, pieces in splits.items():
        classes = TASKS[task].classes(world.modulus)
        for when, answer in (
            (BEFORE, _before(config, model, pieces, classes)),
            (AFTER, _after(config.probe.linear, model, world, pieces, classes)),
        ):
            found[task, when] = Reader(answer, answer(pieces.test) == pieces.test.label)
    return found


def _before(config: ProbeConfig, model: GPT, pieces: Split, classes: int) -> Callable[[Queries], np.ndarray]:
    probe = vprobe.train(model, pieces.fit, classes, config.probe.vprobe, config.seed, lambda step, loss: None)
    return lambda queries: vprobe.predict(model, probe, queries)


def _after(
    config: LinearConfig, model: GPT, world: World, pieces: Split, classes: int
) -> Callable[[Queries], np.ndarray]:
    sites = chosen_sites(model, RESIDUAL)

    def states(queries: Queries, names: list[str]) -> Tensor:
        return read(model, queries, names_in_line(queries, world, closed=True), names).to(model.embed.weight.device)

    predict, site = chosen(
        [states(part, sites) for part in (pieces.fit, pieces.validation)],
        [part.label for part in (pieces.fit, pieces.validation)],
        classes,
        config.l2,
    )
    return lambda queries: predict(states(queries, [sites[site]])[0])


def chosen(
    states: list[Tensor], labels: list[np.ndarray], classes: int, l2: tuple[float, ...]
) -> tuple[Callable[[Tensor], np.ndarray], int]:
    """The probe of the site and the penalty that are best on the second of two parts, states [S, N, C] -> labels.

    Also the number of that site.
    """
    device = states[0].device
    fitted = fit(states[0], torch.from_numpy(labels[0]).to(device), classes, l2)
    right_SRN = fitted.predict(states[1]).cpu() == torch.from_numpy(labels[1])
    site, strength = divmod(int(right_SRN.double().mean(-1).argmax()), len(l2))

    def predict(states_NC: Tensor) -> np.ndarray:
        x_NC = (states_NC.float() - fitted.mean_SC[site]) / fitted.scale_SC[site]
        logits_NK = x_NC @ fitted.weight_SRCK[site, strength] + fitted.bias_SRK[site, strength]
        return logits_NK.argmax(-1).cpu().numpy()

    return predict, site
