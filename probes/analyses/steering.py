"""A causal check: a push along a direction while a model writes, against random directions of equal norm.

The push is added to the residual stream behind one block at every token that is written (not to the prompt).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from models.hooks import edit
from probes.analyses.parts import Parts
from probes.analyses.responses import Written, draw
from probes.analyses.tables import cell
from probes.runs import ClusterBootstrap, periods
from synth.documents import Documents
from synth.kernel.rng import key
from synth.world.vocabulary import World

DIRECTION, RANDOM, NOTHING = "direction", "random", "none"


def push(
    model: GPT,
    site: str,
    direction_C: np.ndarray,
    size: float,
    strengths: Sequence[float],
    randoms: int,
    documents: Documents,
    world: World,
    parts: Parts,
    label: str,
    budget: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for no push, and for each strength along the direction and along each of the random ones, `random 1`, ...

    size: of a push of strength 1, in the residual stream's own units. Columns: answers that end, that loop, that are
    right, their length, and the first two less those without a push, paired by problem.
    """
    width = model.config.n_embd
    rngs = [np.random.Generator(np.random.Philox(key(seed, "random direction", i))) for i in range(randoms)]
    others = [v / np.linalg.norm(v) for v in (rng.standard_normal(width) for rng in rngs)]
    settings = {"samples": 1, "budget": budget, "temperature": 0.0, "seed": seed}

    def answers(vector_C: np.ndarray, name: str) -> Written:
        added_C = torch.from_numpy(vector_C).to(model.embed.weight)
        with edit(model, site, lambda x_BTC: _pushed(x_BTC, added_C)):
            return draw(model, documents, world, parts, label=f"{label} {name}", **settings)

    plain = answers(np.zeros(width), NOTHING)
    rows = [{"push": NOTHING, "strength": 0.0} | effect(plain, plain)]
    for strength in strengths:
        along = answers(strength * size * direction_C, f"{strength:+g}")
        rows.append({"push": DIRECTION, "strength": strength} | effect(along, plain))
        for i, v in enumerate(others):
            found = answers(strength * size * v, f"random {i} {strength:+g}")
            rows.append({"push": f"{RANDOM} {i + 1}", "strength": strength} | effect(found, plain))
    return rows


def _pushed(x_BTC: Tensor, added_C: Tensor) -> Tensor:
    """A written token passes alone; a prompt does not, and is left as it is."""
    return x_BTC + added_C if x_BTC.shape[1] == 1 else x_BTC


def effect(found: Written, plain: Written) -> dict[str, Any]:
    """Rates over all answers, with intervals over problems."""
    draws = ClusterBootstrap(found.row)
    ended, loops = _ended(found), _loops(found)
    return {
        "ends": cell(draws.rate(ended)),
        "loops": cell(draws.rate(loops)),
        "right": cell(draws.rate(found.verdicts.right)),
        "length": cell(draws.ratio(found.lengths.astype(float))),
        "ends_change": cell(draws.ratio(ended.astype(float) - _ended(plain), within=(-1, 1))),
        "loops_change": cell(draws.ratio(loops.astype(float) - _loops(plain), within=(-1, 1))),
    }


def _ended(written: Written) -> np.ndarray:
    return written.ended


def _loops(written: Written) -> np.ndarray:
    return periods(written.grid(), written.lengths) > 0
