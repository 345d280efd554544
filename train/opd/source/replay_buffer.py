"""A step's batch: drawn by its source, and kept in a buffer where later steps learn from it too (replay, reuse).

What a step learns from is a function of (weights, step) and, for replayed or reused batches, of what was drawn before;
that buffer is part of a run's state, so a resumed run replays the same responses.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT
from synth.ranges import Positive, settings
from train.core.distributed import Group
from train.core.loop import SINGLE_PROCESS
from train.opd.rollouts import Prompts, Rollouts
from train.opd.schedule import Schedule, at_step
from train.opd.source.samplers import OwnResponses, Sampler, check_share


@settings
class Replay(OwnResponses, kind="replay"):
    """The student's samples, kept for later steps too. capacity: batches kept. refresh: the probability of a new one,
    which may change with the step."""

    capacity: Positive = 16
    refresh: Schedule = field(default_factory=lambda: Schedule(1.0, 0.3, 150))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("source.refresh", self.refresh)


TRACKS = ("tokens_BT", "prompt_B", "length_B", "trainable_BR", "behaviour_BR", "group_B", "origin_B")


def stacked(parts: list[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """The tracks of several batches as those of one, row after row."""
    whole = {}
    for name in TRACKS:
        tracks, fill = [part[name] for part in parts], pad if name == "tokens_BT" else 0
        if tracks[0].ndim > 1:
            width = max(track.shape[1] for track in tracks)
            tracks = [F.pad(track, (0, width - track.shape[1]), value=fill) for track in tracks]
        whole[name] = torch.cat(tracks)
    return whole


class BatchSource:
    """Draws the batch of a step. `model` is the frozen model that the source needs beside the student, if any.

    Of the processes of a `group` each draws the responses to its share of the prompts, and all get the whole batch.
    """

    def __init__(self, prompts: Prompts, sampler: Sampler, model: GPT | None, group: Group = SINGLE_PROCESS) -> None:
        self.prompts, self.sampler, self.model, self.group = prompts, sampler, model, group
        self.kept: list[dict[str, Any]] = []  # oldest first: `batch`, the index of its prompts, and the tracks

    def __call__(self, student: GPT, step: int) -> tuple[Rollouts, float, int]:
        """The rollouts of a step, this process's FLOPs for them (0: kept or gold), the index of their prompts."""
        sampler, prompts = self.sampler, self.prompts
        batch, again, place = step // sampler.reuse, step % sampler.reuse > 0, -1
        if isinstance(sampler, Replay) and self.kept:
            again = prompts.chance("refresh", step) >= at_step(sampler.refresh, step)
            place = int(prompts.chance("replay", step) * len(self.kept))
        if again:
            return self._recall(self.kept[place], student), 0.0, self.kept[place]["batch"]
        rollouts, flops = self._draw(student, batch)
        if sampler.reuse > 1 or isinstance(sampler, Replay):
            self.kept.append({"batch": batch} | {name: getattr(rollouts, name).cpu() for name in TRACKS})
            self.kept = self.kept[-(sampler.capacity if isinstance(sampler, Replay) else 1) :]
        return rollouts, flops, batch

    def _draw(self, student: GPT, batch: int) -> tuple[Rollouts, float]:
        """A new batch, and what this process spent on it."""
        group = self.group
        if group.world_size == 1 or self.sampler.whole_batch:
            rollouts, flops = self.sampler.draw(self.prompts, batch, student, self.model)
            return rollouts, flops if group.is_main else 0.0
        own = self.prompts.share(group.rank, group.world_size)
        rollouts, flops = self.sampler.draw(own, batch, student, self.model)
        parts = group.gather({name: getattr(rollouts, name).cpu() for name in TRACKS})
        return self._recall({"batch": batch} | stacked(parts, self.prompts.tokens.pad), student), flops

    def _recall(self, kept: Mapping[str, Any], student: GPT) -> Rollouts:
        """Kept responses with their problems and verdicts, which are functions of the index and the tokens."""
        device, stream, tokens = next(student.parameters()).device, self.prompts.stream, self.prompts.tokens
        tracks = {name: kept[name].to(device) for name in TRACKS}
        tracks |= {"judge": self.prompts.judge, "eos": tokens.eos, "pad": tokens.pad}
        every = stream.problems(range(kept["batch"] * self.prompts.count, (kept["batch"] + 1) * self.prompts.count))
        problems = every.take(kept["group_B"].numpy())
        empty = Rollouts(**tracks, problems=problems, verdicts=None)  # type: ignore[arg-type]
        response_BR, length_B = empty.response_BR.cpu().numpy(), kept["length_B"].numpy()
        return Rollouts(**tracks, problems=problems, verdicts=tokens.check(problems, response_BR, length_B))

    def state_dict(self) -> dict[str, Any]:
        """Empty for sources without memory."""
        return {"vocabulary": self.prompts.tokens.fingerprint(), "kept": self.kept} if self.kept else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError when the responses were kept in another vocabulary."""
        if state and state["vocabulary"] != self.prompts.tokens.fingerprint():
            raise ValueError(
                f"source={self.sampler.kind}: the kept responses are of another vocabulary than the data's; "
                "accepted: the data settings that they were drawn with"
            )
        self.kept = list(state.get("kept", []))
