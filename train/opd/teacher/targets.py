"""Which target the student is compared with: the teacher part of a method. Parameters x context x transform.

The invariant that matters: teacher and student are aligned by response position, never by column. A sequence's output
at column prompt + t - 1 predicts response token t, so a teacher may read a longer prompt than the student and still
score the same tokens. Targets never carry gradient.

Legend: B rows, T columns, N response positions, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.gpt import GPT
from synth.contexts.sections import parse
from synth.oracle.next_token import POLICIES, Oracle
from synth.spec import Spec
from train.core.batch_flops import forward_flops
from train.opd.checks import only, positive, require, unit
from train.opd.rollouts import Rollouts, positions
from train.opd.teacher.teacher_models import (
    Averaged,
    ByOps,
    Exact,
    Frozen,
    Law,
    Live,
    MostLikely,
    Synced,
    Trust,
    frozen,
    law_of,
)
from train.opd.teacher.transforms import SETTINGS, TRANSFORMS


class Scored(NamedTuple):
    """Log-probabilities at N response positions, row after row: all of a batch's, or a block of them.

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


Targets = tuple[Law | None, Law | None]  # of the teacher, after its transform, and of the student at step 0
EXTERNAL, SELF = ("external",), ("init", "ema", "sync", "trust", "live")
ROUTES = ("ops", "likeliest")


@dataclass(frozen=True)
class TeacherConfig:
    """Which target the student is compared with. Settings of other choices must stay null.

    params: external (the checkpoint named by `teacher`, or several) | oracle (with `policy`: continue | correct |
        abstain) | none, or the student: init (as it was at step 0) | ema, trust (with `rate`) | sync (with `every`) |
        live.
    route: with several external teachers, ops (with `bounds`: up to bounds[i] operations teacher i) | likeliest.
    context: what it reads beyond the student's prompt: none, or a recipe of `synth.contexts.sections` such as success2+failure1.
    transform: id | power (with `power`) | temper (`temperature`) | raised (`rise`, `pivot`) | mix (`share`).
    """

    params: str = "external"
    context: str = "none"
    transform: str = "id"
    power: float | None = None
    temperature: float | None = None
    rise: float | None = None
    pivot: float | None = None
    share: float | None = None
    rate: float | None = None
    every: int | None = None
    policy: str | None = None
    route: str | None = None
    bounds: list[int] | None = None

    def __post_init__(self) -> None:
        require("teacher.params", self.params, (*EXTERNAL, "oracle", *SELF, "none"))
        require("teacher.transform", self.transform, TRANSFORMS)
        parse(self.context)
        for transform, names in SETTINGS.items():
            for name in names:
                here = self.transform == transform
                only(f"teacher.{name}", getattr(self, name), here, f"teacher.transform={transform}")
        only("teacher.rate", self.rate, self.params in ("ema", "trust"), "teacher.params=ema or trust")
        only("teacher.every", self.every, self.params == "sync", "teacher.params=sync")
        only("teacher.policy", self.policy, self.params == "oracle", "teacher.params=oracle")
        only("teacher.bounds", self.bounds, self.route == "ops", "teacher.route=ops")
        self._check_values()

    def _check_values(self) -> None:
        if self.policy is not None:
            require("teacher.policy", self.policy, POLICIES)
        if self.route is not None:
            require("teacher.route", self.route, ROUTES)
            if self.params != "external":
                raise ValueError(
                    f"teacher.route={self.route} has no effect with teacher.params={self.params}; accepted: null"
                )
        if self.bounds is not None and (not self.bounds or sorted(set(self.bounds)) != list(self.bounds)):
            raise ValueError(f"teacher.bounds={self.bounds}: accepted are rising numbers of operations")
        positive("teacher.temperature", self.temperature)
        positive("teacher.rise", self.rise)
        unit("teacher.share", self.share)
        unit("teacher.rate", self.rate)
        if self.every is not None and self.every < 1:
            raise ValueError(f"teacher.every={self.every}: accepted are whole numbers from 1")
        if self.params in ("none", "oracle"):
            why = f"has no effect with teacher.params={self.params}"
            if self.context != "none":
                raise ValueError(f"teacher.context={self.context} {why}; accepted: none")
            if self.params == "none" and self.transform != "id":
                raise ValueError(f"teacher.transform={self.transform} {why}; accepted: id")

    @property
    def needs_reference(self) -> bool:
        """Whether the target is built from the student at step 0 too."""
        return self.transform == "power"

    @property
    def is_self(self) -> bool:
        """Whether the student teaches itself."""
        return self.params in SELF


