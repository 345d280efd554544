"""Did the hidden states know of a mistake? Probes fitted on the generator's documents, asked about the model's own.

before   V-probe: asked at the end of the sentence before, by the name between markers; the model has not written it
after    linear probe, at the best layer: on the model's own state once it has written `Define NAME as`
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import TASKS
from probes.queries.model_solutions import Solutions, Steps
from probes.queries.table import Queries, Split
from probes.readout import vprobe
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.controls import random_weights
from probes.readout.linear import LinearConfig, fit_probes
from probes.readout.vprobe import VProbeConfig
from probes.runs import ClusterBootstrap, Estimate
from probes.tables import cell, share
from synth.judge.checker import MALFORMED, RETRY, UNNEEDED
from synth.kernel.rng import key
from synth.world.vocabulary import World

BEFORE, AFTER = "before", "after"
FEW = 5  # steps of either kind, below which nothing is fitted

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


def first_wrong(
    steps: Steps, probes: Mapping[tuple[str, str], FittedProbe], world: World, when: str = BEFORE
) -> dict[str, Any]:
    """Share of the first wrong parameters whose label is no that the probe says no to, for can_next and nece_next."""
    first = steps.take(np.flatnonzero(steps.first_mistake & (steps.name[:, 0] >= 0)))
    result = {}
    for task in ("can_next", "nece_next"):
        no = np.zeros(0, dtype=bool)
        if len(first):
            queries = first.queries(first.start)
            no = (probes[task, when].answer(queries) == 0)[first.labels(task, queries, world.modulus) == 0]
        result[task] = share(no, np.arange(len(no)))
    return result


def unneeded(steps: Steps, nece: FittedProbe) -> dict[str, Any]:
    """Share of the unneeded parameters in the solutions that nece, asked before the solution, calls not needed."""
    steps = steps.take(np.flatnonzero(steps.kind == UNNEEDED))
    right = nece.answer(steps.queries(np.full(len(steps), -1))) == 0 if len(steps) else np.zeros(0, dtype=bool)
    return share(right, steps.row)


def found_and_suspected(steps: Steps, probe: FittedProbe, task: str, world: World) -> dict[str, Any]:
    """How often can_next or nece_next says no, over all parameters written up to the first mistake: `found`, where that
    is the truth, and `suspected`, where it is not. A probe that always says no has 100% of both."""
    steps = steps.take(np.flatnonzero(steps.before_mistake & (steps.name[:, 0] >= 0) & (steps.kind != RETRY)))
    if not len(steps):
        return {"found": share(steps.row > 0, steps.row), "suspected": None}
    queries = steps.queries(steps.start)
    no, yes = probe.answer(queries) == 0, steps.labels(task, queries, world.modulus) == 1
    return {"found": share(no, steps.row, ~yes), "suspected": share(no, steps.row, yes)}


def after_step(
    model: GPT, parts: Sequence[Solutions], world: World, l2: Sequence[float], seed: int
) -> dict[str, Any] | None:
    """A linear probe at the end of each step up to the first mistake: is the step one? Balanced accuracy, or None.
    parts: the model's solutions to fit on, to choose with and to test on. `random`: the balanced accuracy of the same
    probe on the same texts, read by random weights."""
    every = [Steps.of(part, world) for part in parts]
    steps = [part.take(np.flatnonzero(part.before_mistake & (part.kind != RETRY))) for part in every]
    labels = [(part.kind >= MALFORMED).astype(np.int64) for part in steps]
    if any(min(label.sum(), (1 - label).sum()) < FEW for label in labels):
        return None
    right, site = _fit_after_step(model, steps, labels, l2, seed)
    right_of_random, _ = _fit_after_step(random_weights(model, seed), steps, labels, l2, seed)
    wrong, bootstrap = labels[2] == 1, ClusterBootstrap(steps[2].row)
    by_chance = _balanced_accuracy(bootstrap, right_of_random, wrong).value
    found = cell(_balanced_accuracy(bootstrap, right, wrong), "accuracy")
    return found | {"random": by_chance, "mistakes": int(wrong.sum()), "site": site}


def _fit_after_step(
    model: GPT, parts: Sequence[Steps], labels: Sequence[np.ndarray], l2: Sequence[float], seed: int
) -> tuple[np.ndarray, str]:
    """For which steps of the last part a probe at their end is right, and the site that was best on the second."""
    sites, states = chosen_sites(model, RESIDUAL), []
    for part in parts:
        last = part.solutions.tokens_NR[part.row, part.stop - 1][:, None]
        states.append(read(model, part.queries(part.stop - 1), last, sites).to(model.embed.weight.device))
    chosen = [_balanced(label, key(seed, "probe after step", i)) for i, label in enumerate(labels[:2])]
    balanced_labels = [labels[i][which] for i, which in enumerate(chosen)]
    probes = fit_probes([states[i][:, which] for i, which in enumerate(chosen)], balanced_labels, 2, l2)
    s = probes.best
    return probes.at(s).predict(states[2][s : s + 1])[0] == labels[2], sites[s]


def _balanced_accuracy(bootstrap: ClusterBootstrap, right: np.ndarray, wrong: np.ndarray) -> Estimate:
    """Mean of the accuracies among mistakes and among the other steps."""
    value = float(np.mean([right[wrong].mean(), right[~wrong].mean()]))
    return bootstrap.statistic(
        lambda a_D, b_D: (a_D + b_D) / 2, value, len(right), (right, wrong), (right, ~wrong), within=(0, 1)
    )


def _balanced(label: np.ndarray, seed: int) -> np.ndarray:
    """As many of either label, in a random order."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(label))
    each = int(min(label.sum(), (1 - label).sum()))
    return np.concatenate([order[label[order] == k][:each] for k in (0, 1)])
