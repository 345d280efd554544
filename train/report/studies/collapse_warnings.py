"""What changes in a collapse, and which signs come before it; what a collapse is: `train.runs.collapse`.

Early warning: a sign (a metric and a direction) fires at the first step at which its mean over the last three logged
steps lies further from its own start (the mean of logged steps 1 to 5) than it ever did in a quiet run, one whose
TruncRate, a mean over five logged steps, never passed a tenth. Its lead is the onset minus that step. Firing in a run
that inflated and turned back is a false alarm. Runs under the exact teacher do not count: a token that it rules out has
log-probability minus infinity, so their numbers are not on a comparable scale.

Legend: K logged steps.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import yaml

from train.runs.collapse import STEADY, trailing_mean
from train.runs.results import Run

QUIET = 0.1  # TruncRate
START, SMOOTH = 5, 3  # logged steps
UP, DOWN, AWAY = 1, -1, 0

_FILE = Path(__file__).with_name("collapse_signs.yaml")
# name -> metric of the log, direction in which it warns
SIGNS: dict[str, tuple[str, int]] = {
    name: (sign["metric"], {"up": UP, "down": DOWN, "away": AWAY}[sign["direction"]])
    for name, sign in yaml.safe_load(_FILE.read_text("utf-8")).items()
}
# metric -> which way it goes in the published phenomenon (2604.08527): the loss improves while the text falls apart
SIGNATURE = {"truncation": UP, "repetition": UP, "length_mean": UP, "accuracy_strict": DOWN, "advantage": UP}


def is_quiet(run: Run) -> bool:
    """Whether its TruncRate, a mean over five logged steps, never passed a tenth, under a trained teacher."""
    values = trailing_mean(np.asarray(run.curve("truncation")[1], dtype=float), STEADY)
    return not is_exact(run) and bool((values <= QUIET).all())


def is_exact(run: Run) -> bool:
    """Whether the teacher is the exact oracle."""
    teacher = (run.config.get("method") or {}).get("teacher") or {}
    return teacher.get("kind", teacher.get("params")) == "oracle"  # `params` in runs of before the options had a kind


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
    moved_K = trailing_mean(value_K, SMOOTH)[START:] - value_K[:START].mean()
    return step_K[START:], np.abs(moved_K) if way == AWAY else way * moved_K


@dataclass(frozen=True)
class Sign:
    """How well one sign warns.

    leads: onset minus first firing, for each collapsed run in which it fired before the onset. collapsed, quiet,
    recovered: runs that logged it. false_alarms: in how many of those that recovered it fired.
    """

    name: str
    threshold: float
    leads: list[int]
    collapsed: int
    quiet: int
    recovered: int
    false_alarms: int

    @property
    def lead(self) -> float:
        """Median lead in steps over all collapsed runs, a run without warning counted as 0."""
        return float(median([*self.leads, *[0] * (self.collapsed - len(self.leads))])) if self.collapsed else 0.0


def early_warnings(collapsed: list[tuple[Run, int]], others: list[Run]) -> list[Sign]:
    """The signs, best first: by how many collapses they announce, then by lead, then by false alarms.

    collapsed: runs with their onsets. Signs that no collapsed or fewer than two quiet runs have logged are left out.
    """
    quiet = [run for run in others if is_quiet(run)]
    recovered, found = [run for run in others if run not in quiet and not is_exact(run)], []
    for name in SIGNS:
        of_collapsed = [(moved, at) for run, at in collapsed if (moved := deviation(run, name)) is not None]
        quiet_peaks, recovered_peaks = (
            np.array([moved[1].max() for run in runs if (moved := deviation(run, name)) is not None])
            for runs in (quiet, recovered)
        )
        if not of_collapsed or len(quiet_peaks) < 2:
            continue
        threshold, leads = float(quiet_peaks.max()), []
        for (step_K, moved_K), at in of_collapsed:
            fired = step_K[(moved_K > threshold) & (step_K < at)]
            leads += [int(at - fired[0])] if len(fired) else []
        counts = (len(of_collapsed), len(quiet_peaks), len(recovered_peaks), int((recovered_peaks > threshold).sum()))
        found.append(Sign(name, threshold, leads, *counts))
    return sorted(found, key=lambda sign: (-len(sign.leads), -sign.lead, sign.false_alarms))
