"""Which responses the student learns from: the source part of a method, and the sources that one model writes.

A response ends with its end-of-sequence token or at the budget, `max_new` tokens (`length`: a share of it that changes
with the step). More than one model writes those of `mixed_samplers.py`; `replay_buffer.py` keeps batches.

Legend: B rows.
"""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from models.decode.sampling import sample
from models.gpt import GPT
from synth.documents import Documents
from synth.ranges import NotNegative, Positive, settings
from train.config.schema import Choice
from train.data.batches import pad
from train.opd.rollout_batch import (
    ORIGINS,
    Prompts,
    Rollouts,
    assemble,
    generation_flops,
    repeated_prompts,
    responses_of,
)
from train.opd.schedule import OpenShare, Schedule, at_step


class Sampler(Choice):
    """Who answers the prompts.

    model: which frozen model it needs beside the student: teacher, initial (the student at step 0), or None. samples:
    responses to a prompt. reuse: steps that learn from one batch. capacity: batches kept for later steps, 0: the one
    that is used again. whole_batch: whether its random numbers or verdicts
    depend on the whole batch, so that every process draws it all. one_solution: whether a row holds one solution, in a
    prompt that has no context yet. context: what its writer reads beside the prompt. guest_rows: whether others than
    the student write some rows. writes_as_student: whether the student draws the tokens, now or in an earlier step.
    phrases_only: whether it writes in the phrases of the world.
    """

    model: str | None = None
    context = "none"
    samples = 1
    temperature = 0.0
    reuse = 1
    capacity = 0
    whole_batch = False
    one_solution = True
    guest_rows = phrases_only = False
    writes_as_student = False

    @property
    def from_student(self) -> bool:
        """Whether tokens are random draws of the student's."""
        return self.writes_as_student and self.temperature > 0.0

    @property
    def off_policy(self) -> bool:
        """Whether tokens come from another distribution than that of the student that is trained."""
        return True

    @property
    def trained_at(self) -> float:
        """The temperature of the student that is trained."""
        return 1.0

    def choose(self, prompts: Prompts, step: int, student: GPT, kept: int, memory: dict[str, Any]) -> "Sampler | int":
        """Who answers at a step, or the place of the batch that comes back, of those `kept`. memory: what a source
        remembers between steps beside these; part of a run's state."""
        return kept - 1 if step % self.reuse else self

    @abstractmethod
    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        """The responses of a step, and the FLOPs spent on them. other: the frozen model that `model` names."""


@settings
class GoldDocuments(Sampler, kind="gold"):
    """The documents that the stream itself holds: those of the step's prompts, or of the few there are
    (`data.documents`). Costs nothing to make."""

    whole_batch = True

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        documents, device = prompts.gold_documents(step), next(student.parameters()).device
        return as_rollouts(documents, prompts, prompts.first + torch.arange(len(documents.prompt), device=device)), 0.0


def as_rollouts(documents: Documents, prompts: Prompts, group_B: torch.Tensor) -> Rollouts:
    """Documents as the responses to the prompts of some groups, on the groups' device."""
    device, tokens = group_B.device, prompts.tokens
    padded_BT = pad(documents.tokens, documents.offsets, np.arange(len(documents)), tokens.pad)
    prompt_B = torch.from_numpy(documents.prompt).long().to(device)
    length_B = torch.from_numpy(np.diff(documents.offsets)).long().to(device) - prompt_B
    response_BR = responses_of(documents, documents.tokens, device)
    return Rollouts(
        tokens_BT=torch.from_numpy(padded_BT).long().to(device),
        prompt_B=prompt_B,
        length_B=length_B,
        trainable_BR=responses_of(documents, documents.loss, device) > 0,
        behaviour_BR=responses_of(documents, documents.logp, device).float(),
        group_B=group_B,
        origin_B=torch.full_like(group_B, ORIGINS.index("gold")),
        problems=documents.problems,
        verdicts=tokens.check(documents.problems, response_BR.cpu().numpy(), length_B.cpu().numpy()),
        judge=prompts.judge,
        eos=tokens.eos,
        pad=tokens.pad,
    )


