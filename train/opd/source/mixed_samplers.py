"""Responses that more than one model, or more than one attempt, had a part in.

Student or gold (GKD), student and teacher (DistiLLM-2, LUFFY), token mixtures (MiniLLM, SKD), a student that reads the
solution (HDPO, pi-Distill), wrong responses that the teacher finishes (DASD), revisions (SD-Zero).

Legend: B rows, R response columns, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.decode.cache import KVCache
from models.decode.decoder import Decoder
from models.decode.sampling import Samples, inverse_cdf_sample, sample
from models.gpt import GPT
from synth.contexts.context_tokens import parse, written
from synth.problem.arrays import Problems
from synth.ranges import BadSetting, Positive, Share, settings
from synth.world import vocabulary as W
from synth.world.vocabulary import EOS, PAD
from train.core.budget_and_ledger import forward_flops
from train.opd.log_probs import of_token
from train.opd.rollout_batch import (
    ORIGINS,
    Prompts,
    Rollouts,
    assemble,
    generation_flops,
    group_mean,
    join,
    judged_right,
    repeated_prompts,
    together,
)
from train.opd.schedule import OpenShare, Schedule, at_step
from train.opd.source.rollout_sampling import GoldDocuments, SampledResponses, needed
from train.opd.teacher.context import add_contexts


@settings
class StudentOrGold(SampledResponses, kind="mix"):
    """GKD's mixture (2306.13649): with probability `share`, drawn for each batch, the student answers, else gold."""

    top_p: OpenShare | None = None  # of the nucleus, null for all
    reuse: Positive = 1  # steps that learn from one batch
    share: Share = 0.5  # of batches that the student answers

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        if prompts.chance("mix", step) < self.share:
            return self.sample_from(student, prompts, step, "student")
        return GoldDocuments().draw(prompts, step, student, other)


@settings
class WithTeacher(SampledResponses, kind="with_teacher"):
    """`samples` responses of the student and `guests` of the teacher to each prompt, in one group.

    DistiLLM-2 (2503.07067): one of each, a pair. LUFFY (2504.14945): seven and one.
    """

    reuse: Positive = 1  # steps that learn from one batch
    guests: Positive = 1  # responses of the teacher to each prompt
    guest_rows = True
    model = "teacher"
    writes_as_student = True

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        own, flops = self.sample_from(student, prompts, step, "student")
        guests, more = self.sample_from(needed(other), prompts, step, "teacher", self.guests, "guest")
        return together([own, guests], prompts), flops + more


@settings
class Privileged(SampledResponses, kind="privileged"):
    """Responses of the student while it reads a `context`, for it to learn without (pi-Distill, 2602.04942)."""

    reuse: Positive = 1  # steps that learn from one batch
    context: str = "gold"  # recipe of what the student reads
    whole_batch = True
    writes_as_student = True

    def __post_init__(self) -> None:
        parse(self.context)

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        return self.answers_with_context(prompts, step, student, self.samples, "student")

    def answers_with_context(
        self, prompts: Prompts, step: int, student: GPT, times: int, origin: str
    ) -> tuple[Rollouts, float]:
        """The responses behind the bare prompts; behaviour_BR: their log-probability given the context."""
        gold, _ = GoldDocuments().draw(replace(prompts, gold=prompts.distinct), step, student, None)
        gold = gold.rows(torch.arange(len(gold), device=gold.prompt_B.device).repeat_interleave(times))
        limit = student.config.context - prompts.max_new + int(gold.length_B.min())
        contexts = add_contexts(gold, self.context, prompts, step, limit).context
        bare = [row[:n] for row, n in zip(gold.tokens_BT.tolist(), gold.prompt_B.tolist(), strict=True)]
        texts = [[*context, *row] for context, row in zip(contexts, bare, strict=True)]
        ends = {"eos": prompts.tokens.eos, "pad": prompts.tokens.pad}
        generator = prompts.generator(f"told {self.context}", step)
        drawn = sample(student, texts, prompts.max_new, temperature=self.temperature, generator=generator, **ends)
        own = (drawn.tokens_BT, drawn.lengths_B, drawn.sampling_logprobs_BT)
        read_B = torch.tensor([len(text) for text in texts])
        flops = generation_flops(student, read_B, drawn.lengths_B.cpu(), times)
        return assemble(prompts, bare, gold.problems, *own, gold.group_B, origin), flops


