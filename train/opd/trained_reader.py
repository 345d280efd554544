"""A self-teacher that learns, too: the student's weights at the prompt with the context (pi-Distill, 2602.04942)."""

from dataclasses import replace

from torch import Tensor

from train.opd.divergence.kl_and_jsd import ReverseKL
from train.opd.log_probs import Targets
from train.opd.loss_terms import DistillationTerm, LossBatch, LossTerm, MicroBatch, OutcomeTerm, Step
from train.opd.rollout_batch import Rollouts
from train.opd.teacher.teacher import log_probs_of


class TrainedReader:
    """share J_teacher + (1 - share) J_student: the same responses once more, behind the prompts with their contexts.

    There they have the same advantages, and the divergence is KL(p, sg q): p reads the context and is trained, q reads
    none. Regularizers stay as they are.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def extend(self, batches: list[LossBatch], step: Step) -> list[LossBatch]:
        """The responses' terms times 1 - share, and a batch of the rows that have a context with its terms."""
        responses, *others = batches
        bare = step.rollouts
        tokens_BT, prompt_B = bare.with_contexts()
        read = replace(bare, tokens_BT=tokens_BT, prompt_B=prompt_B, context=())
        told_B1 = bare.has_context_B[:, None]
        own = [
            self._read(term, told_B1) for term in responses.terms if isinstance(term, DistillationTerm | OutcomeTerm)
        ]
        kept = [self._scaled(term) for term in responses.terms]
        parts = [self._part(rows, read, bare, step) for rows in step.cut(read) if len(rows)]
        return [replace(responses, terms=kept), *others, LossBatch(read, parts, own)]

    def _scaled(self, term: LossTerm) -> LossTerm:
        both = isinstance(term, DistillationTerm | OutcomeTerm)
        return replace(term, coefficient=(1.0 - self.share) * term.coefficient) if both else term

    def _read(self, term: LossTerm, told_B1: Tensor) -> LossTerm:
        """The teacher's own term."""
        form = {"loss": ReverseKL()} if isinstance(term, DistillationTerm) else {}
        coefficient, name = self.share * term.coefficient, f"teacher_{term.name}"
        return replace(term, name=name, count_BR=told_B1 * term.count_BR, coefficient=coefficient, **form)

    @staticmethod
    def _part(rows_M: Tensor, read: Rollouts, bare: Rollouts, step: Step) -> MicroBatch:
        """Some rows, whose target is the student without the context."""

        def ask(_: Rollouts) -> Targets:
            own = bare.rows(rows_M)
            step.totals.add_signals(step.model, own)
            return log_probs_of(step.model, own.tokens_BT, own.prompt_B, own.length_B), None

        return MicroBatch(rows_M, read.rows(rows_M), ask)