@settings
class FreshSolutions(Sampler, kind="solutions"):
    """`samples` gold solutions of each prompt, each in an order and with letters of its own, where the data leave these
    free. Costs nothing to make."""

    samples: Positive = 4  # solutions of each prompt
    whole_batch = phrases_only = True

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        problems = prompts.gold_documents(step).problems.repeat(self.samples)
        places = np.arange(len(problems.ops))
        name = f"{prompts.stream.stream}/solutions {prompts.seed}"
        documents = prompts.stream.solve(problems, name, step * len(places) + places)
        group_B = torch.as_tensor(places // self.samples, device=next(student.parameters()).device)
        return as_rollouts(documents, prompts, group_B), 0.0


@settings
class SampledResponses(Sampler):
    """samples: responses to each prompt; temperature: of sampling, 0 for greedy."""

    samples: Positive = 1
    temperature: NotNegative = 1.0
    top_p = None
    top_k = None
    temperatures = None
    length = None
    length_of = "budget"

    def sample_from(
        self, model: GPT, prompts: Prompts, step: int, origin: str, times: int | None = None, use: str = "rollout"
    ) -> tuple[Rollouts, float]:
        """Responses of one model, `times` (null: `samples`) to each of the step's prompts. use: of random numbers."""
        documents, times, whole_B = prompts.documents(step), times or self.samples, prompts.max_new
        if self.length_of == "gold":  # of all prompts of the step, so that every process has the same budget
            golds = replace(prompts, first=0, stop=None).documents(step)
            whole_B = float(np.median(np.diff(golds.offsets) - golds.prompt))
        budget = min(prompts.max_new, max(1, round(whole_B * at_step(self.length, step))))
        texts = repeated_prompts(documents, times)
        drawn = sample(
            model,
            texts,
            budget,
            temperature=at_step(self.temperatures, step, self.temperature),
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            eos=prompts.tokens.eos,
            pad=prompts.tokens.pad,
            generator=prompts.generator(use, step, times * budget),
        )
        group_B = prompts.first + torch.arange(len(texts), device=drawn.lengths_B.device) // times
        problems, behaviour_BR = documents.problems.repeat(times), drawn.sampling_logprobs_BT
        rollouts = assemble(prompts, texts, problems, drawn.tokens_BT, drawn.lengths_B, behaviour_BR, group_B, origin)
        return rollouts, generation_flops(model, rollouts.prompt_B, drawn.lengths_B, times)


@settings
class OwnResponses(SampledResponses):
    """Samples of the student. top_p: of the nucleus, top_k: likeliest tokens, null for all. length: how long a response
    may be, as it changes with the step (prefix distillation): a share of the budget `max_new`, or, with length_of=gold,
    of the median gold solution of the step's prompts, then in multiples, too."""

    top_p: OpenShare | None = None
    top_k: Positive | None = None  # likeliest tokens to draw from, null for all
    length: Schedule | None = None
    length_of: Literal["budget", "gold"] = "budget"  # what `length` is a share of
    writes_as_student = True

    def __post_init__(self) -> None:
        if self.length is not None and not min(self.length.start, self.length.end) > 0.0:
            raise ValueError("source.length: accepted are shares above 0, up to 1")
        if self.length_of == "budget":
            check_share("source.length", self.length)

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        return self.sample_from(student, prompts, step, "student")


@settings
class StudentSampler(OwnResponses, kind="student"):
    """Fresh samples of the student as it is now: on-policy. reuse: steps that learn from one batch. tempered: the
    student that is trained is softmax(logits / temperature), too (verl), so that its samples are its own."""

    reuse: Positive = 1
    tempered: bool = False

    @property
    def off_policy(self) -> bool:
        cut = self.top_p is not None or self.top_k is not None
        return self.temperature != self.trained_at or cut or self.reuse > 1

    @property
    def trained_at(self) -> float:
        return (self.temperature or 1.0) if self.tempered else 1.0


@settings
class TeacherSampler(SampledResponses, kind="teacher"):
    """Samples of the teacher: sequence-level distillation (Kim and Rush, 1606.07947)."""

    reuse: Positive = 1  # steps that learn from one batch
    model = "teacher"

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        return self.sample_from(needed(other), prompts, step, "teacher")


@settings
class CachedSampler(SampledResponses, kind="cached"):
    """Samples of the student at step 0 (Lightning OPD, 2604.13010); with `cycle`, the same ones again and again after
    that many batches.

    Nothing is stored: batch i is a function of the frozen weights and i. A repeat costs nothing in the ledger.
    """

    top_p: OpenShare | None = None  # of the nucleus, null for all
    cycle: Positive | None = None  # batches until the same ones come again, null for never
    model = "initial"
    writes_as_student = True

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        batch = step if self.cycle is None else step % self.cycle
        rollouts, flops = self.sample_from(needed(other), prompts, batch, "student")
        return rollouts, flops if batch == step else 0.0


def needed(model: GPT | None) -> GPT:
    """The frozen model of a source that needs one."""
    if model is None:
        raise RuntimeError("this source samples from a frozen model, and none was given")
    return model


def check_share(name: str, schedule: Schedule | None) -> None:
    """Raise ValueError unless all values of a schedule are shares."""
    if schedule is not None and max(schedule.start, schedule.end) > 1.0:
        raise ValueError(f"{name}: accepted are shares from 0 to 1")