@settings
class Rescued(Privileged, kind="rescued"):
    """The student's responses and, for prompts that it never gets right, those among `tries` with a `context` read that
    are right (HDPO, 2603.23871). The rescues count in no group of an outcome."""

    tries: Positive = 4  # responses with the context to each prompt that is never right

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        own, flops = self.sample_from(student, prompts, step, "student")
        unsolved = own.group_B[group_mean(judged_right(own), own.group_B) == 0.0].unique()
        if not len(unsolved):
            return own, flops
        tried, more = self.answers_with_context(prompts, step, student, self.tries, "privileged")
        flops += more * len(unsolved) / prompts.count  # only these prompts would need to be asked
        kept_B = torch.isin(tried.group_B, unsolved) & (judged_right(tried) > 0.0)
        kept = [tried.rows(kept_B.nonzero().squeeze(1))] if kept_B.any() else []
        return together([own, *kept], prompts), flops


class Drawn(NamedTuple):
    """Continuations: tokens int64[B, R] padded, lengths int64[B], log-probabilities float32[B, R]."""

    tokens_BR: Tensor
    length_B: Tensor
    behaviour_BR: Tensor


@torch.no_grad()
def blended(
    a: GPT,
    b: GPT,
    mixed: Callable[[Tensor, Tensor], Tensor],
    prompts: list[list[int]],
    max_new: int,
    temperature: float,
    eos: int,
    pad: int,
    generator: torch.Generator,
) -> Drawn:
    """Continue prompts token by token from a mixture of two models' log-probabilities; both read every token."""
    device, longest = a.embed.weight.device, max(map(len, prompts))
    length_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens_BT = torch.tensor([prompt + [pad] * (longest - len(prompt)) for prompt in prompts], device=device)
    last_B = torch.arange(len(prompts), device=device) * longest + length_B - 1
    caches = [KVCache(model, len(prompts), longest + max_new) for model in (a, b)]
    logits = [model.forward(tokens_BT, cache, at_N=last_B) for model, cache in zip((a, b), caches, strict=True)]
    for cache in caches:
        cache.truncate(length_B)
    decoders = [Decoder(model, cache) for model, cache in zip((a, b), caches, strict=True)]
    uniform_BR = torch.rand(len(prompts), max_new, generator=generator).to(device)
    open_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens, behaviours = [], []
    for t in range(max_new):
        mixed_BV = mixed(*(F.log_softmax(z / temperature, dim=-1) for z in logits))
        token_B1 = inverse_cdf_sample(mixed_BV, uniform_BR[:, t]).masked_fill(~open_B[:, None], pad)
        tokens.append(token_B1)
        behaviours.append(of_token(mixed_BV, token_B1[:, 0])[:, None].masked_fill(~open_B[:, None], 0.0))
        open_B = open_B & (token_B1[:, 0] != eos)
        if t + 1 == max_new or not open_B.any():
            break
        logits = [decode(token_B1) for decode in decoders]
    tokens_BR, behaviour_BR = torch.cat(tokens, dim=1), torch.cat(behaviours, dim=1)
    ended_BR = (tokens_BR == eos).cumsum(1) - (tokens_BR == eos).long() > 0
    return Drawn(tokens_BR, (~ended_BR).sum(1), behaviour_BR)


class Mixture(SampledResponses):
    """Responses whose every token comes from a mixture of student and teacher."""

    model = "teacher"

    def __post_init__(self) -> None:
        if self.temperature == 0.0:
            raise BadSetting("temperature=0.0: a mixture is of two distributions; accepted: numbers above 0")

    @abstractmethod
    def mixed(self, q_BV: Tensor, p_BV: Tensor) -> Tensor:
        """The mixture's log-probabilities, from those of student and teacher."""

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        documents, times, teacher = prompts.documents(step), self.samples, needed(other)
        texts = repeated_prompts(documents, times)
        generator = prompts.generator("rollout", step, times * prompts.max_new)
        ends = prompts.tokens.eos, prompts.tokens.pad
        drawn = blended(student, teacher, self.mixed, texts, prompts.max_new, self.temperature, *ends, generator)
        group_B = prompts.first + torch.arange(len(texts), device=drawn.length_B.device) // times
        rollouts = assemble(prompts, texts, documents.problems.repeat(times), *drawn, group_B, "student")
        flops = sum(generation_flops(m, rollouts.prompt_B, drawn.length_B, times) for m in (student, teacher))
        return rollouts, flops


