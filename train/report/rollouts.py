"""Ten rollouts as a person reads them: the problem, the model's solution step by step, each step with its verdict.

The choice of ten does not flatter: half right and half wrong where the run has both, in the order they were made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from train.report.page import piece, rollout_style
from train.runs.results import Experiment, Run

SHOWN = 10
WASTE = frozenset({"unneeded", "retry"})  # kinds of steps that cost tokens without being mistakes


def run_with_samples(experiments: Sequence[Experiment]) -> Run | None:
    """The run whose samples to show: the first arm's evaluation, else the arm itself, else any run with samples."""
    for experiment in experiments:
        arms = experiment.arms()
        evaluations = [run for arm in arms if (run := experiment.evaluation_of(arm.name)) is not None]
        for run in (*evaluations, *arms, *experiment.runs.values()):
            if run.samples:
                return run
    return None


def newest(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The samples of the last step at which any were kept; all where none says its step."""
    last = max((sample["step"] for sample in samples if "step" in sample), default=None)
    return [sample for sample in samples if last is None or sample.get("step") == last]


def choose(samples: Sequence[Mapping[str, Any]], count: int = SHOWN) -> list[Mapping[str, Any]]:
    """Half right and half wrong if there are enough of both, else filled up from the others; in the order made."""
    right = [i for i, sample in enumerate(samples) if sample.get("right")]
    wrong = [i for i, sample in enumerate(samples) if not sample.get("right")]
    n_wrong = min(len(wrong), max(count // 2, count - len(right)))
    chosen = sorted(wrong[:n_wrong] + right[: count - n_wrong])
    return [samples[i] for i in chosen]


def render(sample: Mapping[str, Any]) -> Markup:
    """One rollout as HTML."""
    steps = [(step.get("text", ""), step.get("kind", "")) for step in sample.get("steps", [])]
    styles = {"right": "right"} | dict.fromkeys(WASTE, "waste")
    return piece("rollout", sample, [(*step, styles.get(step[1], "wrong")) for step in steps], _remainder(sample))


def fragment(sample: Mapping[str, Any]) -> str:
    """One rollout with its style, to be shown in a notebook."""
    return f"{rollout_style()}{render(sample)}"


def _remainder(sample: Mapping[str, Any]) -> str:
    """What the response says after its last step (the answer, where it is not counted as a step)."""
    response, steps = str(sample.get("response", "")), sample.get("steps", [])
    if not steps:
        return response
    last = str(steps[-1].get("text", ""))
    if not last:  # a step of special tokens only has no text
        return ""
    _, found, rest = response.rpartition(last)
    return rest.strip() if found else ""
