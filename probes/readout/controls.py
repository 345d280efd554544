"""What a probe's accuracy is worth: the same questions answered with one thing taken away.

    majority    always the most frequent label of the queries the probe was fitted on
    random      the same probe, fitted the same way, on the same architecture with fresh initial weights
    shuffled    the same probe on the trained model, fitted to labels dealt out anew among its queries: nothing to learn
    position    no model: logistic regression on where the text breaks off, where A's sentence stands, and whether the
                question asks for A, whose name alone then tells that it is needed
    names       the control task of Hewitt and Liang (1909.03368): each name has a label drawn for it, in all parts
                alike. Accuracy on the task less accuracy on this one is the probe's selectivity

Every result stands beside all of them. What a probe reads from random weights is in the text and the probe, not in the
model.
"""

from dataclasses import replace

import numpy as np
import torch

from models.gpt import GPT
from probes.queries.labels import TASKS
from probes.queries.table import Queries, Split
from probes.readout.linear import Reading, fit_and_test
from synth.documents import SENTENCE_SEGMENT, SOLUTION_SEGMENT, Documents
from synth.kernel.rng import key
from synth.problem.arrays import SLOTS

TRAINED, RANDOM, SHUFFLED, NAMES, POSITION = "trained", "random", "shuffled", "names", "position"
PLACES = 49  # a sentence's place from 0 to 47, or none
STEPS = 16  # steps written: 0 to 14, or more


def majority(fit: Queries, test: Queries) -> np.ndarray:
    """Which test queries the most frequent label answers, bool[Q]."""
    return test.label == np.bincount(fit.label).argmax()


def random_weights(model: GPT, seed: int) -> GPT:
    """A model of the same architecture, with fresh initial weights."""
    return GPT(model.config, key(seed, "probe control", 0)).to(model.embed.weight.device).eval()


def relabelled(split: Split, kind: str, task: str, seed: int) -> Split:
    """The queries of a split with the labels that the control `kind` is fitted to; other kinds change nothing."""
    if kind == SHUFFLED:
        rng = np.random.Generator(np.random.Philox(key(seed, f"probe shuffle {task}", 0)))
        return split._replace(fit=replace(split.fit, label=rng.permutation(split.fit.label)))
    if kind == NAMES:
        labels = split.fit.label

        def of_name(name: np.ndarray) -> int:
            return labels[key(seed, f"probe names {task} {' '.join(map(str, name))}", 0) % len(labels)]

        return Split(*(replace(part, label=np.array([of_name(name) for name in part.name])) for part in split))
    return split


def read_position(split: Split, task: str, modulus: int, l2: tuple[float, ...]) -> list[Reading]:
    """What position alone tells."""
    places = [_places(part) for part in split]
    varied = places[0].std(0) > 0
    states = [torch.from_numpy(part[:, varied])[None] for part in places]
    return fit_and_test(states, split, TASKS[task].classes(modulus), l2, [POSITION], [0])


def _places(queries: Queries) -> np.ndarray:
    """float32[Q, features]: places of the sentences of A (and B) from either end, are they asked for, what is read."""
    documents, row = queries.documents, queries.row
    columns, asked_Q = [np.log(queries.cut)[:, None]], documents.problems.query[row]
    place_NX = sentence_places(documents)
    for slot in (queries.slot, queries.other)[: 1 if (queries.other < 0).all() else 2]:
        place_Q = place_NX[row, slot]
        last_Q = place_NX.max(1)[row] - place_Q
        columns += [_one_hot(np.where(place_Q < 0, PLACES - 1, p), PLACES) for p in (place_Q, last_Q)]
        columns.append((slot == asked_Q)[:, None])
    columns.append(_one_hot(np.minimum(_steps_before(queries), STEPS - 1), STEPS))
    return np.concatenate(columns, axis=1).astype(np.float32)


def sentence_places(documents: Documents) -> np.ndarray:
    """Number of each parameter's sentence in its problem, int64[N, X]; -1 where it has none."""
    problems = documents.problems
    n, at = np.nonzero(problems.sentences >= 0)
    result = np.full((len(problems.value), SLOTS), -1)
    result[n, problems.sentences[n, at]] = at
    return result


def _steps_before(queries: Queries) -> np.ndarray:
    """How many solution steps each query's text has, int64[Q]."""
    documents = queries.documents
    begins_T = (documents.segment == SOLUTION_SEGMENT) & (np.diff(documents.step, prepend=-1) != 0)
    begins_T |= (documents.segment == SOLUTION_SEGMENT) & (np.diff(documents.segment, prepend=SENTENCE_SEGMENT) != 0)
    count_T = np.concatenate([[0], np.cumsum(begins_T)])
    start_Q = documents.offsets[queries.row]
    return count_T[start_Q + queries.cut] - count_T[start_Q]


def _one_hot(index: np.ndarray, size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)[index]
