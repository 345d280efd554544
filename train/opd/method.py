"""A method: one choice for each of the six parts, and the objective that the training loop runs for all of them.

    loss = 1/Z sum_it w_it D(T[p]_it, q_it)  +  sum_j lambda_j Reg_j  +  lambda_R Outcome

Nothing here knows a method by name. Every coefficient is fixed for the whole batch before the first forward pass, so
the loss and its gradient do not depend on how the batch is cut into micro-batches.

Legend: B rows, R response columns, N response positions of a micro-batch, V vocabulary.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from models.gpt import GPT
from train.flops import forward_flops, training_flops
from train.loop import StepOutput
from train.opd.diagnostics import distribution_sums, response_measures, stop_sums
from train.opd.divergence import DivergenceConfig, divergence, nll
from train.opd.outcome import COMBINERS, NORMALISER, OutcomeConfig, advantages, policy_gradient
from train.opd.regularizer import RegularizerConfig, regularization
from train.opd.rollouts import Rollouts
from train.opd.source import SOURCES, Prompts, SourceConfig, gold
from train.opd.teacher import Scored, Teacher, TeacherConfig, score
from train.opd.weight import WeightConfig, coefficients


@dataclass(frozen=True)
class Method:
    """A point in the space of six parts. Refuses combinations in which a setting has no effect or a wrong one."""

    name: str
    source: SourceConfig
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    weight: WeightConfig = field(default_factory=WeightConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)

    def __post_init__(self) -> None:
        self._check_teacher()
        self._check_sampling()
        self._check_terms()

    def _check_teacher(self) -> None:
        kind, params = self.divergence.kind, self.teacher.params
        scored, sampled = self.divergence.needs_teacher, self.source.kind == "teacher"
        if (scored or sampled) and params == "none":
            what = "source.kind=teacher" if sampled else f"divergence.kind={kind}"
            raise ValueError(f"teacher.params=none: {what} needs a teacher; accepted: external, init")
        if not (scored or sampled) and params != "none":
            raise ValueError(
                f"teacher.params={params} has no effect with divergence.kind={kind} and "
                f"source.kind={self.source.kind}; accepted: none"
            )
        if not scored and self.teacher.transform != "id":
            raise ValueError(
                f"teacher.transform={self.teacher.transform} has no effect with divergence.kind={kind}; accepted: id"
            )

    def _check_sampling(self) -> None:
        source, fresh = self.source, self.source.kind == "student" and self.source.temperature
        if self.divergence.support == "sampled" and not fresh:
            raise ValueError(
                f"divergence.support=sampled: source.kind={source.kind} at temperature {source.temperature} does not "
                "draw tokens from the student; accepted: source.kind=student with source.temperature above 0"
            )
        if self.outcome.kind != "none" and not (fresh and (source.samples or 0) > 1):
            raise ValueError(
                f"outcome.kind={self.outcome.kind} compares responses to one prompt; accepted: source.kind=student "
                "with source.samples above 1 and source.temperature above 0"
            )

    def _check_terms(self) -> None:
        if self.divergence.kind != "none":
            return
        if self.outcome.kind == "none":
            raise ValueError(
                "divergence.kind=none leaves nothing to learn; accepted: none together with an outcome.kind"
            )
        used = self.weight.normaliser if self.regularizer != RegularizerConfig() else WeightConfig.normaliser
        if self.weight != WeightConfig(normaliser=used):
            raise ValueError(
                f"weight.sample={self.weight.sample}, weight.normaliser={self.weight.normaliser} weigh the divergence, "
                "and divergence.kind=none; accepted: all, token"
            )

    @property
    def needs_teacher(self) -> bool:
        """Whether a checkpoint must be given."""
        return self.teacher.params == "external"

    @property
    def needs_reference(self) -> bool:
        """Whether the student at step 0 must be kept and scored."""
        return self.teacher.needs_reference or self.regularizer.needs_reference

    def check_vocabulary(self, size: int) -> None:
        """Raise ValueError when the divergence's support does not fit a vocabulary of this size."""
        if self.divergence.k is not None and self.divergence.k >= size:
            raise ValueError(
                f"divergence.k={self.divergence.k}: accepted are whole numbers from 1 to {size - 1}, one less than the "
                "vocabulary; divergence.support=full takes all of it"
            )


