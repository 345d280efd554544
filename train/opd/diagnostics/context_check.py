"""Can the model use the context that a teacher reads? Measured before a context teaches anything.

A tiny model reads a context only as well as its pretraining taught it to; a teacher that ignores its context teaches
nothing, and one that is confused by it teaches harm. So the same held-out problems are solved with and without.
"""

from typing import Any

import numpy as np

from models.gpt import GPT
from train.data.batches import DataConfig
from train.evaluation.evaluator import evaluate
from train.statistics import Z, paired_difference

SHORTER = "concise"  # the one recipe that asks for less instead of giving more


def measure_skill(model: GPT, data: DataConfig, recipe: str, problems: int) -> dict[str, Any]:
    """Greedy solutions of held-out problems with the context and without.

    Returns:
        context, problems, accuracy_with, accuracy_without, gain (with a 95% interval, paired by problem), the mean
        lengths length_with and length_without, and `clear`: whether the gain is clearly positive; for `concise`,
        whether solutions are clearly shorter.
    """
    done = {}
    for name in (recipe, "none"):
        done[name] = evaluate(model, data.with_context(name).source("test", "context skill"), range(problems))
    informed, bare = done[recipe], done["none"]
    gain = paired_difference(informed.verdicts.right, bare.verdicts.right)
    longer = informed.length.astype(float) - bare.length
    error = Z * longer.std() / np.sqrt(len(longer))
    return {
        "context": recipe,
        "problems": problems,
        "accuracy_with": float(informed.verdicts.right.mean()),
        "accuracy_without": float(bare.verdicts.right.mean()),
        "gain": gain._asdict(),
        "length_with": float(informed.length.mean()),
        "length_without": float(bare.length.mean()),
        "clear": bool(longer.mean() + error < 0.0) if recipe == SHORTER else bool(gain.low > 0.0),
    }


def described(skill: dict[str, Any]) -> str:
    """The measurement in one line."""
    gain = skill["gain"]
    return (
        f"context={skill['context']}: {skill['accuracy_with']:.1%} with, {skill['accuracy_without']:.1%} without, "
        f"{gain['value']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}] on {skill['problems']} problems; "
        f"{skill['length_with']:.1f} tokens with, {skill['length_without']:.1f} without"
    )


def check_skill(skill: dict[str, Any]) -> None:
    """Raise ValueError unless the model clearly uses the context."""
    if not skill["clear"]:
        raise ValueError(
            f"teacher.context: the model lacks this skill ({described(skill)}); accepted: a checkpoint pretrained on "
            "such contexts (data=contexts), or skill.stop=false"
        )
