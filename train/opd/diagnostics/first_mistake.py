"""Where the teacher objects, against where the student goes wrong: what only a step verifier can measure.

The first wrong step of a response is the checker's (`Verdicts.first_mistake`). Only responses that have one are looked
at, and in them only positions with a target.
"""

import numpy as np

from synth.judge.checker import Verdicts
from train.statistics import auroc

BEFORE, AT, AFTER, NOWHERE = 0, 1, 2, -1
PLACES = ("before", "at", "after")


def first_wrong_span(verdicts: Verdicts) -> tuple[np.ndarray, np.ndarray]:
    """First token of the first wrong step in each response and the one behind its last: two int64[B], -1 without."""
    first_B = np.asarray(verdicts.first_mistake, dtype=np.int64)
    if verdicts.start.shape[1] == 0:
        return np.full(len(first_B), -1), np.full(len(first_B), -1)
    at_B1 = np.maximum(first_B, 0)[:, None]
    spans = (np.take_along_axis(np.asarray(x), at_B1, axis=1)[:, 0] for x in (verdicts.start, verdicts.stop))
    start_B, stop_B = (np.where(first_B >= 0, span_B, -1).astype(np.int64) for span_B in spans)
    return start_B, stop_B


def places(verdicts: Verdicts, length_B: np.ndarray, width: int) -> np.ndarray:
    """int8[B, width]: where each response token stands to the first wrong step; NOWHERE on padding and in responses
    that have none."""
    start_B, stop_B = first_wrong_span(verdicts)
    time_R = np.arange(width)
    place_BR = (time_R >= start_B[:, None]).astype(np.int8) + (time_R >= stop_B[:, None])
    outside_BR = (time_R >= np.asarray(length_B)[:, None]) | (start_B < 0)[:, None]
    return np.where(outside_BR, NOWHERE, place_BR).astype(np.int8)


def localisation(
    values: dict[str, np.ndarray], place_BR: np.ndarray, has_target_BR: np.ndarray | None
) -> dict[str, float]:
    """How well the teacher's signal points at the first wrong step.

    Args:
        values: `advantage` (d = log p(y) - log q(y)) and `rkl`, float[B, R], NaN where there is no target.
        place_BR: of `places`. has_target_BR: bool[B, R], where there is a target; None: everywhere.
    Returns:
        auroc_advantage, auroc_rkl: of -d and of the KL for "this token belongs to the first wrong step".
        rkl_before, rkl_at, rkl_after: nats a token. mass_before, mass_at, mass_after: shares of the KL of these
        responses. What has no tokens is left out.
    """
    if "rkl" not in values:
        return {}
    inside_BR = (place_BR != NOWHERE) & np.isfinite(values["rkl"])
    if has_target_BR is not None:
        inside_BR &= has_target_BR
    place_N, rkl_N = place_BR[inside_BR], values["rkl"][inside_BR].astype(float)
    scores = {"advantage": -values["advantage"][inside_BR], "rkl": rkl_N}
    found = {f"auroc_{name}": auroc(score_N, place_N == AT) for name, score_N in scores.items()}
    total = rkl_N.sum()
    for place, name in enumerate(PLACES):
        part_M = rkl_N[place_N == place]
        found[f"rkl_{name}"] = float(part_M.mean()) if len(part_M) else np.nan
        found[f"mass_{name}"] = float(part_M.sum() / total) if total > 0.0 else np.nan
    return {name: value for name, value in found.items() if np.isfinite(value)}