def make(
    config: TeacherConfig, student: GPT, checkpoints: Sequence[GPT] = (), spec: Spec | None = None
) -> Frozen | None:
    """The parameters that a config names; None for none.

    Args:
        student: as it is at step 0.
        checkpoints: the external teachers, in the order of `teacher` and `teachers`.
        spec: of the data, for the oracle.
    Raises ValueError when the number of checkpoints is not that of the route, or the oracle has no closed form.
    """
    if config.params == "external":
        if not checkpoints:
            raise ValueError("teacher=null: this method's teacher.params=external needs the path of a checkpoint")
        wanted = {None: 1, "ops": len(config.bounds or ()) + 1, "likeliest": max(2, len(checkpoints))}[config.route]
        if len(checkpoints) != wanted:
            raise ValueError(
                f"teachers: {len(checkpoints)} checkpoints with teacher.route={config.route}; accepted: {wanted}"
            )
    choices = {
        "none": lambda: None,
        "external": lambda: _routed(config, checkpoints),
        "oracle": lambda: Exact(Oracle(spec, config.policy)),
        "init": lambda: Frozen(deepcopy(student)),
        "ema": lambda: Averaged(student, config.rate),
        "sync": lambda: Synced(student, config.every),
        "trust": lambda: Trust(student, config.rate),
        "live": Live,
    }
    return choices[config.params]()


def _routed(config: TeacherConfig, checkpoints: Sequence[GPT]) -> Frozen:
    if config.route == "ops":
        return ByOps(checkpoints, config.bounds)
    return MostLikely(*checkpoints) if config.route == "likeliest" else Frozen(*checkpoints)


class Teacher:
    """What scores the responses: the parameters and their transform, and where asked for the student at step 0.

    `params` (None: the method has no teacher) and `reference` (None: nothing needs the student at step 0).
    """

    def __init__(self, config: TeacherConfig, params: Frozen | None, reference: GPT | None = None) -> None:
        self.config, self.params = config, params
        self.reference = None if reference is None else frozen(reference)

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step."""
        if self.params is not None:
            self.params.follow(student, step)

    def targets(self, rollouts: Rollouts, student: GPT) -> Targets:
        """Laws of target and reference at the response positions, without gradient; None where there is none."""
        teacher = reference = None
        if self.reference is not None:
            reference = law_of(self.reference, rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        if self.params is not None:
            teacher = self._transformed(self.params.law(rollouts, student), reference)
        return teacher, reference

    def _transformed(self, law: Law, reference: Law | None) -> Law:
        transform = TRANSFORMS[self.config.transform]
        first = reference if self.config.needs_reference else None
        return torch.no_grad()(lambda at: transform(law(at), None if first is None else first(at), self.config))

    def known(self, rollouts: Rollouts) -> Tensor | None:
        """bool[B, R]: where there is a target; None: everywhere. A row whose context stayed empty was told nothing."""
        known_BR = None if self.params is None else self.params.known(rollouts)
        if self.config.context == "none":
            return known_BR
        told_BR = rollouts.told_B[:, None].expand(rollouts.trainable_BR.shape)
        return told_BR if known_BR is None else known_BR & told_BR

    def work(self, rollouts: Rollouts, student: GPT) -> tuple[int, float]:
        """Tokens read and FLOPs spent to score these rows, contexts included; a row's last token is only a target."""
        bare_B = rollouts.prompt_B + rollouts.length_B
        context_B = torch.tensor([len(c) for c in rollouts.context or [()] * len(rollouts)], device=bare_B.device)
        readers = [] if self.params is None else self.params.reads(rollouts, student)
        lengths = [(model, (bare_B + context_B)[rows_B]) for model, rows_B in readers]
        if self.reference is not None:
            lengths.append((self.reference, bare_B))
        tokens = sum(int(length_B.sum()) for _, length_B in lengths)
        return tokens, sum((forward_flops(model.config, length_B - 1) for model, length_B in lengths), 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.params is None else self.params.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.params is not None:
            self.params.load_state_dict(state)


class Scores:
    """A micro-batch to be scored: the student's residual stream, with gradient, and the laws of its targets.

    states: `params.States` of the student, or what averages its gradients over processes. Log-probabilities are made
    for a block of positions at a time, by `at`.
    """

    def __init__(self, states: nn.Module, targets: Targets, rollouts: Rollouts) -> None:
        self.states_NC = states(rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        self.targets, self.length_B = targets, rollouts.length_B
        self.row_N, self.time_N = positions(rollouts.length_B)
        self.token_N = rollouts.tokens_BT[self.row_N, rollouts.prompt_B[self.row_N] + self.time_N]
        self.behaviour_N = rollouts.behaviour_BR[self.row_N, self.time_N]

    def at(self, part: slice, student_nV: Tensor) -> Scored:
        """The record of some positions, given the student's log-probabilities there."""
        teacher, reference = (None if law is None else law(part) for law in self.targets)
        tracks = (self.token_N, self.behaviour_N, self.row_N, self.time_N)
        return Scored(student_nV, teacher, reference, *(track_N[part] for track_N in tracks))