@settings
class TokenMixture(Mixture, kind="blend"):
    """Teacher-mixed sampling (MiniLLM, 2306.08543): each token from (1 - share) q + share p."""

    reuse: Positive = 1  # steps that learn from one batch
    share: Share = 0.2  # of the teacher in each token's distribution
    writes_as_student = True

    def mixed(self, q_BV: Tensor, p_BV: Tensor) -> Tensor:
        return torch.logaddexp(q_BV + np.log1p(-self.share), p_BV + np.log(self.share))

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        if self.share in (0.0, 1.0):
            return self.sample_from(needed(other) if self.share else student, prompts, step, "student")
        return super().draw(prompts, step, student, other)


@settings
class Interleaved(Mixture, kind="interleaved"):
    """Speculative distillation (SKD, 2410.11325): the student proposes a token; one that is not among the teacher's `k`
    likeliest is drawn from the teacher instead."""

    reuse: Positive = 1  # steps that learn from one batch
    k: Positive = 8  # the teacher's likeliest tokens, among which a proposal passes

    def mixed(self, q_BV: Tensor, p_BV: Tensor) -> Tensor:
        kept_BV = torch.full_like(q_BV, -torch.inf).scatter(-1, p_BV.topk(self.k).indices, 0.0) + q_BV
        redrawn_B1 = torch.log1p(-kept_BV.exp().sum(dim=-1, keepdim=True).clamp(max=1.0))
        return torch.logaddexp(kept_BV, redrawn_B1 + p_BV)


def rows_of(drawn: Samples) -> list[tuple[list[int], list[float]]]:
    """Tokens and log-probabilities of each continuation."""
    lengths = drawn.lengths_B.tolist()
    both = zip(drawn.tokens_BT.tolist(), drawn.sampling_logprobs_BT.tolist(), lengths, strict=True)
    return [(tokens[:n], logps[:n]) for tokens, logps, n in both]


def padded(rows: list[list], fill: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Ragged rows as one tensor [B, R]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device, dtype=dtype)


@settings
class Spliced(SampledResponses, kind="spliced"):
    """Mixed policy (DASD, 2601.09088): a wrong response is cut at a random point and the teacher finishes it.

    The cut leaves from none to all but one of the student's tokens, uniformly. Right responses stay as they are.
    temperatures: of both samplings, as they change with the step, in place of `temperature`.
    """

    reuse: Positive = 1  # steps that learn from one batch
    temperatures: Schedule | None = None
    model = "teacher"
    whole_batch = True

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        rollouts, flops = self.sample_from(student, prompts, step, "student")
        wrong = np.flatnonzero(~rollouts.right)
        if len(wrong) == 0:
            return rollouts, flops
        generator = prompts.generator("splice", step)
        keep = (torch.rand(len(wrong), generator=generator) * rollouts.length_B[wrong].cpu()).long().tolist()
        at = at_step(self.temperatures, step, self.temperature)
        return self._finished(rollouts, wrong, keep, needed(other), prompts, at, generator, flops)

    def _finished(
        self,
        rollouts: Rollouts,
        wrong: np.ndarray,
        keep: list[int],
        teacher: GPT,
        prompts: Prompts,
        temperature: float,
        generator: torch.Generator,
        flops: float,
    ) -> tuple[Rollouts, float]:
        """The batch where the teacher went on behind the first `keep` tokens of each wrong response."""
        device = rollouts.prompt_B.device
        tokens, starts = rollouts.tokens_BT.tolist(), rollouts.prompt_B.tolist()
        prefixes = [tokens[row][: starts[row] + n] for row, n in zip(wrong, keep, strict=True)]
        budget = prompts.max_new - np.array(keep)
        most = min(int(budget.max()), teacher.config.context - max(map(len, prefixes)))
        eos, pad = prompts.tokens.eos, prompts.tokens.pad
        drawn = sample(teacher, prefixes, most, temperature=temperature, eos=eos, pad=pad, generator=generator)
        lengths = rollouts.length_B.tolist()
        responses = [row[s : s + n] for row, s, n in zip(tokens, starts, lengths, strict=True)]
        behaviours = [row[:n] for row, n in zip(rollouts.behaviour_BR.tolist(), lengths, strict=True)]
        for row, n, (more, logps), left in zip(wrong, keep, rows_of(drawn), budget, strict=True):
            responses[row] = responses[row][:n] + more[:left]
            behaviours[row] = behaviours[row][:n] + logps[:left]
        texts = [row[:start] for row, start in zip(tokens, starts, strict=True)]
        length_B = torch.tensor([len(response) for response in responses], device=device)
        response_BR = padded(responses, pad, device, torch.long)
        behaviour_BR = padded(behaviours, 0.0, device, torch.float32)
        problems, group_B = rollouts.problems, rollouts.group_B
        joined = assemble(prompts, texts, problems, response_BR, length_B, behaviour_BR, group_B, "student")
        origin_B = joined.origin_B.clone()
        origin_B[torch.as_tensor(wrong, device=device)] = ORIGINS.index("spliced")
        prefix_B = torch.tensor([len(prefix) for prefix in prefixes], dtype=torch.float64)
        read_B = prefix_B + drawn.lengths_B.cpu() - 1
        return replace(joined, origin_B=origin_B), flops + forward_flops(teacher.config, read_B)