@dataclass(frozen=True)
class Coefficients:
    """What every response position of a batch counts in each term of the loss; fixed before the batch is cut."""

    distillation_BR: Tensor
    regularizer_BR: Tensor
    outcome_BR: Tensor
    advantage_B: Tensor

    @classmethod
    def of(cls, method: Method, rollouts: Rollouts, max_new: int) -> "Coefficients":
        """The coefficients of a whole batch. Terms that the method does not have get zeros."""
        everywhere_BR = coefficients(rollouts, replace(method.weight, sample="all"), max_new)
        outcome_BR, advantage_B = torch.zeros_like(everywhere_BR), torch.zeros_like(everywhere_BR[:, 0])
        if method.outcome.kind != "none":
            weight = WeightConfig(normaliser=NORMALISER[method.outcome.kind])
            outcome_BR = coefficients(rollouts, weight, max_new)
            advantage_B = advantages(rollouts, method.outcome)
        return cls(coefficients(rollouts, method.weight, max_new), everywhere_BR, outcome_BR, advantage_B)

    def rows(self, index_M: Tensor) -> "Coefficients":
        """Those of some rows."""
        return Coefficients(*(getattr(self, name)[index_M] for name in self.__dataclass_fields__))


def loss_terms(method: Method, scored: Scored, counts: Coefficients) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's part of the loss, and its terms by name (detached). Parts of a batch add up."""
    at = (scored.row_N, scored.time_N)
    loss, terms = scored.student_NV.new_zeros(()), {}
    if method.divergence.kind != "none":
        loss = terms["divergence"] = (counts.distillation_BR[at] * divergence(scored, method.divergence)).sum()
    for name, value_N in regularization(scored, method.regularizer).items():
        terms[name] = (counts.regularizer_BR[at] * value_N).sum()
        loss = loss + terms[name]
    if method.outcome.kind != "none":
        terms["outcome"] = (counts.outcome_BR[at] * policy_gradient(scored, counts.advantage_B)).sum()
        loss = COMBINERS[method.outcome.combiner](loss, terms["outcome"], method.outcome.weight)
    return loss, {name: value.detach() for name, value in terms.items()}


