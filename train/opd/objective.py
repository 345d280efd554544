"""The objective that the training loop runs, for all methods alike: draw, score, weigh, sum.

Every coefficient is fixed for the whole batch before the first forward pass with gradient, so the loss and its gradient
do not depend on how the batch is cut into micro-batches. Weights that depend on what the models say about the batch are
measured by a pass without gradient first.

Of several processes each draws responses to its share of the prompts and all get the whole batch; each then scores its
share of the rows, with the coefficients of the whole. So the sum of their losses is that of a single process.

Legend: B rows, R response columns, N response positions of a micro-batch, n of a block, C channels, V vocabulary.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from models.gpt import GPT
from synth.store.encodings import PHRASE
from synth.world.vocabulary import ANSWER
from train.core.distributed import Group, gradients_averaged, replicate
from train.core.loop import SINGLE_PROCESS, StepOutput
from train.opd.checks import at_step
from train.opd.chunked_loss import blocks, fused
from train.opd.diagnostics.batch_metrics import Board, push_measures, response_measures, token_measures
from train.opd.diagnostics.step_totals import Tally
from train.opd.divergence.divergence import DivergenceConfig, divergence, nll
from train.opd.method import Method
from train.opd.outcome import COMBINERS, NORMALISER, advantages, policy_gradient, rewards
from train.opd.regularizer import POSITION, regularizer_coefficients
from train.opd.rollouts import Rollouts
from train.opd.signals import Signals, measure
from train.opd.source.rollout_buffer import Drawer
from train.opd.source.samplers import Prompts, gold
from train.opd.teacher.contexts import told
from train.opd.teacher.targets import Scored, Scores, Targets, Teacher
from train.opd.teacher.teacher_models import States, logprobs
from train.opd.topd import Forks, future_coefficients, look
from train.opd.weight.weight import WeightConfig, coefficients

FUTURE = DivergenceConfig("fkl")
Piece = Callable[[nn.Module], Tensor]  # from the student's states, a micro-batch's part of the loss


@dataclass(frozen=True)
class Coefficients:
    """What every response position of a batch counts in each term of the loss; fixed before the batch is cut.

    terms: one for each distillation term; empty where distillation is switched off. regularizers: by name.
    """

    terms: list[Tensor]
    regularizers: dict[str, Tensor] = field(default_factory=dict)
    outcome_BR: Tensor | None = None
    advantage_B: Tensor | None = None

    def rows(self, index_M: Tensor) -> "Coefficients":
        """Those of some rows."""
        return Coefficients(
            [term_BR[index_M] for term_BR in self.terms],
            {name: count_BR[index_M] for name, count_BR in self.regularizers.items()},
            None if self.outcome_BR is None else self.outcome_BR[index_M],
            None if self.advantage_B is None else self.advantage_B[index_M],
        )


def weigh(
    method: Method,
    rollouts: Rollouts,
    max_new: int,
    step: int = 0,
    signals: Signals | None = None,
    known_BR: Tensor | None = None,
) -> Coefficients:
    """The coefficients of a whole batch at a step, schedules and combiner included."""
    distil, reward = at_step(method.schedule, step), at_step(method.outcome.schedule, step)
    terms = []
    for term in method.terms if distil > 0.0 else []:
        known = known_BR if term.divergence.needs_teacher else None
        terms.append(distil * term.coefficient * coefficients(rollouts, term.weight, max_new, signals, known))
    normaliser = method.weight.normaliser
    regularizers = regularizer_coefficients(rollouts, method.regularizer, normaliser, max_new, signals)
    if method.outcome.kind == "none":
        return Coefficients(terms, regularizers)
    factors = COMBINERS[method.outcome.combiner](rewards(rollouts, method.outcome), method.outcome.weight)
    distil_B, reward_B = (factor_B[:, None] for factor_B in factors)
    outcome_BR = coefficients(rollouts, WeightConfig(normaliser=NORMALISER[method.outcome.kind]), max_new)
    advantage_B = advantages(rollouts, method.outcome)
    terms = [distil_B * term_BR for term_BR in terms]
    return Coefficients(terms, regularizers, reward * reward_B * outcome_BR, advantage_B)


def loss_terms(method: Method, scored: Scored, counts: Coefficients) -> tuple[Tensor, dict[str, Tensor]]:
    """The part of the loss of some positions, and its terms by name (detached). Parts of a batch add up."""
    at = (scored.row_N, scored.time_N)
    terms = {}
    for place, (term, count_BR) in enumerate(zip(method.terms, counts.terms, strict=False)):
        name = f"also_{place}_{term.divergence.kind}" if place else "divergence"
        terms[name] = (count_BR[at] * divergence(scored, term.divergence)).sum()
    for name, count_BR in counts.regularizers.items():
        terms[name] = (count_BR[at] * POSITION[name](scored)).sum()
    if counts.outcome_BR is not None and counts.advantage_B is not None:
        gain_N = policy_gradient(scored, counts.advantage_B, method.outcome)
        terms["outcome"] = (counts.outcome_BR[at] * gain_N).sum()
    loss = sum(terms.values(), 0.0 * scored.student_NV[:, 0].sum())  # a graph even where nothing counts
    return loss, {name: value.detach() for name, value in terms.items()}


class Objective:
    """What `train/core/loop.py` calls for a step: draws the batch, scores it, returns the loss and what it cost.

    A function of (weights, step) beside the frozen models and what the method remembers: copies of the student that
    teach it, responses that are used again; `state_dict` holds both. `author` is the frozen model that the source
    needs; `micro_batch` is the most rows of one forward pass, 0 for all; `watch(step, rollouts)` sees every batch. Of
    the processes of a `group` each has its part of the loss, times their number, since their gradients are averaged.
    """

    def __init__(
        self,
        method: Method,
        prompts: Prompts,
        teacher: Teacher,
        author: GPT | None = None,
        micro_batch: int = 0,
        watch: Callable[[int, Rollouts], None] | None = None,
        group: Group = SINGLE_PROCESS,
    ) -> None:
        self.method, self.prompts, self.teacher, self.group = method, prompts, teacher, group
        self.drawer = Drawer(prompts, method.source, author, group)
        self.micro_batch, self.watch = micro_batch, watch
        self.whole_rows = any(term.divergence.gamma is not None for term in method.terms)
        self._trained: tuple[GPT, nn.Module] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict(), "drawer": self.drawer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state.get("teacher", {}))
        self.drawer.load_state_dict(state.get("drawer", {}))

    def __call__(self, model: GPT, step: int) -> StepOutput:
        """The loss of a step. With micro-batches, the gradients of all but the last are in `.grad` on return; the
        returned loss has the value of the whole batch and the graph of the last."""
        started = time.perf_counter()
        self.teacher.follow(model, step)
        rollouts, generation, batch = self.drawer(model, step)
        rollouts = replace(rollouts, first=batch * self.prompts.count)
        if self.method.teacher.context != "none":
            room = min([model.config.context, *(m.config.context for m in self.teacher.params.models)])
            rollouts = told(rollouts, self.method.teacher.context, self.prompts, batch, room)
        drawn = time.perf_counter()
        tally = Tally()
        board = Board(rollouts, ANSWER if self.prompts.tokens.name == PHRASE else None)
        pieces = [*self._pieces(model, rollouts, step, tally, board), *self._gold_pieces(model, batch, tally)]
        loss, states = 0.0, self._averaged(model)
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            with gradients_averaged(model, states, last):
                part = piece(states) * self.group.world_size
                if not last:
                    part.backward()
                    part = part.detach()
            loss = loss + part
        if self.watch is not None:
            self.watch(step, rollouts)
        tally.together(self.group)
        board.together(self.group)
        (generation,) = self.group.sum([generation])
        generated = 0 if generation == 0.0 else int(rollouts.length_B.sum())
        return StepOutput(
            loss=loss,
            metrics=tally.means() | board.means() | response_measures(rollouts),
            tokens=tally.tokens["update"],
            flops={"generation": generation + tally.flops.pop("futures", 0.0), **tally.flops},
            tokens_by_kind={"generation": generated, **tally.tokens},
            seconds={"generation": drawn - started, "teacher": tally.teacher_seconds},
        )

    def _averaged(self, model: GPT) -> nn.Module:
        """What gives the student's states in training; made when its weights are those to start from."""
        if self._trained is None or self._trained[0] is not model:
            self._trained = model, replicate(States(model), model, self.group)
        return self._trained[1]

    def _chunks(self, rollouts: Rollouts) -> list[Tensor]:
        """The rows of each micro-batch of this process; of few rows, another process may have none."""
        return rollouts.chunks(self.micro_batch, self.group.rank, self.group.world_size)

    def _blocks(self, part: Rollouts, model: GPT) -> list[slice]:
        return blocks(part.length_B, model.config.vocab_size, self.whole_rows)

    def _sum(self, model: GPT, scores: Scores, part: Rollouts, loss_of: Callable[[Scored], Tensor]) -> Tensor:
        """The sum of a loss over a micro-batch, block by block."""

        def of(at: slice, states_nC: Tensor, weight_VC: Tensor) -> Tensor:
            return loss_of(scores.at(at, logprobs(states_nC, weight_VC)))

        return fused(scores.states_NC, model.unembedding, self._blocks(part, model), of)

    def _asks(self, step: int) -> bool:
        """Whether the teacher has a say at this step; where schedules switch it off it is not asked."""
        outcome = self.method.outcome
        modulates = outcome.modulate is not None and at_step(outcome.schedule, step) > 0.0
        return modulates or at_step(self.method.schedule, step) > 0.0 or self.method.regularizer.needs_reference

    def _pieces(self, model: GPT, rollouts: Rollouts, step: int, tally: Tally, board: Board) -> list[Piece]:
        """The micro-batches of the responses, each a function that returns its part of the loss."""
        chunks, asks = self._chunks(rollouts), self._asks(step)
        parts = [rollouts.rows(index_M) for index_M in chunks]
        asked: dict[int, Targets] = {}

        def target(i: int) -> Targets:
            """The teacher is asked once for each micro-batch."""
            if not asks:
                return None, None
            if i not in asked:
                started = time.perf_counter()
                asked[i] = self.teacher.targets(parts[i], model)
                tally.teacher_seconds += time.perf_counter() - started
                tally.scored(*self.teacher.work(parts[i], model))
            return asked[i]

        known_BR = board.known_BR = self.teacher.known(rollouts) if asks else None
        signals = forks = None
        futures: list[Piece] = []
        needs = self.method.needs if asks else self.method.regularizer.needs
        if needs:

            def scored_parts() -> Iterator[tuple[Tensor, Scored]]:
                for i, index_M in enumerate(chunks):
                    scores = Scores(States(model), target(i), parts[i])
                    for at in self._blocks(parts[i], model):
                        yield index_M, scores.at(at, logprobs(scores.states_NC[at], model.unembedding))
                    tally.measured(model, parts[i])

            signals = measure(needs, rollouts, scored_parts(), model.config.vocab_size, self.group)
        counts = weigh(self.method, rollouts, self.prompts.max_new, step, signals, known_BR)
        if self.method.fork is not None and counts.terms:
            scorer = self.teacher.params.models[0]
            forks = look(rollouts, signals, self.method.fork, model, scorer, self.prompts, step)
            tally.looked(forks, self.group.is_main)
            futures = self._future_pieces(model, forks, counts.terms[0], tally)
            counts = replace(counts, terms=[term_BR * forks.weight_BR for term_BR in counts.terms])
        if known_BR is not None:
            tally.share("told" if self.method.teacher.context != "none" else "known", known_BR, rollouts)

        def piece(i: int, index_M: Tensor, states: nn.Module) -> Tensor:
            scores, part_counts = Scores(states, target(i), parts[i]), counts.rows(index_M)
            asked.pop(i, None)
            divergences = [term.divergence for term in self.method.terms[: len(part_counts.terms)]]

            def loss_of(scored: Scored) -> Tensor:
                loss, terms = loss_terms(self.method, scored, part_counts)
                pushes = push_measures(scored, divergences, self.method.outcome, part_counts.advantage_B)
                board.note(index_M, scored, token_measures(scored, parts[i].eos) | pushes)
                tally.add(terms)
                return loss

            tally.updated(model, parts[i])
            return self._sum(model, scores, parts[i], loss_of)

        return [*(partial(piece, i, index_M) for i, index_M in enumerate(chunks)), *futures]

    def _future_pieces(self, model: GPT, forks: Forks, counts_BR: Tensor, tally: Tally) -> list[Piece]:
        """Forward KL along the teacher's futures of the batch's forks."""
        futures = forks.futures
        if futures is None:
            return []
        counts_FK = future_coefficients(forks, self.method.fork, counts_BR)

        def piece(index_M: Tensor, states: nn.Module) -> Tensor:
            part = futures.rows(index_M)
            tally.scored(*self.teacher.work(part, model))

            def loss_of(scored: Scored) -> Tensor:
                loss = (counts_FK[index_M][scored.row_N, scored.time_N] * divergence(scored, FUTURE)).sum()
                tally.add({"future": loss.detach()})
                return loss

            tally.updated(model, part)
            return self._sum(model, Scores(states, self.teacher.targets(part, model), part), part, loss_of)

        return [partial(piece, index_M) for index_M in self._chunks(futures) if len(index_M)]

    def _gold_pieces(self, model: GPT, batch: int, tally: Tally) -> list[Piece]:
        """The micro-batches of the negative log-likelihood on the step's own documents, if the method has it."""
        weight = self.method.regularizer.gold_nll
        if weight == 0.0:
            return []
        rollouts, _ = gold(self.prompts, self.method.source, batch, model, None)
        counts_BR = coefficients(rollouts, WeightConfig(normaliser=self.method.weight.normaliser), self.prompts.max_new)

        def piece(index_M: Tensor, states: nn.Module) -> Tensor:
            part = rollouts.rows(index_M)

            def loss_of(scored: Scored) -> Tensor:
                loss = weight * (counts_BR[index_M][scored.row_N, scored.time_N] * nll(scored)).sum()
                tally.add({"gold_nll": loss.detach()})
                return loss

            tally.updated(model, part)
            return self._sum(model, Scores(states, (None, None), part), part, loss_of)

        return [partial(piece, index_M) for index_M in self._chunks(rollouts)]
