"""What a response is worth: the rewards of an outcome, by the checker, by a vote, or by a judge that learns.

A reward that learns keeps a model of its own (`Judge`), which scores every batch before the loss is made and learns
from it; its weights and moments are part of a run's state. Every process of a group trains a copy on the whole batch.

Legend: B rows, C channels.
"""

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT
from synth.ranges import AboveZero, settings
from train.config.schema import Choice
from train.core.budget_and_ledger import forward_flops, training_flops
from train.opd.rollout_batch import ORIGINS, Prompts, Rollouts, agrees
from train.statistics import auroc


class Judgement(NamedTuple):
    """A batch with its scores; the judge's loss on it, what it read and spent, and what it is measured by."""

    rollouts: Rollouts
    loss: float
    tokens: int
    flops: float
    shares: dict[str, float]


class Judge:
    """A model that scores responses and learns from them; it begins as a copy of the student with a scalar head."""

    def __init__(self, config: "Discriminator", prompts: Prompts, micro_batch: int = 0) -> None:
        self.config, self.prompts, self.micro_batch = config, prompts, micro_batch
        self.model: GPT | None = None
        self._saved: Mapping[str, Any] = {}

    def __call__(self, student: GPT, rollouts: Rollouts) -> Judgement:
        """The rollouts with their scores, after which it has learned from them."""
        model = self._begun(student) if self.model is None else self.model
        chunks = rollouts.chunks(self.micro_batch)
        with torch.no_grad():
            score_B = torch.cat([self._scores(model, rollouts.rows(rows)) for rows in chunks])
            score_B = torch.empty_like(score_B).index_copy(0, torch.cat(chunks), score_B)
        loss, slope_B = self._loss(score_B, rollouts)
        for rows in chunks:
            (self._scores(model, rollouts.rows(rows)) * slope_B[rows]).sum().backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), self.head_C], self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        read_B = rollouts.prompt_B + rollouts.length_B
        flops = forward_flops(model.config, read_B) + training_flops(model.config, read_B)
        found = agreement(score_B, rollouts)
        return Judgement(replace(rollouts, score_B=score_B), loss, 2 * int(read_B.sum()), flops, found)

    def _begun(self, student: GPT) -> GPT:
        self.model = deepcopy(student).train().requires_grad_(True)
        noise_C = torch.randn(student.config.n_embd, generator=self.prompts.generator("discriminator", 0))
        self.head_C = (noise_C * student.config.init_std).to(student.embed.weight.device).requires_grad_()
        self.optimizer = torch.optim.AdamW([*self.model.parameters(), self.head_C], self.config.lr, weight_decay=0.0)
        if self._saved:
            self.model.load_state_dict(self._saved["weights"])
            self.optimizer.load_state_dict(self._saved["optimizer"])
            self.head_C.data.copy_(self._saved["head"])
        return self.model

    def _scores(self, model: GPT, rows: Rollouts) -> Tensor:
        """s(x, y), read at the last token: float[B]."""
        last_B = torch.arange(len(rows), device=rows.prompt_B.device) * rows.tokens_BT.shape[1]
        return model.hidden(rows.tokens_BT, at_N=last_B + rows.prompt_B + rows.length_B - 1) @ self.head_C

    @staticmethod
    def _loss(score_B: Tensor, rollouts: Rollouts) -> tuple[float, Tensor]:
        """The mean of -log sigmoid(s(teacher) - s(student)) over the pairs of a prompt, and its slopes: float[B]."""
        score_B = score_B.clone().requires_grad_()
        loss = -F.logsigmoid(score_B[:, None] - score_B)[pairs(rollouts)].mean()
        (slope_B,) = torch.autograd.grad(loss, score_B)
        return float(loss.detach()), slope_B

    def state_dict(self) -> dict[str, Any]:
        if self.model is None:
            return dict(self._saved)
        return {
            "weights": self.model.state_dict(),
            "head": self.head_C.detach(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model, self._saved = None, state


def pairs(rollouts: Rollouts) -> Tensor:
    """bool[B, B]: a response of the teacher (row) and one of the student (column) to the same prompt."""
    teacher_B, student_B = (rollouts.origin_B == ORIGINS.index(name) for name in ("teacher", "student"))
    return (rollouts.group_B[:, None] == rollouts.group_B) & teacher_B[:, None] & student_B


def agreement(score_B: Tensor, rollouts: Rollouts) -> dict[str, float]:
    """How often the teacher's response scores higher, and how well scores tell right from wrong ones of the student."""
    won = float((score_B[:, None] > score_B)[pairs(rollouts)].float().mean())
    own_B = (rollouts.origin_B == ORIGINS.index("student")).cpu().numpy()
    by_checker = auroc(score_B.cpu().numpy()[own_B], rollouts.verdicts.right[own_B])
    found = {"discriminator_wins": won, "auroc_discriminator": float(by_checker)}
    return {name: value for name, value in found.items() if value == value}


class Reward(Choice):
    """What a response is worth. apart: origins whose rows are in no group of an outcome. learned: whether a model that
    learns gives it, and it is no 0 or 1."""

    apart: tuple[str, ...] = ("privileged",)
    learned = False

    @abstractmethod
    def __call__(self, rollouts: Rollouts) -> Tensor:
        """float[B], for a whole batch."""

    def judges(self, prompts: Prompts, micro_batch: int) -> list[Judge]:
        """The models that score a batch before the reward is read."""
        return []


@settings
class Strict(Reward, kind="strict"):
    """1 where the checker finds every step and the answer right."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        return torch.as_tensor(rollouts.verdicts.right, device=rollouts.prompt_B.device).float()


@settings
class Answer(Reward, kind="answer"):
    """1 where the final answer is right, however it was reached."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        return torch.as_tensor(rollouts.verdicts.answer_right, device=rollouts.prompt_B.device).float()


@settings
class Majority(Reward, kind="majority"):
    """1 where the answer is the most frequent one of its group, which needs no truth; 0 on a tie."""

    def __call__(self, rollouts: Rollouts) -> Tensor:
        return agrees(rollouts)


@settings
class Discriminator(Reward, kind="discriminator"):
    """The score of a model that learns to tell the teacher's responses from the student's (GAD, 2511.10643).

    lr: of its AdamW; clip: of its gradient's norm. The teacher's rows are in no group.
    """

    lr: AboveZero = 0.0003  # of its AdamW
    clip: AboveZero = 0.2  # of its gradient's norm
    apart = ("privileged", "teacher")
    learned = True

    def __call__(self, rollouts: Rollouts) -> Tensor:
        if rollouts.score_B is None:
            raise RuntimeError("outcome.reward=discriminator: nothing scored the responses")
        return rollouts.score_B

    def judges(self, prompts: Prompts, micro_batch: int) -> list[Judge]:
        return [Judge(self, prompts, micro_batch)]
