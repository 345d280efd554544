"""A step's batch: drawn by its source, and kept in a buffer where later steps learn from it too (replay, reuse).

What a step learns from is a function of (weights, step) and, for replayed or reused batches, of what was drawn before;
that buffer is part of a run's state, so a resumed run replays the same responses.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import field, replace
from typing import Any

import numpy as np

from models.gpt import GPT
from synth.ranges import AboveZero, NotNegative, Positive, settings
from train.core.distributed import Group
from train.core.loop import SINGLE_PROCESS
from train.data.batches import in_epochs
from train.opd.log_probs import token_log_probs
from train.opd.rollout_batch import ORIGINS, TRACKS, Prompts, Rollouts, judged, stacked
from train.opd.schedule import Schedule, at_step
from train.opd.source.rollout_sampling import GoldDocuments, OwnResponses, Sampler, check_share
from train.opd.teacher.teacher import log_probs_of


@settings
class Replay(OwnResponses, kind="replay"):
    """The student's samples, kept for later steps too. capacity: batches kept. refresh: the probability of a new one,
    which may change with the step."""

    capacity: Positive = 16
    refresh: Schedule = field(default_factory=lambda: Schedule(1.0, 0.3, 150))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("source.refresh", self.refresh)

    def choose(self, prompts: Prompts, step: int, student: GPT, kept: int, memory: dict[str, Any]) -> Sampler | int:
        if kept and prompts.chance("refresh", step) >= at_step(self.refresh, step):
            return int(prompts.chance("replay", step) * kept)
        return self


@settings
class Adaptive(OwnResponses, kind="adaptive"):
    """Documents at first and, as the loss on held-out documents stops falling, more and more of the student's own
    responses, new and kept ones (DistiLLM, 2402.03898).

    A threshold h rises by `rise` whenever that loss, asked every `every` steps, is not below the last by more than
    minus `epsilon`. For u < h (1 - step / steps) the student answers; for u < h a kept batch comes back, or while fewer
    than `capacity` are kept the student answers; else documents.
    """

    capacity: Positive = 16  # batches kept
    rise: AboveZero = 0.1  # of the threshold, each time
    epsilon: NotNegative = 0.1  # by how much the loss must fall for the threshold to stay
    every: Positive = 10  # steps between two looks at the loss
    steps: Positive = 150  # of the way from the student's to kept batches
    whole_batch = True

    def choose(self, prompts: Prompts, step: int, student: GPT, kept: int, memory: dict[str, Any]) -> Sampler | int:
        if "threshold" not in memory:
            memory["threshold"] = (0.0, held_out_loss(student, prompts))
        elif step % self.every == 0:
            threshold, before = memory["threshold"]
            memory["threshold"] = self.risen(threshold, before, held_out_loss(student, prompts))
        u, threshold = prompts.chance("adaptive", step), memory["threshold"][0]
        chosen = self.choice(u, threshold, step + 1, kept >= self.capacity)
        again = int(prompts.chance("replay", step) * kept)
        return {"gold": GoldDocuments(), "student": self, "kept": again}[chosen]

    def choice(self, u: float, threshold: float, step: int, full: bool) -> str:
        """gold, student or kept, for one uniform draw; `step` counts from 1."""
        if u < threshold * (1.0 - step / self.steps) or (u < threshold and not full):
            return "student"
        return "kept" if u < threshold else "gold"

    def risen(self, threshold: float, before: float, loss: float) -> tuple[float, float]:
        """Threshold and the loss to compare with, behind a check."""
        return (min(threshold + self.rise, 1.0), loss) if loss >= before + self.epsilon else (threshold, before)


def held_out_loss(student: GPT, prompts: Prompts) -> float:
    """Mean negative log-likelihood of as many documents as a step has prompts, of another stream."""
    other = copy(prompts.stream)
    other.stream += "/held out"
    gold, _ = GoldDocuments().draw(replace(prompts, stream=other, gold=None), 0, student, None)
    log_probs = log_probs_of(student, gold.tokens_BT, gold.prompt_B, gold.length_B)
    return -float(token_log_probs(log_probs, gold, student.config.vocab_size).mean())


class BatchSource:
    """Draws the batch of a step. `model` is the frozen model that the source needs beside the student, if any.

    Of the processes of a `group` each draws the responses to its share of the prompts, and all get the whole batch.
    """

    def __init__(self, prompts: Prompts, sampler: Sampler, model: GPT | None, group: Group = SINGLE_PROCESS) -> None:
        self.prompts, self.sampler, self.model, self.group = prompts, sampler, model, group
        self.kept: list[dict[str, Any]] = []  # oldest first: `batch`, the index of its prompts, and the tracks
        self.memory: dict[str, Any] = {}  # what the sampler remembers beside them

    def __call__(self, student: GPT, step: int) -> tuple[Rollouts, float, int]:
        """The rollouts of a step, this process's FLOPs for them (0: kept or gold), the index of their prompts."""
        chosen = self.sampler.choose(self.prompts, step, student, len(self.kept), self.memory)
        if isinstance(chosen, int):
            return self._recall(self.kept[chosen], student), 0.0, self.kept[chosen]["batch"]
        batch = step // chosen.reuse
        rollouts, flops = self._draw(chosen, student, batch)
        if capacity := chosen.capacity or int(chosen.reuse > 1):
            self.kept.append({"batch": batch} | {name: getattr(rollouts, name).cpu() for name in TRACKS})
            self.kept = self.kept[-capacity:]
        return rollouts, flops, batch

    def _draw(self, sampler: Sampler, student: GPT, batch: int) -> tuple[Rollouts, float]:
        """A new batch, and what this process spent on it."""
        group = self.group
        if group.world_size == 1 or sampler.whole_batch:
            rollouts, flops = sampler.draw(self.prompts, batch, student, self.model)
            return rollouts, flops if group.is_main else 0.0
        own = self.prompts.share(group.rank, group.world_size)
        rollouts, flops = sampler.draw(own, batch, student, self.model)
        parts = group.gather({name: getattr(rollouts, name).cpu() for name in TRACKS})
        return self._recall({"batch": batch} | stacked(parts, self.prompts.tokens.pad), student), flops

    def _recall(self, kept: Mapping[str, Any], student: GPT) -> Rollouts:
        """Kept responses with their problems and verdicts, which are functions of the index and the tokens."""
        device, prompts = next(student.parameters()).device, self.prompts
        gold = bool(
            (kept["origin_B"] == ORIGINS.index("gold")).all()
        )  # only these are of the few documents there may be
        places = kept["batch"] * prompts.count + np.arange(prompts.count)
        every = prompts.stream.problems(in_epochs(places, prompts.gold if gold else None, prompts.stream.seed))
        tracks = {name: kept[name].to(device) for name in TRACKS}
        return judged(tracks, every.take(kept["group_B"].numpy()), self.prompts)

    def state_dict(self) -> dict[str, Any]:
        """Empty for sources without memory."""
        own = {"vocabulary": self.prompts.tokens.fingerprint(), "kept": self.kept} if self.kept else {}
        return own | {name: list(value) for name, value in self.memory.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError when the responses were kept in another vocabulary."""
        if "kept" in state and state["vocabulary"] != self.prompts.tokens.fingerprint():
            raise ValueError(
                f"source={self.sampler.kind}: the kept responses are of another vocabulary than the data's; "
                "accepted: the data settings that they were drawn with"
            )
        self.kept = list(state.get("kept", []))
        self.memory = {name: tuple(value) for name, value in state.items() if name not in ("vocabulary", "kept")}
