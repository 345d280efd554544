"""Teachers that are the student itself: at step 0, as it is now, averaged over time (EMA), renewed, a trust region."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from models.gpt import GPT
from synth.ranges import BadSetting, Positive, Share, settings
from synth.spec import Spec
from train.opd.log_probs import LogProbs
from train.opd.rollout_batch import Rollouts
from train.opd.schedule import OpenShare
from train.opd.teacher.teacher import Frozen, ReadingTeacher, ScoringModel, frozen, log_probs_with_context


class Ema(Frozen):
    """The exponential moving average of the student's weights: theta_T <- (1 - rate) theta_T + rate theta."""

    def __init__(self, student: GPT, rate: float) -> None:
        super().__init__(deepcopy(student))
        self.rate, self.step = rate, 0

    @torch.no_grad()
    def follow(self, student: GPT, step: int) -> None:
        if step > self.step:
            for average, weight in zip(self.models[0].parameters(), student.parameters(), strict=True):
                average.lerp_(weight, self.rate)
            self.step = step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "weights": self.models[0].state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.models[0].load_state_dict(state["weights"])


class Synced(Ema):
    """A copy of the student that is renewed every `every` steps (CRISP, 2603.05433)."""

    def __init__(self, student: GPT, every: int) -> None:
        super().__init__(student, 1.0)
        self.every = every

    def follow(self, student: GPT, step: int) -> None:
        if step % self.every == 0:
            super().follow(student, step)


class Live(ScoringModel):
    """The student itself as it is now, without gradient. It drifts with what it teaches; SDPO found it to diverge."""

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        return log_probs_with_context(student, rollouts)

    def readers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return [*super().readers(rollouts, student), (student, torch.ones_like(rollouts.prompt_B, dtype=torch.bool))]


class TrustRegion(Live):
    """A trust region around the student at step 0: p_0^(1-rate) p_now^rate, renormalised (SDPO, 2601.20802)."""

    def __init__(self, student: GPT, rate: float) -> None:
        super().__init__()
        self.models, self.rate = [frozen(deepcopy(student))], rate

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        first, now = log_probs_with_context(self.models[0], rollouts), log_probs_with_context(student, rollouts)
        return lambda at: torch.log_softmax(torch.lerp(first(at), now(at), self.rate), dim=-1)

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        return []  # a distribution between two models is none of a model


@settings
class SelfTeacher(ReadingTeacher):
    """The student teaches itself."""

    is_self = True


@settings
class InitialStudent(SelfTeacher, kind="init"):
    """The student as it was at step 0."""

    one_model = True

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Frozen(deepcopy(student))


@settings
class EmaTeacher(SelfTeacher, kind="ema"):
    """A moving average of the student's weights; rate: the share of the new weights at each step."""

    rate: OpenShare = 0.05

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Ema(student, self.rate)


@settings
class SyncedTeacher(SelfTeacher, kind="sync"):
    """A copy of the student that is renewed every `every` steps."""

    every: Positive = 50  # steps between two copies of the student

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Synced(student, self.every)


@settings
class TrustRegionTeacher(SelfTeacher, kind="trust"):
    """Between the student at step 0 and the present one; rate: the share of the present one."""

    rate: OpenShare = 0.05

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return TrustRegion(student, self.rate)


@settings
class LiveTeacher(SelfTeacher, kind="live"):
    """The student as it is now, without gradient. trained: share of a loss of its own, at the prompt with the context,
    in which the reader learns, too (pi-Distill, 2602.04942)."""

    trained: Share = 0.0  # share of the loss in which the reader learns, too

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained and self.context == "none":
            raise BadSetting(f"trained={self.trained}: without a context teacher and student are one; accepted: 0")

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Live()
