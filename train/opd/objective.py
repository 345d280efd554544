"""The objective that the training loop runs, for all methods alike: draw, score, weigh, sum, log.

Every coefficient is fixed for the whole batch before the first forward pass with gradient, so the loss and its gradient
do not depend on how the batch is cut into micro-batches. Weights that depend on what the models say about the batch are
measured by a pass without gradient first.

Of several processes each draws responses to its share of the prompts and all get the whole batch; each then scores its
share of the rows, with the coefficients of the whole. So the sum of their losses is that of a single process.

Legend: B rows, R response columns, n positions of a block, V vocabulary.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.gpt import GPT
from synth.store.encodings import PHRASE
from synth.world.vocabulary import ANSWER
from train.core.distributed import Group, gradients_averaged, replicate
from train.core.loop import SINGLE_PROCESS, StepOutput
from train.opd.diagnostics.measures import PositionMeasures, StepTotals, response_measures, token_measures
from train.opd.log_probs import BlockwiseLoss, MicroBatchScores, Scored, Signals, blocks, measure, next_token_log_probs
from train.opd.loss_terms import (
    DistillationTerm,
    LossBatch,
    LossTerm,
    MicroBatch,
    Step,
    outcome_term,
    signal_shares,
    term_measures,
)
from train.opd.method import Method
from train.opd.outcome.outcome import GroupOutcome
from train.opd.regularizer import regularizer_terms
from train.opd.rollout_batch import ORIGINS, Prompts, Rollouts
from train.opd.schedule import at_step
from train.opd.source.replay_buffer import BatchSource
from train.opd.teacher.context import add_contexts
from train.opd.teacher.teacher import HiddenStates, Teacher
from train.opd.weight.weight import coefficients

GOLD = ORIGINS.index("gold")


def weigh(
    method: Method,
    rollouts: Rollouts,
    max_new: int,
    step: int = 0,
    signals: Signals | None = None,
    has_target_BR: Tensor | None = None,
) -> list[LossTerm]:
    """The terms of a whole batch at a step: what every position counts, schedules and combiner included."""
    terms: list[LossTerm] = []
    for place, term in enumerate(method.terms):
        share = term.coefficient * at_step(term.schedule, step)
        if share == 0.0:
            continue
        target_BR = has_target_BR if term.divergence.needs_teacher else None
        count_BR = share * coefficients(rollouts, term.weight, max_new, signals, target_BR)
        name = f"also_{place}_{term.divergence.kind}" if place else "divergence"
        divergence = term.divergence if signals is None else term.divergence.prepared(signals)
        terms.append(DistillationTerm(name, count_BR, divergence))
    regularizers = regularizer_terms(rollouts, method.regularizer, method.weight.normaliser, max_new, signals)
    outcome = method.outcome
    if not isinstance(outcome, GroupOutcome):
        return terms + regularizers
    if outcome.modulate is not None:
        outcome = replace(outcome, modulate=outcome.modulate.at(step))
    distil_B1, reward_B1 = (factor_B[:, None] for factor_B in outcome.factors(rollouts))
    terms = [replace(term, count_BR=distil_B1 * term.count_BR) for term in terms]
    count_BR, advantage_BR = outcome.positions(rollouts, max_new, signals)
    count_BR = at_step(outcome.schedule, step) * reward_B1 * count_BR
    guest_B = rollouts.origin_B != ORIGINS.index("student")
    return [*terms, *regularizers, outcome_term(outcome, count_BR, advantage_BR, guest_B)]


class Objective:
    """What `train/core/loop.py` calls for a step: draws the batch, scores it, returns the loss and what it cost.

    A function of (weights, step) beside the frozen models and what the method remembers: copies of the student that
    teach it, responses that are used again, judges that learn; `state_dict` holds them. `model` is the frozen model
    that the source needs;
    `micro_batch` is the most rows of one forward pass, 0 for all; `on_batch(step, rollouts)` sees every batch. Each
    process of a `group` has its part of the loss, times their number, since their gradients are averaged.
    """

    def __init__(
        self,
        method: Method,
        prompts: Prompts,
        teacher: Teacher,
        model: GPT | None = None,
        micro_batch: int = 0,
        on_batch: Callable[[int, Rollouts], None] | None = None,
        group: Group = SINGLE_PROCESS,
    ) -> None:
        self.method, self.teacher, self.group = method, teacher, group
        self.prompts = replace(prompts, judge=method.judge)
        self.source = BatchSource(self.prompts, method.source, model, group)
        self.judges = [] if method.outcome.reward is None else method.outcome.reward.judges(self.prompts, micro_batch)
        self.micro_batch, self.on_batch = micro_batch, on_batch
        self.whole_responses = any(term.divergence.whole_responses for term in method.terms)
        self.losses: list[float] = []  # of the first term, where a divergence changes with them
        self._trained: tuple[GPT, nn.Module] | None = None

    def state_dict(self) -> dict[str, Any]:
        state = {"teacher": self.teacher.state_dict(), "drawer": self.source.state_dict()}
        judges = {"judges": [judge.state_dict() for judge in self.judges]} if self.judges else {}
        return state | judges | ({"losses": self.losses} if self.losses else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state.get("teacher", {}))
        self.source.load_state_dict(state.get("drawer", {}))
        for judge, own in zip(self.judges, state.get("judges", []), strict=True):
            judge.load_state_dict(own)
        self.losses = list(state.get("losses", []))

    def __call__(self, model: GPT, number: int) -> StepOutput:
        """The loss of a step. With micro-batches, the gradients of all but the last are in `.grad` on return; the
        returned loss has the value of the whole batch and the graph of the last."""
        started = time.perf_counter()
        step, generation = self._draw(model, number)
        drawn = time.perf_counter()
        responses, step = self._score(step)
        batches = [replace(responses, terms=self._weigh(step))]
        for extension in self.method.extensions:
            batches = extension.extend(batches, step)
        step.totals.shares |= signal_shares(batches[0].terms, step.rollouts.group_B)
        loss = self._sum(batches, step)
        if self.on_batch is not None:
            self.on_batch(number, step.rollouts)
        gold = sum(int((part.rollouts.origin_B == GOLD).sum()) for batch in batches for part in batch.parts)
        return self._output(loss, step, generation, drawn - started, gold)

    def _draw(self, model: GPT, number: int) -> tuple[Step, float]:
        """The responses, with what their teacher reads before them; and this process's FLOPs for them."""
        self.teacher.follow(model, number)
        rollouts, flops, batch = self.source(model, number)
        rollouts = replace(rollouts, first=batch * self.prompts.count)
        totals, context = StepTotals(), self.method.teacher.context
        for judge in self.judges:
            rollouts, loss, tokens, spent, shares = judge(model, rollouts)
            totals.add_judge(loss, tokens, spent, shares, counts=self.group.is_main)  # every process trained the same
        if context != "none":
            rollouts = add_contexts(rollouts, context, self.prompts, batch, self.teacher.context_limit(model))
        answer = ANSWER if self.prompts.tokens.name == PHRASE else None
        positions = PositionMeasures(rollouts, answer)
        step = Step(model, number, batch, rollouts, self.prompts, self.teacher, self._cut, totals, positions)
        return step, flops

    def _cut(self, rollouts: Rollouts) -> list[Tensor]:
        """The rows of each micro-batch of this process."""
        return rollouts.chunks(self.micro_batch, self.group.rank, self.group.world_size)

    def _score(self, step: Step) -> tuple[LossBatch, Step]:
        """The responses in micro-batches, each with its targets; and the signals that the method's weights need."""
        asks = self._asks_teacher(step.number)
        responses = LossBatch(step.rollouts, step.parts(step.rollouts, asks), [], logged=True)
        step.positions.has_target_BR = self.teacher.has_target(step.rollouts) if asks else None
        needs = self.method.needs if asks else self.method.regularizer.needs
        if not needs:
            return responses, step
        more = {"log_p_contrast": step.contrast()} if "log_p_contrast" in needs else {}
        scored, size = self._scored(responses.parts, step), step.model.config.vocab_size
        return responses, replace(step, signals=measure(needs, step.rollouts, scored, size, self.group, more))

    def _asks_teacher(self, number: int) -> bool:
        """Whether this step needs the log-probabilities of teacher or reference; where schedules are 0 it does not."""
        outcome = self.method.outcome
        modulates = bool(outcome.modulate or outcome.needs) and at_step(outcome.schedule, number) > 0.0
        distils = any(at_step(term.schedule, number) > 0.0 for term in self.method.terms)
        return modulates or distils or self.method.regularizer.needs_reference

    def _scored(self, parts: list[MicroBatch], step: Step) -> Iterator[tuple[Tensor, Scored]]:
        """All blocks of positions, without gradient, each with the rows of its micro-batch."""
        for part in parts:
            scores = MicroBatchScores(HiddenStates(step.model), part.targets(keep=True), part.rollouts)
            for block in self._blocks(part, step.model):
                hidden_nC, temperature = scores.hidden_NC[block], self.method.source.trained_at
                log_probs_nV = next_token_log_probs(hidden_nC, step.model.unembedding, temperature)
                yield part.index_M, scores.at(block, log_probs_nV)
            step.totals.add_signals(step.model, part.rollouts)

    def _blocks(self, part: MicroBatch, model: GPT) -> list[slice]:
        return blocks(part.rollouts.length_B, model.config.vocab_size, self.whole_responses)

    def _weigh(self, step: Step) -> list[LossTerm]:
        """The terms of the responses; logs how many of their tokens have a target."""
        has_target_BR = step.positions.has_target_BR
        if has_target_BR is not None:
            name = "has_context" if self.method.teacher.context != "none" else "has_target"
            step.totals.add_share(name, has_target_BR, step.rollouts)
        method = self.method.at(step.number, self.losses)
        return weigh(method, step.rollouts, self.prompts.max_new, step.number, step.signals, has_target_BR)

    def _sum(self, batches: list[LossBatch], step: Step) -> Tensor:
        """The loss of all micro-batches; all but the last have gone backward."""
        parts = [(batch, part) for batch in batches for part in batch.parts]
        hidden = self._replicated(step.model)
        total = torch.zeros(())
        for i, (batch, part) in enumerate(parts):
            last = i == len(parts) - 1
            with gradients_averaged(step.model, hidden, last):
                loss = self._micro_batch_loss(batch, part, hidden, step) * self.group.world_size
                if not last:
                    loss.backward()
                    loss = loss.detach()
            total = total + loss
        return total

    def _replicated(self, model: GPT) -> nn.Module:
        """What gives the student's hidden states in training; made when its weights are those to start from."""
        if self._trained is None or self._trained[0] is not model:
            self._trained = model, replicate(HiddenStates(model), model, self.group)
        return self._trained[1]

    def _micro_batch_loss(self, batch: LossBatch, part: MicroBatch, hidden: nn.Module, step: Step) -> Tensor:
        """A micro-batch's part of the loss, block by block."""
        scores = MicroBatchScores(hidden, part.targets(), part.rollouts)
        terms = [term.rows(part.index_M) for term in batch.terms]
        cuts, temperature = self._blocks(part, step.model), self.method.source.trained_at
        total = BlockwiseLoss(scores.hidden_NC, step.model.unembedding, cuts, temperature)
        for block in total:
            scored = scores.at(block, total.log_probs())
            values = {term.name: term(scored) for term in terms}
            self._log(batch, part, terms, values, scored, step)
            total.add(sum(values.values(), 0.0 * scored.student_NV[:, 0].sum()))  # a graph even where nothing counts
            del scored, values  # before the next block is made
        step.totals.add_update(step.model, part.rollouts)
        return total.loss()

    def _log(
        self,
        batch: LossBatch,
        part: MicroBatch,
        terms: list[LossTerm],
        values: dict[str, Tensor],
        scored: Scored,
        step: Step,
    ) -> None:
        """Notes a block's terms, and what its positions measure."""
        step.totals.add_terms(values)
        if batch.logged:
            measures = token_measures(scored, part.rollouts.eos) | term_measures(terms, scored)
            step.positions.add(part.index_M, scored, measures)

    def _output(self, loss: Tensor, step: Step, generation: float, seconds: float, gold: int) -> StepOutput:
        """The loss with the metrics of the whole batch, and what the step cost."""
        totals, positions = step.totals, step.positions
        totals.gather(self.group)
        positions.gather(self.group)
        if self.method.changes and "divergence" in totals.terms:
            self.losses.append(totals.terms["divergence"])
        generation, documents = self.group.sum([generation, gold])
        generated = 0 if generation == 0.0 else int(step.rollouts.length_B.sum())
        return StepOutput(
            loss=loss,
            metrics=totals.metrics() | positions.means() | response_measures(step.rollouts),
            tokens=totals.tokens["update"],
            flops={"generation": generation + totals.flops.pop("futures", 0.0), **totals.flops},
            tokens_by_kind={"generation": generated, **totals.tokens},
            seconds={"generation": seconds, "teacher": totals.teacher_seconds},
            documents=int(documents),
        )
