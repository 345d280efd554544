"""Can the teacher finish what the student has begun? Its own success from the student's prefixes, before and behind the
first wrong step (after the recovery experiment of SCOPE, 2604.10688, with the cut where the checker puts it).

A teacher that fails from y_<e cannot say what would have been right there; one that fails from y_<=e is asked for
advice at states that it cannot leave.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.decode.sampling import sample
from models.gpt import GPT
from synth.dataset import Source
from synth.documents import pad_rows
from synth.kernel.rng import key
from synth.ranges import Count, settings
from synth.store.encodings import encoding_of
from train.evaluation.callback import EvaluationCallbackConfig
from train.evaluation.evaluator import Evaluation
from train.opd.diagnostics.measures import first_wrong_span
from train.opd.rollout_batch import Prompts, Rollouts, assemble
from train.opd.teacher.context import add_contexts
from train.opd.teacher.teacher import Teacher

TOGETHER = 64  # continuations of about one length that are sampled side by side


@settings
class OpdPeriodicConfig(EvaluationCallbackConfig):
    """With what only distillation has: `continuations` of the teacher at temperature 1 from each of two prefixes of
    every sampled solution that has a wrong step (0: none; they need samples_per_problem)."""

    continuations: Count = 0  # by the teacher of each wrong prefix, 0 for none

    def __post_init__(self) -> None:
        if self.continuations and not self.samples_per_problem:
            raise ValueError(
                f"evaluate.continuations={self.continuations} has no effect with evaluate.samples_per_problem=0; "
                "accepted: 0, or some samples"
            )


class Recovery:
    """`Periodic`'s `follow`: success rates of the teacher's models, which read the context that the method gives."""

    def __init__(self, teacher: Teacher, source: Source, continuations: int, seed: int) -> None:
        self.teacher, self.source = teacher, source
        self.continuations, self.seed = continuations, seed

    def __call__(self, student: GPT, drawn: Evaluation) -> dict[str, Any]:
        """teacher_full_before, teacher_answer_before, teacher_answer_after: shares of continuations that end in a right
        solution, or a right answer; teacher_prefixes: how many responses were cut. Empty where none has a wrong step,
        or no single model could write (the oracle, a trust region)."""
        rollouts = self._rollouts(drawn)
        if self.teacher.config.context != "none":
            prompts = Prompts(self.source, len(drawn.index), drawn.tokens_NR.shape[1], self.seed)
            rollouts = add_contexts(
                rollouts, self.teacher.config.context, prompts, 0, self.teacher.context_limit(student)
            )
        found_B = drawn.verdicts.first_mistake >= 0
        if self.teacher.config.context != "none":
            found_B = found_B & rollouts.has_context_B.cpu().numpy()
        rows = np.flatnonzero(found_B)
        if not len(rows) or self.teacher.model is None:
            return {}
        part = rollouts.rows(torch.from_numpy(rows).to(rollouts.prompt_B.device))
        writer_B = np.full(len(rows), -1)
        writers = self.teacher.model.writers(part, student)
        for i, (_, who_B) in enumerate(writers):
            writer_B[who_B.cpu().numpy()] = i
        if (writer_B < 0).any():
            return {}
        start_B, stop_B = first_wrong_span(part.verdicts)
        models = [model for model, _ in writers]
        before = self._finished(part, start_B, writer_B, models, drawn.tokens_NR.shape[1], "before")
        after = self._finished(part, stop_B, writer_B, models, drawn.tokens_NR.shape[1], "after")
        return {
            "teacher_full_before": float(before.right.mean()),
            "teacher_answer_before": float(before.answer_right.mean()),
            "teacher_answer_after": float(after.answer_right.mean()),
            "teacher_prefixes": len(rows),
        }

    def _rollouts(self, drawn: Evaluation) -> Rollouts:
        documents, prompts = drawn.documents, Prompts(self.source, len(drawn.index), 1, self.seed)
        texts = [documents.prompt_tokens(i).tolist() for i in range(len(drawn.index))]
        response_BR, length_B = torch.from_numpy(drawn.tokens_NR), torch.from_numpy(drawn.length)
        group_B = torch.from_numpy(np.unique(drawn.index, return_inverse=True)[1])
        behaviour_BR = torch.zeros(response_BR.shape)
        return assemble(prompts, texts, documents.problems, response_BR, length_B, behaviour_BR, group_B, "student")

    def _finished(
        self, part: Rollouts, cut_B: np.ndarray, writer_B: np.ndarray, models: Sequence[GPT], budget: int, what: str
    ) -> Any:
        """The checker's verdicts on prefixes of `cut_B` tokens with the writers' continuations behind them."""
        tokens, times = encoding_of(self.source), self.continuations
        lengths, prompt_B = part.length_B.tolist(), part.prompt_B.tolist()
        context = part.context or [()] * len(part)
        whole: list[list[int]] = [[] for _ in range(len(part) * times)]
        prefix, texts = [], []
        for b, row in enumerate(part.tokens_BT.tolist()):
            prompt, response = row[: prompt_B[b]], row[prompt_B[b] : prompt_B[b] + lengths[b]]
            prefix.append(response[: cut_B[b]])
            texts.append([*context[b], *prompt, *prefix[b]])
        for i, model in enumerate(models):
            rows = sorted(np.flatnonzero(writer_B == i).tolist(), key=lambda b: len(texts[b]))
            asked = [b for b in rows for _ in range(times)]
            for k in range(0, len(asked), TOGETHER):
                some = asked[k : k + TOGETHER]
                shortest, longest = min(len(prefix[b]) for b in some), max(len(texts[b]) for b in some)
                room = max(1, min(budget - shortest, model.config.context - longest))
                generator = torch.Generator().manual_seed(key(self.seed, f"recovery {what} {i}", k))
                out = sample(model, [texts[b] for b in some], room, generator=generator, eos=tokens.eos, pad=tokens.pad)
                for place, b in enumerate(some):
                    written = out.tokens_BT[place, : int(out.lengths_B[place])].tolist()
                    whole[b * times + (k + place) % times] = [*prefix[b], *written][:budget]
        problems = part.problems.repeat(times)
        length_N = np.array([len(row) for row in whole])
        return tokens.check(problems, pad_rows(whole, tokens.pad), length_N)
