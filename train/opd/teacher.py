"""The target at every response position: whose parameters, under which context, transformed how.

The invariant that matters: teacher and student are aligned by response position, never by column. A sequence's output
at column prompt + t - 1 predicts response token t, so a teacher may read a longer prompt than the student and still
score the same tokens. Targets never carry gradient.

Legend: B rows, T columns, N response positions, V vocabulary.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.gpt import GPT
from train.opd.rollouts import Rollouts, positions
from train.opd.settings import only, require


class Scored(NamedTuple):
    """Log-probabilities at the N response positions of a batch, row after row.

    student_NV: float32, with gradient. teacher_NV: the target after its transform, or None without a teacher.
    reference_NV: the student at step 0, or None where nothing asks for it. token_N: the response tokens.
    behaviour_N: their log-probability when they were drawn. row_N, time_N: which row, which response position.
    """

    student_NV: Tensor
    teacher_NV: Tensor | None
    reference_NV: Tensor | None
    token_N: Tensor
    behaviour_N: Tensor
    row_N: Tensor
    time_N: Tensor


@dataclass(frozen=True)
class TeacherConfig:
    """Which target the student is compared with.

    params: external (the checkpoint named by `teacher`) | init (a frozen copy of the student at step 0) | none.
    context: what the teacher reads beyond the student's prompt: none.
    transform: id | power (with `power`, the exponent lambda) | temper (with `temperature`).
    """

    params: str = "external"
    context: str = "none"
    transform: str = "id"
    power: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        require("teacher.params", self.params, (*PARAMS, "none"))
        require("teacher.context", self.context, CONTEXTS)
        require("teacher.transform", self.transform, TRANSFORMS)
        only("teacher.power", self.power, self.transform == "power", "teacher.transform=power")
        only("teacher.temperature", self.temperature, self.transform == "temper", "teacher.transform=temper")
        if self.temperature is not None and not self.temperature > 0.0:
            raise ValueError(f"teacher.temperature={self.temperature}: accepted are positive numbers")
        if self.params == "none" and self.transform != "id":
            raise ValueError(f"teacher.transform={self.transform} has no effect with teacher.params=none; accepted: id")

    @property
    def needs_reference(self) -> bool:
        """Whether the target is built from the student at step 0 too."""
        return self.transform == "power"


def external(student: GPT, checkpoint: GPT | None) -> GPT:
    """Another model, loaded from the checkpoint that `teacher` names."""
    if checkpoint is None:
        raise ValueError("teacher=null: this method's teacher.params=external needs the path of a checkpoint")
    return checkpoint


def initial(student: GPT, checkpoint: GPT | None) -> GPT:
    """The student itself as it was at step 0."""
    return deepcopy(student)


PARAMS = {"external": external, "init": initial}


def same_prompt(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """No context of its own: the teacher reads exactly what the student reads, in the same tensors."""
    return rollouts.tokens_BT, rollouts.prompt_B


CONTEXTS: dict[str, Callable[[Rollouts], tuple[Tensor, Tensor]]] = {"none": same_prompt}


def identity(p_NV: Tensor, reference_NV: Tensor | None, config: TeacherConfig) -> Tensor:
    """The teacher's distribution as it is."""
    return p_NV


def power(p_NV: Tensor, reference_NV: Tensor | None, config: TeacherConfig) -> Tensor:
    """Reward extrapolation, G-OPD / ExOPD (2602.12125): p^l r^(1-l), renormalised, r the student at step 0.

    l = 1 is the teacher, l = 0 the reference, l > 1 goes beyond the teacher in the direction away from the reference.
    """
    assert config.power is not None and reference_NV is not None
    return torch.log_softmax(config.power * p_NV + (1.0 - config.power) * reference_NV, dim=-1)


def temper(p_NV: Tensor, reference_NV: Tensor | None, config: TeacherConfig) -> Tensor:
    """p^(1/temperature), renormalised: above 1 softer, below 1 sharper (Hinton et al., 1503.02531, section 2)."""
    assert config.temperature is not None
    return torch.log_softmax(p_NV / config.temperature, dim=-1)


TRANSFORMS = {"id": identity, "power": power, "temper": temper}


def frozen(model: GPT) -> GPT:
    """The model in evaluation mode with all gradients off."""
    return model.eval().requires_grad_(False)


def response_logprobs(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Tensor:
    """Log-probabilities of the next token at every response position.

    Only these positions go through the projection to the vocabulary, and the last column, which predicts nothing that
    is scored, is not read at all.

    Args:
        model: maps tokens and flat positions to logits at those positions.
        tokens_BT: int64, prompt and response, padded on the right.
        prompt_B, length_B: tokens of this model's prompt and of the response.
    Returns:
        float32[N, V], N = length_B.sum(), row after row.
    """
    row_N, time_N = positions(length_B)
    at_N = row_N * (tokens_BT.shape[1] - 1) + prompt_B[row_N] - 1 + time_N
    return torch.log_softmax(model(tokens_BT[:, :-1], at_N=at_N).float(), dim=-1)


class Teacher:
    """Frozen models and what is made of them: the target and, where asked for, the reference.

    `model` is the teacher (None: the method has none) and `reference` the student at step 0 (None: nothing needs it).
    """

    def __init__(self, config: TeacherConfig, model: GPT | None, reference: GPT | None) -> None:
        self.config = config
        self.model = None if model is None else frozen(model)
        self.reference = None if reference is None else frozen(reference)

    @torch.no_grad()
    def targets(self, rollouts: Rollouts) -> tuple[Tensor | None, Tensor | None]:
        """Target and reference log-probabilities, each float32[N, V] or None, without gradient."""
        teacher_NV = reference_NV = None
        if self.reference is not None:
            reference_NV = response_logprobs(self.reference, rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        if self.model is not None:
            tokens_BT, prompt_B = CONTEXTS[self.config.context](rollouts)
            teacher_NV = response_logprobs(self.model, tokens_BT, prompt_B, rollouts.length_B)
            teacher_NV = TRANSFORMS[self.config.transform](teacher_NV, reference_NV, self.config)
        return teacher_NV, reference_NV


def score(student: GPT, targets: tuple[Tensor | None, Tensor | None], rollouts: Rollouts) -> Scored:
    """The student's forward pass over rows whose target and reference log-probabilities are `targets`."""
    student_NV = response_logprobs(student, rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
    row_N, time_N = positions(rollouts.length_B)
    return Scored(
        student_NV,
        *targets,
        token_N=rollouts.tokens_BT[row_N, rollouts.prompt_B[row_N] + time_N],
        behaviour_N=rollouts.behaviour_BR[row_N, time_N],
        row_N=row_N,
        time_N=time_N,
    )
