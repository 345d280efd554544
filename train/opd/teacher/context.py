"""What a teacher's prompt contains beyond the student's, made of the step's rollouts; and whether a model can use it.

Peers are the other responses to the same prompt, never the one that is scored nor one of the same text; the attempt and
the feedback are about the scored response itself; gold is a fresh solution of the same problem, in another order and
with other letters where the world leaves them free. `synth.contexts.privileged` builds them, as for pretraining.

A tiny model reads a context only as well as its pretraining taught it to, and a teacher that ignores or is confused by
its context teaches nothing, or harm. So the same held-out problems are solved with and without before it teaches.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from models.gpt import GPT
from synth.contexts.context_tokens import MOST, build, parse
from synth.contexts.privileged import material
from synth.kernel import rng
from train.data.batches import DataConfig
from train.evaluation.evaluator import evaluate
from train.opd.rollout_batch import Prompts, Rollouts
from train.statistics import Z, paired_difference

ABOUT_GOLD = {"gold", "partial"}
PEERS = {"success", "failure"}
CORRECT = {"retry_rate": 0.0, "retry_kind": "retry", "uncorrected": 0.0}  # golds without mistakes, whatever the data's


def sections(recipe: str) -> set[str]:
    """Names of the sections of recipes."""
    return {name for one in recipe.split("/") for name, _ in parse(one)}


def longest(recipe: str, response: int, gold: int) -> int:
    """An upper bound on the tokens of a recipe's sections, of the longest of several.

    Args:
        response: the budget of a response; gold: tokens of the longest gold solution.
    """
    size = {"gold": gold + 1, "partial": gold + 1, "attempt": response + 2, "feedback": 4, "concise": 1}

    def tokens(name: str, count: int) -> int:
        return count * (response + 1) if name in MOST else size.get(name, 3)

    return max(sum(tokens(*section) for section in parse(one)) for one in recipe.split("/"))


def add_contexts(
    rollouts: Rollouts, recipe: str, prompts: Prompts, step: int, limit: int, use: str = "told"
) -> Rollouts:
    """The rollouts with what their teacher reads before each.

    Args:
        step: of the run; addresses the order of peers and the fresh gold.
        limit: tokens that the teacher reads at most; a row that would need more gets no context.
        use: of the random numbers.
    """
    wanted, world = sections(recipe), prompts.stream.world
    group_B = rollouts.group_B.cpu().numpy()
    first_G = np.unique(group_B, return_index=True)[1]
    problems = rollouts.problems.take(first_G)
    golds: list[Any] = [None] * len(first_G)
    if wanted & ABOUT_GOLD:
        at = (step * prompts.count + group_B[first_G]).tolist()
        fresh = prompts.stream.solve(problems, f"{prompts.stream.stream}/told {prompts.seed}", at, **CORRECT)
        golds = [fresh.response(i) for i in range(len(fresh))]
    lengths = rollouts.length_B.tolist()
    responses = [row[:n] for row, n in zip(rollouts.response_BR.cpu().numpy(), lengths, strict=True)]
    left_B = limit - (rollouts.prompt_B + rollouts.length_B).cpu().numpy()
    contexts: list[tuple[int, ...]] = [()] * len(responses)
    for g in range(len(first_G)):
        rows = np.flatnonzero(group_B == group_B[first_G[g]])
        group = [responses[row] for row in rows]
        verdicts = type(rollouts.verdicts)(*(field[rows] for field in rollouts.verdicts))
        orders = rng.generators(prompts.seed, f"{use} {step} {g}", range(len(rows)))
        verdicts = verdicts._replace(right=rollouts.right[rows])
        for own, row in enumerate(rows):
            facts = material(world, problems.take(g), group, verdicts, own, orders[own], golds[g])
            found = next(filter(None, (build(one, facts) for one in recipe.split("/"))), [])
            tokens = tuple(int(t) for section in found for t in section)
            contexts[row] = tokens if len(tokens) <= left_B[row] else ()
    return replace(rollouts, context=tuple(contexts))


SHORTER = "concise"  # the one recipe that asks for less instead of giving more


def measure_skill(model: GPT, data: DataConfig, recipe: str, problems: int) -> dict[str, Any]:
    """Greedy solutions of held-out problems with the context, of several the first, and without.

    Returns:
        context, problems, accuracy_with, accuracy_without, gain (with a 95% interval, paired by problem), the mean
        lengths length_with and length_without, and `clear`: whether the gain is clearly positive; for `concise`,
        whether solutions are clearly shorter.
    """
    informed, bare = (
        evaluate(model, data.with_context(name).source("test", "context skill"), range(problems))
        for name in (recipe.split("/")[0], "none")
    )
    gain = paired_difference(informed.verdicts.right.tolist(), bare.verdicts.right.tolist())
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
