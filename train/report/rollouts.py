"""Ten rollouts as a person reads them: the problem, the model's solution step by step, each step with its verdict.

A right step has a plain blue edge; a wrong one a double orange edge and the name of its mistake, so colour is never
alone. The choice of ten is stated and not flattering: half right and half wrong where the run has both, in the order
they were made.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from train.report.page import folded
from train.runs.results import Experiment, Run

SHOWN = 10
WASTE = frozenset({"unneeded", "retry"})  # the checker's words for steps that cost tokens without being mistakes


def source(experiments: Sequence[Experiment]) -> Run | None:
    """The run whose samples to show: the first arm's evaluation, else the arm itself, else any run with samples."""
    for experiment in experiments:
        arms = experiment.arms()
        evaluations = [run for arm in arms if (run := experiment.evaluation_of(arm.name)) is not None]
        for run in (*evaluations, *arms, *experiment.runs.values()):
            if run.samples:
                return run
    return None


def newest(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the last step at which samples were kept, where the samples say when they were made."""
    last = max((sample["step"] for sample in samples if "step" in sample), default=None)
    return [sample for sample in samples if last is None or sample.get("step") == last]


def choose(samples: Sequence[dict[str, Any]], count: int = SHOWN) -> list[dict[str, Any]]:
    """Half right and half wrong if there are enough of both, else filled up from the others; in the order made."""
    right = [i for i, sample in enumerate(samples) if sample.get("right")]
    wrong = [i for i, sample in enumerate(samples) if not sample.get("right")]
    n_wrong = min(len(wrong), max(count // 2, count - len(right)))
    chosen = sorted(wrong[:n_wrong] + right[: count - n_wrong])
    return [samples[i] for i in chosen]


def render(sample: dict[str, Any]) -> str:
    """One rollout as HTML."""
    answer = f"true answer {sample['answer']}" if "answer" in sample else ""
    facts = ["fully correct" if sample.get("right") else "not correct", f"{sample.get('ops', '?')} operations", answer]
    if sample.get("finished") is False:
        facts.append("cut off: it did not end")
    top = f"<p><b>{escape(facts[0])}</b> <span class='soft'>{escape(', '.join(f for f in facts[1:] if f))}</span></p>"
    steps = "".join(_step(str(step.get("text", "")), str(step.get("kind", ""))) for step in sample.get("steps", []))
    rest = _remainder(sample)
    problem = folded("the problem", f"<p>{escape(str(sample.get('prompt', '')))}</p>")
    told = str(sample.get("context", ""))
    if told:
        problem = folded("what it was told", f"<p>{escape(told)}</p>") + problem
    return f'<div class="rollout">{top}{problem}{steps}{_ending(rest)}</div>'


def _step(text: str, kind: str) -> str:
    if kind == "right":
        return f'<span class="step right">{escape(text)}</span>'
    group = "waste" if kind in WASTE else "wrong"
    return f'<span class="step {group}">{escape(text)} <small>{escape(kind)}</small></span>'


def _ending(rest: str) -> str:
    return f"<span class='step'>{escape(rest)} <small class='soft'>after the last step</small></span>" if rest else ""


def _remainder(sample: dict[str, Any]) -> str:
    """What the response says after its last step (the answer, where it is not counted as a step)."""
    response, steps = str(sample.get("response", "")), sample.get("steps", [])
    if not steps:
        return response
    last = str(steps[-1].get("text", ""))
    if not last:  # a step of special tokens only has no text
        return ""
    _, found, rest = response.rpartition(last)
    return rest.strip() if found else ""
