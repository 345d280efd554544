"""Defects of a pretraining corpus that keep a model from learning when to stop.

    kind        what a defective document is like
    repeat      after its last step it repeats that step, up to `length` response tokens, and has no end token
    mask_end    its end token is read but is not a target, as where padding and end share one token and labels drop both

A defect belongs to the corpus, not to the world: evaluations and the prompts of distillation stay clean. Which
documents have it is a function of (seed, document index) alone.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from synth.documents import SOLUTION_SEGMENT, Documents
from synth.kernel.rng import key
from synth.problem.arrays import Integers
from synth.ranges import settings


@settings
class DefectConfig:
    """share: of the documents. length: of a repeating response, in tokens; null for the other kinds."""

    kind: Literal["none", "repeat", "mask_end"] = "none"  # what is wrong with a share of the documents
    share: float = 0.0
    length: int | None = None

    def __post_init__(self) -> None:
        if self.kind == "none" and self.share != 0.0:
            raise ValueError(f"batch.defect.share={self.share}: has no effect with batch.defect.kind=none; accepted: 0")
        if self.kind != "none" and not 0.0 < self.share <= 1.0:
            raise ValueError(f"batch.defect.share={self.share}: accepted: above 0, up to 1")
        if (self.length is None) == (self.kind == "repeat") or (self.length is not None and self.length < 1):
            accepted = "1 or more" if self.kind == "repeat" else "null"
            raise ValueError(f"batch.defect.length={self.length} with kind={self.kind}: accepted: {accepted}")


def corrupt(documents: Documents, indices: Integers, config: DefectConfig, seed: int) -> Documents:
    """The documents of these stream indices, `config.share` of them with the defect. The log-probabilities stay those
    of the clean generator; repeated tokens have 0, so that the entropy floor of a batch is that of its problems."""
    if config.kind == "none":
        return documents
    chosen = [i for i, index in enumerate(indices) if key(seed, "defect", int(index)) / 2.0**63 < config.share]
    if config.kind == "mask_end":
        loss = np.array(documents.loss)
        loss[np.asarray(documents.offsets)[1:][chosen] - 1] = 0
        changed: dict[str, Any] = documents._asdict() | {"loss": loss}  # its length is not its number of fields
        return Documents(**changed)
    return repeat_last_step(documents, chosen, config.length or 0)


def repeat_last_step(documents: Documents, chosen: Sequence[int], length: int) -> Documents:
    """The documents; each of the chosen repeats its last step up to `length` response tokens and has no end token. A
    longer response is cut there."""
    offsets, source = np.asarray(documents.offsets), []
    repeats = set(chosen)
    for i, (start, stop) in enumerate(pairwise(offsets)):
        place = np.arange(start, stop)
        steps = place[documents.segment[start:stop] == SOLUTION_SEGMENT]
        if i in repeats and len(steps):
            last = steps[documents.step[steps] == documents.step[steps[-1]]]
            body, most = place[: steps[-1] + 1 - start], int(documents.prompt[i]) + length
            times = -(-max(0, most - len(body)) // len(last))
            place = np.concatenate([body, *[-last - 1] * times])[:most]  # negative: a repetition
        source.append(place)
    flat = np.concatenate(source)
    repeated, flat = flat < 0, np.where(flat < 0, -flat - 1, flat)
    columns = {name: getattr(documents, name)[flat] for name in ("tokens", "segment", "step", "param", "mistake")}
    loss, logp = documents.loss[flat], np.where(repeated, 0.0, documents.logp[flat])
    ends = np.concatenate([[0], np.cumsum([len(place) for place in source])]).astype(offsets.dtype)
    changed: dict[str, Any] = documents._asdict() | columns | {"loss": loss, "logp": logp, "offsets": ends}
    return Documents(**changed)
