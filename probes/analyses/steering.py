"""A causal check: a direction is added while a model writes, against random directions of equal norm.

It is added to the residual stream behind one block at every token that is written (not to the prompt).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from models.hooks import edit
from probes.analyses.responses import Responses
from probes.runs import ClusterBootstrap
from probes.tables import cell
from synth.kernel.rng import key

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
