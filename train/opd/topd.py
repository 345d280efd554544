"""Near-future guidance, TOPD (2606.00305): is a high-loss token a real fork, or another wording of the same step?

From the state before a high-loss token student and teacher each write a short future. The verifier says whether both
have then derived the same things rightly: if so the token is a surface mismatch and gets no weight; if not the student
also follows the teacher's future, by forward KL. The paper compares futures by optimal transport between embeddings;
the verifier's state is the exact answer to the same question (ours). Eta, gamma and the share are inferred.

Legend: B rows, R response columns, F forks, K tokens of a future.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.decode.sampling import Samples, sample
from models.gpt import GPT
from synth.documents import pad_rows
from synth.judge.checker import MALFORMED, Verdicts
from synth.problem.arrays import Problems
from synth.ranges import AboveZero, Positive, settings
from train.opd.divergence.kl_and_jsd import ForwardKL
from train.opd.log_probs import Signals
from train.opd.loss_terms import DistillationTerm, LossBatch, LossTerm, Step
from train.opd.rollout_batch import Prompts, Rollouts, assemble, generation_flops
from train.opd.schedule import Discount, OpenShare
from train.opd.weight.token_weights import top


@settings
class LookAhead:
    """candidates: share of positions of the highest reverse KL; limit: how many of them are looked at in a batch.

    tokens: of a future. eta: weight of a teacher's future, gamma: discount of its tokens.
    """

    candidates: OpenShare = 0.2
    limit: Positive = 64
    tokens: Positive = 16
    eta: AboveZero = 0.5
    gamma: Discount = 0.95  # discount of a future's tokens

    def extend(self, batches: list[LossBatch], step: Step) -> list[LossBatch]:
        """Distillation leaves surface mismatches out, and follows the teacher's futures from the forks."""
        responses, *others = batches
        distilled = [term for term in responses.terms if isinstance(term, DistillationTerm)]
        if not distilled or step.signals is None or step.teacher.model is None:
            return batches
        teacher = step.teacher.model.models[0]
        forks = find_forks(step.rollouts, step.signals, self, step.model, teacher, step.prompts, step.number)
        step.totals.add_look_ahead(forks.flops, forks.real / forks.looked if forks.looked else 0.0)
        terms = [
            replace(term, count_BR=term.count_BR * forks.weight_BR) if isinstance(term, DistillationTerm) else term
            for term in responses.terms
        ]
        batches = [replace(responses, terms=terms), *others]
        if forks.futures is None:
            return batches
        count_FK = future_coefficients(forks, self, distilled[0].count_BR)
        future = LossTerm("future", count_FK, ForwardKL())
        return [*batches, LossBatch(forks.futures, step.parts(forks.futures, asks=True), [future])]


class Forks(NamedTuple):
    """weight_BR: 0 at surface mismatches, else 1. futures: the teacher's at each fork, None without forks, with the
    position that each starts from. looked, real: how many candidates, how many forks. flops: of writing the futures."""

    weight_BR: Tensor
    futures: Rollouts | None
    at: tuple[Tensor, Tensor]
    looked: int
    real: int
    flops: float


def derived(verdicts: Verdicts, lengths: np.ndarray, ended: np.ndarray) -> list[tuple]:
    """What each text has derived: parameters of its right steps, whether a step is wrong, whether the answer is there.

    A last step that the window cuts off says nothing yet and is left out.
    """
    found = []
    for row, (length, over) in enumerate(zip(lengths, ended, strict=True)):
        spans = zip(verdicts.kind[row], verdicts.param[row], verdicts.start[row], verdicts.stop[row], strict=True)
        complete = [(kind, param) for kind, param, start, stop in spans if start >= 0 and (over or stop < length)]
        right = frozenset(int(param) for kind, param in complete if kind < MALFORMED)
        wrong = any(kind >= MALFORMED for kind, _ in complete)
        found.append((right, wrong, bool(over and verdicts.answer_right[row])))
    return found