@settings
class Revision(SampledResponses, kind="revision"):
    """Self-revision training, phase 1 of SD-Zero (2604.12002). An answer y0 is written, the checker's verdict on it is
    put behind it as a flag, and `revisions` new answers y1 are written by a student that reads both.

    Each y1 gives two rows: y1 behind the prompt with y0 and flag, and y0 + flag + y1 behind the bare prompt. Both have
    the verdict of y1, so that weight.sample=[right] keeps both or none. tries: who writes y0 and y1: the student at
    step 0 (initial, as published) or the present one (live): it learns to answer with y0 + flag + y1, then puts such
    answers in the place of y0, and so on; its accuracy fell from 43 to 10%.
    """

    revisions: Positive = 3  # new answers to each first one
    tries: Literal["initial", "live"] = "initial"
    whole_batch = True
    one_solution = False
    context = "attempt"

    @property
    def model(self) -> str | None:
        return "initial" if self.tries == "initial" else None

    def draw(self, prompts: Prompts, step: int, student: GPT, other: GPT | None) -> tuple[Rollouts, float]:
        writer = student if self.model is None else needed(other)
        first, flops = self.sample_from(writer, prompts, step, "student")
        times, tokens = self.revisions, first.tokens_BT.tolist()
        starts, ends = first.prompt_B.tolist(), (first.prompt_B + first.length_B).tolist()
        bare = [row[:s] for row, s in zip(tokens, starts, strict=True)]
        tries = [written(row[s:e]) for row, s, e in zip(tokens, starts, ends, strict=True)]
        flags = [W.RIGHT if right else W.WRONG for right in first.right]
        flagged = [[*y0, flag] for y0, flag in zip(tries, flags, strict=True)]
        texts = [[W.ATTEMPT, *y0, *prompt] for y0, prompt in zip(flagged, bare, strict=True) for _ in range(times)]
        generator = prompts.generator("revision", step)
        drawn = sample(
            writer, texts, prompts.max_new, temperature=self.temperature, eos=EOS, pad=PAD, generator=generator
        )
        read_B = torch.tensor([len(text) for text in texts])
        flops += generation_flops(writer, read_B, drawn.lengths_B.cpu(), times)
        problems, group_B = first.problems.repeat(times), first.group_B.repeat_interleave(times)
        own = (drawn.tokens_BT, drawn.lengths_B, drawn.sampling_logprobs_BT)
        revised = assemble(prompts, texts, problems, *own, group_B, "revision")
        joined = [[*flagged[i // times], *row] for i, (row, _) in enumerate(rows_of(drawn))]
        texts = texts + [bare[i // times] for i in range(len(texts))]
        return doubled(revised, texts, [row for row, _ in rows_of(drawn)] + joined), flops


def doubled(revised: Rollouts, texts: list[list[int]], rows: list[list[int]]) -> Rollouts:
    """The batch of revisions and, behind them, the joined rows of the same problems and verdicts."""
    device, count = revised.prompt_B.device, len(revised)
    length_B = torch.tensor([len(row) for row in rows], device=device)
    response_BR = padded(rows, PAD, device, torch.long)
    tokens_BT, prompt_B = join(texts, response_BR, length_B)
    wider = response_BR.shape[1] - revised.behaviour_BR.shape[1]
    behaviour_BR = F.pad(torch.cat([revised.behaviour_BR] * 2), (0, wider))
    behaviour_BR[count:] = 0.0  # nobody drew these rows as they stand
    return Rollouts(
        tokens_BT=tokens_BT,
        prompt_B=prompt_B,
        length_B=length_B,
        trainable_BR=torch.arange(response_BR.shape[1], device=device) < length_B[:, None],
        behaviour_BR=behaviour_BR,
        group_B=torch.cat([revised.group_B] * 2),
        origin_B=torch.cat([revised.origin_B] * 2),
        problems=Problems(*(np.concatenate([field, field]) for field in revised.problems)),
        verdicts=type(revised.verdicts)(*(np.concatenate([field, field]) for field in revised.verdicts)),
        judge=revised.judge,
    )
