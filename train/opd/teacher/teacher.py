"""Which target the student is compared with: the teacher part of a method. Model x context x transform.

The invariant that matters: teacher and student are aligned by response position, never by column. A sequence's output
at column prompt + t - 1 predicts response token t, so a teacher may read a longer prompt than the student and still
score the same tokens. Targets never carry gradient.

Legend: B rows, R response columns, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.gpt import GPT
from synth.contexts.sections import parse
from synth.oracle.next_token import POLICIES, Oracle
from synth.spec import Spec
from train.config.schema import Choice
from train.core.state import forward_flops
from train.opd.rollouts import Rollouts
from train.opd.schedule import require, unit, whole
from train.opd.scored import LogProbs, Targets
from train.opd.teacher.ema_teacher import Ema, Live, Synced, TrustRegion
from train.opd.teacher.external_teacher import Route, check_number
from train.opd.teacher.oracle_teacher import Exact
from train.opd.teacher.scoring_models import Frozen, ScoringModel, frozen, log_probs_of
from train.opd.teacher.transforms import Identity, Transform


class TeacherConfig(Choice):
    """Whose distribution is the target. context: what the teacher reads beyond the student's prompt, none or a recipe
    of `synth.contexts.sections` such as success2+failure1. transform: what is made of its distribution. route: between
    several external teachers.

    is_self: whether the student teaches itself. one_model: whether a single frozen model stands behind it.
    """

    context = "none"
    transform: Transform = Identity()
    route: Route | None = None
    is_self = False
    one_model = False

    @abstractmethod
    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel | None:
        """What scores the responses.

        Args:
            student: as it is at step 0.
            checkpoints: the external teachers, in the order of `teacher` and `teachers`.
            spec: of the data, for the oracle.
        Raises ValueError when the number of checkpoints is wrong, or the oracle has no closed form.
        """


@dataclass(frozen=True)
class NoTeacher(TeacherConfig, kind="none"):
    """Nothing scores the responses."""

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> None:
        return None


@dataclass(frozen=True)
class OracleTeacher(TeacherConfig, kind="oracle"):
    """The generator's own distribution; policy: continue | correct | abstain, for what follows a mistake."""

    policy: str = "continue"
    transform: Transform = field(default_factory=Identity)

    def __post_init__(self) -> None:
        require("teacher.policy", self.policy, POLICIES)

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Exact(Oracle(spec, self.policy))


@dataclass(frozen=True)
class ReadingTeacher(TeacherConfig):
    """A model that reads a prompt, and may read a context before it."""

    context: str = "none"
    transform: Transform = field(default_factory=Identity)

    def __post_init__(self) -> None:
        parse(self.context)


@dataclass(frozen=True)
class ExternalTeacher(ReadingTeacher, kind="external"):
    """The checkpoint named by `teacher`; with a route, one of several (`teacher` and `teachers`) for each response."""

    route: Route | None = None

    @property
    def one_model(self) -> bool:
        return self.route is None

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        if not checkpoints:
            raise ValueError("teacher=null: this method's teacher=external needs the path of a checkpoint")
        if self.route is not None:
            return self.route.models(checkpoints)
        check_number(checkpoints, 1, "null")
        return Frozen(*checkpoints)


@dataclass(frozen=True)
class SelfTeacher(ReadingTeacher):
    """The student teaches itself."""

    is_self = True


@dataclass(frozen=True)
class InitialStudent(SelfTeacher, kind="init"):
    """The student as it was at step 0."""

    one_model = True

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Frozen(deepcopy(student))


@dataclass(frozen=True)
class EmaTeacher(SelfTeacher, kind="ema"):
    """A moving average of the student's weights; rate: the share of the new weights at each step."""

    rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        unit("teacher.rate", self.rate)

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Ema(student, self.rate)


@dataclass(frozen=True)
class SyncedTeacher(SelfTeacher, kind="sync"):
    """A copy of the student that is renewed every `every` steps."""

    every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("teacher.every", self.every)

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Synced(student, self.every)


@dataclass(frozen=True)
class TrustRegionTeacher(SelfTeacher, kind="trust"):
    """Between the student at step 0 and the present one; rate: the share of the present one."""

    rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        unit("teacher.rate", self.rate)

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return TrustRegion(student, self.rate)


@dataclass(frozen=True)
class LiveTeacher(SelfTeacher, kind="live"):
    """The student as it is now, without gradient."""

    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel:
        return Live()


class Teacher:
    """What scores the responses: a scoring model and its transform, and where asked for the student at step 0.

    model: None where the method has no teacher. reference: None where nothing needs the student at step 0.
    """

    def __init__(self, config: TeacherConfig, model: ScoringModel | None, reference: GPT | None = None) -> None:
        self.config, self.model = config, model
        self.reference = None if reference is None else frozen(reference)

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step."""
        if self.model is not None:
            self.model.follow(student, step)

    def targets(self, rollouts: Rollouts, student: GPT) -> Targets:
        """Log-probabilities of target and reference at the response positions, without gradient; None where there is
        none."""
        teacher = reference = None
        if self.reference is not None:
            reference = log_probs_of(self.reference, rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        if self.model is not None:
            teacher = self._transformed(self.model.log_probs(rollouts, student), reference)
        return teacher, reference

    def _transformed(self, teacher: LogProbs, reference: LogProbs | None) -> LogProbs:
        transform = self.config.transform
        first = reference if transform.needs_reference else None
        return torch.no_grad()(lambda at: transform(teacher(at), None if first is None else first(at)))

    def has_target(self, rollouts: Rollouts) -> Tensor | None:
        """bool[B, R]: where there is a target; None: everywhere. A row whose context stayed empty has none."""
        has_target_BR = None if self.model is None else self.model.has_target(rollouts)
        if self.config.context == "none":
            return has_target_BR
        has_context_BR = rollouts.has_context_B[:, None].expand(rollouts.trainable_BR.shape)
        return has_context_BR if has_target_BR is None else has_target_BR & has_context_BR

    def context_limit(self, student: GPT) -> int:
        """Tokens that all models read at most which may read a context."""
        models = [] if self.model is None else self.model.models
        return min([student.config.context, *(model.config.context for model in models)])

    def cost(self, rollouts: Rollouts, student: GPT) -> tuple[int, float]:
        """Tokens read and FLOPs spent to score these rows, contexts included; a row's last token is only a target."""
        bare_B = rollouts.prompt_B + rollouts.length_B
        context_B = torch.tensor([len(c) for c in rollouts.context or [()] * len(rollouts)], device=bare_B.device)
        readers = [] if self.model is None else self.model.readers(rollouts, student)
        lengths = [(model, (bare_B + context_B)[rows_B]) for model, rows_B in readers]
        if self.reference is not None:
            lengths.append((self.reference, bare_B))
        tokens = sum(int(length_B.sum()) for _, length_B in lengths)
        return tokens, sum((forward_flops(model.config, length_B - 1) for model, length_B in lengths), 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.model is None else self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.model is not None:
            self.model.load_state_dict(state)