def candidates(rollouts: Rollouts, signals: Signals, config: LookAhead, limit: int) -> tuple[Tensor, Tensor]:
    """Rows and response columns of the batch's high-loss tokens, the highest first; futures end within `limit`."""
    chosen_BR = top(signals["rkl"], config.candidates, rollouts) > 0
    place_R = torch.arange(chosen_BR.shape[1], device=chosen_BR.device)
    chosen_BR &= rollouts.prompt_B[:, None] + place_R <= limit - config.tokens
    row_N, time_N = chosen_BR.nonzero(as_tuple=True)
    best_N = signals["rkl"][row_N, time_N].argsort(descending=True, stable=True)[: config.limit]
    return row_N[best_N], time_N[best_N]


def judged(
    prefixes: list[list[int]], starts: list[int], drawn: Samples, problems: Problems, prompts: Prompts
) -> Verdicts:
    """The checker's verdicts on the responses that begin the prefixes, with the drawn futures behind them."""
    futures = zip(drawn.tokens_BT.tolist(), drawn.lengths_B.tolist(), strict=True)
    texts = [
        [*prefix[start:], *future[:n]] for start, prefix, (future, n) in zip(starts, prefixes, futures, strict=True)
    ]
    lengths = np.array([len(text) for text in texts])
    return prompts.tokens.check(problems, pad_rows(texts, prompts.tokens.pad), lengths)


def find_forks(
    rollouts: Rollouts, signals: Signals, config: LookAhead, student: GPT, teacher: GPT, prompts: Prompts, step: int
) -> Forks:
    """Compares the futures of student and teacher at the batch's high-loss tokens."""
    weight_BR = torch.ones_like(rollouts.behaviour_BR)
    row_N, time_N = candidates(rollouts, signals, config, min(student.config.context, teacher.config.context))
    if len(row_N) == 0:
        return Forks(weight_BR, None, (row_N, time_N), 0, 0, 0.0)
    rows, tokens, texts_BT = row_N.tolist(), prompts.tokens, rollouts.tokens_BT.tolist()
    starts = rollouts.prompt_B[row_N].tolist()
    prefixes = [texts_BT[row][: start + t] for row, start, t in zip(rows, starts, time_N.tolist(), strict=True)]
    problems = rollouts.problems.take(rows)
    prefix_N = torch.tensor([len(prefix) for prefix in prefixes])
    found, flops = [], 0.0
    for name, model in (("student", student), ("teacher", teacher)):
        generator = prompts.generator(f"future {name}", step)
        drawn = sample(
            model, prefixes, config.tokens, temperature=1.0, eos=tokens.eos, pad=tokens.pad, generator=generator
        )
        flops += generation_flops(model, prefix_N, drawn.lengths_B.cpu(), 1)
        verdicts = judged(prefixes, starts, drawn, problems, prompts)
        lengths = time_N.cpu().numpy() + drawn.lengths_B.cpu().numpy()
        found.append(derived(verdicts, lengths, drawn.finished_B.cpu().numpy()))
    fork_N = torch.tensor([a != b for a, b in zip(*found, strict=True)], device=row_N.device)
    weight_BR[row_N[~fork_N], time_N[~fork_N]] = 0.0
    at, real = (row_N[fork_N], time_N[fork_N]), int(fork_N.sum())
    if real == 0:
        return Forks(weight_BR, None, at, len(rows), 0, flops)
    real_F, length_F = fork_N.nonzero().squeeze(1).tolist(), drawn.lengths_B[fork_N]
    width = int(length_F.max())
    texts, own = [prefixes[i] for i in real_F], (drawn.tokens_BT[fork_N, :width], length_F)
    behaviour_FK, group_F = drawn.sampling_logprobs_BT[fork_N, :width], rollouts.group_B[at[0]]
    futures = assemble(prompts, texts, problems.take(real_F), *own, behaviour_FK, group_F, "teacher")
    return Forks(weight_BR, futures, at, len(rows), real, flops)


def future_coefficients(forks: Forks, config: LookAhead, counts_BR: Tensor) -> Tensor:
    """What the tokens of each future count: eta gamma^k / K of what the token before which it starts counts: [F, K]."""
    if forks.futures is None:
        raise RuntimeError("no token of the batch is a fork")
    inside_FK = forks.futures.trainable_BR.float()
    place_K = torch.arange(inside_FK.shape[1], device=inside_FK.device)
    share_FK = config.eta * config.gamma**place_K * inside_FK / forks.futures.length_B[:, None]
    return share_FK * counts_BR[forks.at][:, None]
