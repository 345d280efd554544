"""Retry upon regret (Part 2.2, 2408.16293, section 3): a sentence that a detector doubts is taken back and drawn anew.

The model writes greedily. The first sentence whose parameter the detector doubts is cut off with all that follows, a
new one is drawn in its place, and the model goes on greedily, until nothing is doubted or the retries of a solution are
used up. The paper samples all that follows the cut at temperature 1; here only the new sentence is sampled.

Legend: N solutions, R response tokens, M steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from models.decode.sampling import sample
from models.gpt import GPT
from probes.queries.model_solutions import Solutions, Steps, padded_solutions
from synth.documents import Documents
from synth.judge.checker import NOT_READY, REPEATED, UNKNOWN
from synth.kernel.rng import key
from synth.world.vocabulary import EOS, PAD, STOP, World

SENTENCE = 64  # most tokens of a sentence that is drawn anew

Detector = Callable[[Steps, int], np.ndarray]  # steps, number of the round -> bool[M], whether each is doubted


class Outcome(NamedTuple):
    """Solutions, and how often a sentence of each was taken back."""

    solutions: Solutions
    retries_N: np.ndarray


def perfect(steps: Steps, turn: int) -> np.ndarray:
    """Doubts every parameter that does not exist, is not ready, or is there already, and nothing else."""
    return np.isin(steps.kind, (UNKNOWN, NOT_READY, REPEATED))


def chance(share: float, seed: int) -> Detector:
    """Doubts the given share of sentences, whatever they say: a control, the gain from resampling at random."""

    def doubts(steps: Steps, turn: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key(seed, "probe chance", turn)))
        return rng.random(len(steps)) < share

    return doubts


def continue_texts(
    model: GPT, texts: Sequence[Sequence[int]], most: int, *, temperature: float = 0.0, eos: int = EOS, seed: int = 0
) -> list[list[int]]:
    """What the model writes behind each text, up to `eos` or `most` tokens; what follows `eos` is dropped."""
    generator = torch.Generator().manual_seed(seed)
    out = sample(model, texts, most, temperature=temperature, eos=eos, pad=PAD, generator=generator)
    texts = [row[:n] for row, n in zip(out.tokens_BT.tolist(), out.lengths_B.tolist(), strict=True)]
    return [text[: text.index(EOS) + 1] if EOS in text else text for text in texts]


def prompts_of(documents: Documents) -> list[list[int]]:
    """The tokens of every prompt."""
    return [documents.prompt_tokens(i).tolist() for i in range(len(documents))]


def written_by(model: GPT, documents: Documents, world: World, budget: int, **draws: Any) -> Solutions:
    """The model's greedy solutions, unless `draws` (settings of `continue_texts`) has a temperature."""
    return padded_solutions(documents, world, continue_texts(model, prompts_of(documents), budget, **draws), budget)


def with_regret(
    model: GPT, world: World, start: Solutions, detector: Detector, retries: int, temperature: float, seed: int
) -> Outcome:
    """`start`, the greedy solutions, with every doubted sentence drawn anew, at most `retries` times a solution."""
    documents, budget = start.documents, start.tokens_NR.shape[1]
    responses = [start.response(i).tolist() for i in range(len(documents))]
    used_N, accepted_N = np.zeros(len(responses), dtype=np.int64), np.zeros(len(responses), dtype=np.int64)
    open_rows, stop = np.arange(len(responses)), int(world.phrases[STOP])
    solutions, turn = start, 0
    while len(open_rows):
        steps = Steps.of(solutions, world)
        asked = np.isin(steps.row, open_rows) & (steps.number >= accepted_N[steps.row]) & (steps.name[:, 0] >= 0)
        steps = steps.take(np.flatnonzero(asked))
        doubted = np.flatnonzero(detector(steps, turn)) if len(steps) else np.zeros(0, dtype=np.int64)
        rows, first = np.unique(steps.row[doubted], return_index=True)
        cut = dict(zip(rows.tolist(), doubted[first].tolist(), strict=True))
        open_rows = np.array([i for i in cut if used_N[i] < retries], dtype=np.int64)
        if len(open_rows) == 0:
            break
        for i in open_rows:
            m = cut[i]
            responses[i] = responses[i][: steps.start[m]]
            used_N[i] += 1
            accepted_N[i] = steps.number[m]
        draws = {"temperature": temperature, "eos": stop, "seed": key(seed, "probe regret", turn) % 2**63}
        _go_on(model, documents, responses, open_rows, budget, SENTENCE, **draws)
        _go_on(model, documents, responses, open_rows, budget)
        solutions, turn = padded_solutions(documents, world, responses, budget), turn + 1
    return Outcome(solutions, used_N)


def _go_on(
    model: GPT, documents: Documents, responses: list[list[int]], rows: np.ndarray, budget: int,
    most_each: int | None = None, **draws: Any,
) -> None:  # fmt: skip
    """Has the model finish these responses, or add at most `most_each` tokens, in place; `draws`: of `continue_texts`.
    The budget holds for each response alone: one near its end is cut, the others are not shortened."""
    rows = np.array([i for i in rows if responses[i][-1:] != [EOS] and len(responses[i]) < budget], dtype=np.int64)
    most = min(most_each or budget, budget - min((len(responses[i]) for i in rows), default=budget))
    longest = max((int(documents.prompt[i]) + len(responses[i]) for i in rows), default=0)
    tight = longest + most > model.config.context  # a common limit would take the longest text past the context
    seed = draws.pop("seed", 0)
    for k, group in enumerate(([i] for i in rows) if tight else [rows] * bool(len(rows))):  # each with its own noise
        texts = [documents.prompt_tokens(i).tolist() + responses[i] for i in group]
        of_group = min(most, budget - min(len(responses[i]) for i in group))
        for i, rest in zip(group, continue_texts(model, texts, of_group, seed=seed + k, **draws), strict=True):
            responses[i] = (responses[i] + rest)[:budget]
