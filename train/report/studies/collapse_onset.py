"""When a distillation collapses, and what gave notice: computed from `metrics.jsonl` alone.

Onset: the first logged step from which the mean TruncRate of that step and the next four is at least one half and stays
so to the end of the run. A run that comes back has no onset, and neither has one that ends before it gets there.

Early warning: a sign (a metric and a direction) fires at the first step at which its mean over the last three logged
steps lies further from its own start (the mean of logged steps 1 to 5) than it ever did in a quiet run, one whose
TruncRate, meant as above, never passed a tenth. Its lead is onset minus that step. Firing in a run that inflated and
turned back is crying wolf. Runs under the exact teacher count for nothing: what it rules out has log-probability minus
infinity, so its numbers are of another size.

Legend: K logged steps.
"""

from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from train.runs.results import Run

LEVEL, QUIET, SUSTAINED = 0.5, 0.1, 5  # TruncRate, TruncRate, logged steps
START, SMOOTH = 5, 3  # logged steps
UP, DOWN, AWAY = 1, -1, 0

# name -> metric of the log, direction in which it warns
SIGNS: dict[str, tuple[str, int]] = {
    "mean length": ("length_mean", UP),
    "95th percentile of length": ("length_p95", UP),
    "TruncRate": ("truncation", UP),
    "responses ending in a loop": ("repetition", UP),
    "RepRate (zlib)": ("repetition_zlib", UP),
    "tokens in loops": ("repetitive_tokens", UP),
    "probability of the end after the answer": ("eos_after_answer", DOWN),
    "probability of the end where it came": ("eos", DOWN),
    "teacher advantage": ("advantage", UP),
    "reverse KL": ("rkl", UP),
    "forward KL": ("fkl", UP),
    "student entropy": ("student_entropy", AWAY),
    "teacher entropy": ("teacher_entropy", AWAY),
    "entropy gap": ("entropy_gap", UP),
    "overlap of the likeliest tokens": ("overlap", DOWN),
    "gradient norm": ("grad_norm", UP),
    "accuracy of rollouts": ("accuracy_strict", DOWN),
    "loss": ("loss", UP),
}
# metric -> which way it goes in the published phenomenon (2604.08527): the loss improves while the text falls apart
SIGNATURE = {"truncation": UP, "repetition": UP, "length_mean": UP, "accuracy_strict": DOWN, "advantage": UP}


def rolling(values_K: np.ndarray, width: int) -> np.ndarray:
    """Mean of each value and the `width` - 1 before it; at the start of those that are there."""
    total = np.concatenate([[0.0], np.cumsum(values_K)])
    stop = np.arange(1, len(values_K) + 1)
    start = np.maximum(stop - width, 0)
    return (total[stop] - total[start]) / (stop - start)


def onset(run: Run) -> int | None:
    """The step of the collapse, None where there is none or nothing was sampled."""
    step_K, value_K = (np.asarray(axis, dtype=float) for axis in run.curve("truncation"))
    if len(step_K) < SUSTAINED:
        return None
    ahead = rolling(value_K, SUSTAINED)[SUSTAINED - 1 :]  # entry k: mean of values k to k + 4
    below = np.flatnonzero(ahead < LEVEL)
    first = int(below[-1]) + 1 if len(below) else 0
    return int(step_K[first]) if first < len(ahead) else None


def is_quiet(run: Run) -> bool:
    """Whether its TruncRate, a mean over five logged steps, never passed a tenth, under a teacher that was trained."""
    values = rolling(np.asarray(run.curve("truncation")[1], dtype=float), SUSTAINED)
    return not is_exact(run) and bool((values <= QUIET).all())


def is_exact(run: Run) -> bool:
    """Whether the teacher is the exact oracle."""
    return ((run.config.get("method") or {}).get("teacher") or {}).get("params") == "oracle"


class Change(NamedTuple):
    """A metric before the collapse and at the end of the run, and whether it went the published way."""

    before: float
    after: float
    published: bool


def signature(run: Run, at: int) -> dict[str, Change]:
    """What a collapse at step `at` changed: the mean of up to ten logged steps that end ten steps before it, and of the
    last ten of the run. Metrics that were not logged are left out."""
    found = {}
    for key, way in SIGNATURE.items():
        step_K, value_K = (np.asarray(axis, dtype=float) for axis in run.curve(key))
        if len(step_K) == 0:
            continue
        early = value_K[step_K < at - 10][-10:] if (step_K < at - 10).any() else value_K[:SMOOTH]
        before, after = float(early.mean()), float(value_K[-10:].mean())
        found[key] = Change(before, after, (after - before) * way > 0)
    return found


def is_published(changes: dict[str, Change]) -> bool:
    """Whether all of the signature is there. Without the advantage's rise it is divergence: the loss got worse."""
    return len(changes) == len(SIGNATURE) and all(change.published for change in changes.values())


def deviation(run: Run, sign: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and how far the sign has moved in its direction since the start, from logged step START on."""
    key, way = SIGNS[sign]
    step_K, value_K = (np.asarray(axis, dtype=float) for axis in run.curve(key))
    if len(step_K) <= START:
        return None
    moved_K = rolling(value_K, SMOOTH)[START:] - value_K[:START].mean()
    return step_K[START:], np.abs(moved_K) if way == AWAY else way * moved_K


@dataclass(frozen=True)
class Warned:
    """How one sign did. leads: onset minus first firing, one for each collapsed run that it fired in before the onset;
    collapsed, quiet, turned: runs that logged it; wolf: of those that turned back, in how many it fired."""

    sign: str
    threshold: float
    leads: list[int]
    collapsed: int
    quiet: int
    turned: int
    wolf: int

    @property
    def lead(self) -> float:
        """Median lead in steps over all collapsed runs, a run without warning counted as 0."""
        return float(median([*self.leads, *[0] * (self.collapsed - len(self.leads))])) if self.collapsed else 0.0


def warnings(collapsed: list[tuple[Run, int]], others: list[Run]) -> list[Warned]:
    """The signs, best first: by how many collapses they announce, then by lead, then by how seldom they cry wolf.

    collapsed: runs with their onsets. Signs that no collapsed or fewer than two quiet runs have logged are left out.
    """
    found = []
    for sign in SIGNS:
        ill = [(moved, at) for run, at in collapsed if (moved := deviation(run, sign)) is not None]
        peaks, turned = (
            np.array([moved[1].max() for run in runs if (moved := deviation(run, sign)) is not None])
            for runs in ([r for r in others if is_quiet(r)], [r for r in others if not (is_quiet(r) or is_exact(r))])
        )
        if not ill or len(peaks) < 2:
            continue
        threshold, leads = float(peaks.max()), []
        for (step_K, moved_K), at in ill:
            fired = step_K[(moved_K > threshold) & (step_K < at)]
            leads += [int(at - fired[0])] if len(fired) else []
        found.append(Warned(sign, threshold, leads, len(ill), len(peaks), len(turned), int((turned > threshold).sum())))
    return sorted(found, key=lambda w: (-len(w.leads), -w.lead, w.wolf))
