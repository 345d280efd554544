"""A step's batch: drawn by its source, kept where later steps learn from it too.

What a step learns from is a function of (weights, step) and, for replayed or reused batches, of what was drawn before;
that memory is the drawer's state, so a resumed run replays the same responses.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT
from train.core.distributed import Group
from train.core.loop import SINGLE_PROCESS
from train.opd.checks import at_step
from train.opd.rollouts import Rollouts
from train.opd.source.mixed_samplers import blend, revision, spliced
from train.opd.source.samplers import KINDS, Prompts, SourceConfig, cached, chance_of, gold, mix, student, teacher

SOURCES = {
    "student": student, "teacher": teacher, "gold": gold, "mix": mix, "cached": cached, "blend": blend,
    "spliced": spliced, "revision": revision, "replay": student,
}  # fmt: skip
assert set(SOURCES) == set(KINDS)
WHOLE = (
    "spliced",
    "revision",
)  # whose random numbers or verdicts depend on the whole batch: every process draws it all
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


class Drawer:
    """Draws the batch of a step. `author` is the frozen model that the source needs beside the student, if any.

    Of the processes of a `group` each draws the responses to its share of the prompts, and all get the whole batch.
    """

    def __init__(
        self, prompts: Prompts, config: SourceConfig, author: GPT | None, group: Group = SINGLE_PROCESS
    ) -> None:
        self.prompts, self.config, self.author, self.group = prompts, config, author, group
        self.kept: list[dict[str, Any]] = []  # oldest first: `batch`, the index of its prompts, and the tracks

    def __call__(self, model: GPT, step: int) -> tuple[Rollouts, float, int]:
        """The rollouts of a step, this process's FLOPs for them (0: kept or gold), the index of their prompts."""
        config = self.config
        batch, again = step // config.reuse, step % config.reuse > 0
        if config.kind == "replay" and self.kept:
            again = chance_of(self.prompts, "refresh", step) >= at_step(config.refresh, step)
        if again:
            place = -1
            if config.kind == "replay":
                place = int(chance_of(self.prompts, "replay", step) * len(self.kept))
            return self._recall(self.kept[place], model), 0.0, self.kept[place]["batch"]
        rollouts, flops = self._draw(model, batch)
        if config.reuse > 1 or config.kind == "replay":
            self.kept.append({"batch": batch} | {name: getattr(rollouts, name).cpu() for name in TRACKS})
            self.kept = self.kept[-(config.capacity or 1) :]
        return rollouts, flops, batch

    def _draw(self, model: GPT, batch: int) -> tuple[Rollouts, float]:
        """A new batch, and what this process spent on it."""
        group, kind = self.group, self.config.kind
        if group.world_size == 1 or kind in WHOLE:
            rollouts, flops = SOURCES[kind](self.prompts, self.config, batch, model, self.author)
            return rollouts, flops if group.is_main else 0.0
        own = self.prompts.share(group.rank, group.world_size)
        rollouts, flops = SOURCES[kind](own, self.config, batch, model, self.author)
        parts = group.gather({name: getattr(rollouts, name).cpu() for name in TRACKS})
        return self._recall({"batch": batch} | stacked(parts, self.prompts.tokens.pad), model), flops

    def _recall(self, kept: Mapping[str, Any], model: GPT) -> Rollouts:
        """Kept responses with their problems and verdicts, which are functions of the index and the tokens."""
        device, stream, tokens = next(model.parameters()).device, self.prompts.stream, self.prompts.tokens
        tracks = {name: kept[name].to(device) for name in TRACKS} | {"eos": tokens.eos, "pad": tokens.pad}
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
                f"source.kind={self.config.kind}: the kept responses are of another vocabulary than the data's; "
                "accepted: the data settings that they were drawn with"
            )
        self.kept = list(state.get("kept", []))