class Objective:
    """What `train/loop.py` calls for a step: draws the batch, scores it, returns the loss and what it cost.

    A pure function of (weights, step) beside the frozen models. `author` writes the responses where the source is the
    teacher; `micro_batch` is the most rows of one forward pass, 0 for all; `watch(step, rollouts)` sees every batch.
    """

    def __init__(
        self,
        method: Method,
        prompts: Prompts,
        teacher: Teacher,
        author: GPT | None = None,
        micro_batch: int = 0,
        watch: Callable[[int, Rollouts], None] | None = None,
    ) -> None:
        self.method, self.prompts, self.teacher, self.author = method, prompts, teacher, author
        self.micro_batch, self.watch = micro_batch, watch

    def __call__(self, model: GPT, step: int) -> StepOutput:
        """The loss of a step. With micro-batches, the gradients of all but the last are in `.grad` on return; the
        returned loss has the value of the whole batch and the graph of the last."""
        started = time.perf_counter()
        draw = SOURCES[self.method.source.kind]
        rollouts, generation = draw(self.prompts, self.method.source, step, model, self.author)
        drawn = time.perf_counter()
        batch = Tally()
        pieces = [*self._pieces(model, rollouts, batch), *self._gold_pieces(model, step, batch)]
        loss = pieces[0]()
        for piece in pieces[1:]:
            loss.backward()
            loss = loss.detach() + piece()
        if self.watch is not None:
            self.watch(step, rollouts)
        generated = 0 if generation == 0.0 else int(rollouts.length_B.sum())
        return StepOutput(
            loss=loss,
            metrics=batch.means() | response_measures(rollouts),
            tokens=batch.tokens["update"],
            flops={"generation": generation, **batch.flops},
            tokens_by_kind={"generation": generated, **batch.tokens},
            seconds={"generation": drawn - started, "teacher": batch.teacher_seconds},
        )

    def _pieces(self, model: GPT, rollouts: Rollouts, batch: "Tally") -> Iterator[Callable[[], Tensor]]:
        """The micro-batches of the responses, each a function that returns its part of the loss."""
        counts = Coefficients.of(self.method, rollouts, self.prompts.max_new)

        def piece(index_M: Tensor) -> Tensor:
            part = rollouts.rows(index_M)
            started = time.perf_counter()
            targets = self.teacher.targets(part)
            batch.teacher_seconds += time.perf_counter() - started
            scored = score(model, targets, part)
            loss, terms = loss_terms(self.method, scored, counts.rows(index_M))
            batch.add(model, self.teacher, part, terms, distribution_sums(scored) | stop_sums(scored, part.eos))
            return loss

        return (partial(piece, index_M) for index_M in rollouts.chunks(self.micro_batch))

    def _gold_pieces(self, model: GPT, step: int, batch: "Tally") -> Iterator[Callable[[], Tensor]]:
        """The micro-batches of the negative log-likelihood on the step's own documents, if the method has it."""
        weight = self.method.regularizer.gold_nll
        if weight == 0.0:
            return
        rollouts, _ = gold(self.prompts, self.method.source, step, model, None)
        counts_BR = coefficients(rollouts, replace(self.method.weight, sample="all"), self.prompts.max_new)

        def piece(index_M: Tensor) -> Tensor:
            part = rollouts.rows(index_M)
            scored = score(model, (None, None), part)
            loss = weight * (counts_BR[index_M][scored.row_N, scored.time_N] * nll(scored)).sum()
            batch.add(model, None, part, {"gold_nll": loss.detach()}, {})
            return loss

        yield from (partial(piece, index_M) for index_M in rollouts.chunks(self.micro_batch))


class Tally:
    """Sums over the micro-batches of a step: terms of the loss, diagnostics, tokens and floating-point operations."""

    def __init__(self) -> None:
        self.terms: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.positions = 0
        self.tokens = {"teacher": 0, "update": 0}
        self.flops = {"teacher": 0.0, "update": 0.0}
        self.teacher_seconds = 0.0

    def add(
        self,
        model: GPT,
        teacher: Teacher | None,
        part: Rollouts,
        terms: dict[str, Tensor],
        sums: dict[str, float],
    ) -> None:
        """Count one micro-batch in."""
        self.terms.update({name: float(value) for name, value in terms.items()})
        read_B = part.prompt_B + part.length_B - 1  # the last token of a row is only a target
        tokens = int((part.prompt_B + part.length_B).sum())
        self.tokens["update"] += tokens
        self.flops["update"] += training_flops(model.config, read_B)
        if sums:
            self.sums.update(sums)
            self.positions += int(part.length_B.sum())
        for frozen in (teacher.model, teacher.reference) if teacher is not None else ():
            if frozen is not None:
                self.tokens["teacher"] += tokens
                self.flops["teacher"] += forward_flops(frozen.config, read_B)

    def means(self) -> dict[str, float]:
        """Terms of the loss as they are, diagnostics per response position, eos per response that ended by itself."""
        ends, eos = self.sums.pop("ends", 0.0), self.sums.pop("eos", 0.0)
        means = {name: value / self.positions for name, value in self.sums.items()}
        terms = {f"loss_{name}": value for name, value in self.terms.items()}
        return {**terms, **means, "eos": eos / ends if ends else 0.0}
