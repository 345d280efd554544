"""Responses that more than one model, or more than one attempt, had a part in: blend, spliced, revision.

Legend: B rows, R response columns, V vocabulary.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.decode.cache import KVCache
from models.decode.decoder import Decoder
from models.decode.sampling import Samples, inverse_cdf_sample, sample
from models.gpt import GPT
from synth.contexts.sections import written
from synth.problem.arrays import Problems
from synth.world import vocabulary as W
from synth.world.vocabulary import EOS, PAD
from train.core.batch_flops import forward_flops
from train.opd.rollouts import ORIGINS, Rollouts, join
from train.opd.source.samplers import (
    Prompts,
    SourceConfig,
    answered_by,
    asked,
    assemble,
    generation_flops,
    generator,
    repeated,
)


class Drawn(NamedTuple):
    """Continuations: tokens int64[B, R] padded, lengths int64[B], log-probabilities float32[B, R]."""

    tokens_BR: Tensor
    length_B: Tensor
    behaviour_BR: Tensor


@torch.no_grad()
def blended(
    a: GPT, b: GPT, share: float, prompts: list[list[int]], max_new: int, temperature: float, eos: int, pad: int, dice
) -> Drawn:
    """Continue prompts token by token from (1 - share) a + share b; both models read every prompt and token."""
    device, longest = a.embed.weight.device, max(map(len, prompts))
    length_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens_BT = torch.tensor([prompt + [pad] * (longest - len(prompt)) for prompt in prompts], device=device)
    last_B = torch.arange(len(prompts), device=device) * longest + length_B - 1
    caches = [KVCache(model, len(prompts), longest + max_new) for model in (a, b)]
    logits = [model.forward(tokens_BT, cache, at_N=last_B) for model, cache in zip((a, b), caches, strict=True)]
    for cache in caches:
        cache.truncate(length_B)
    decoders = [Decoder(model, cache) for model, cache in zip((a, b), caches, strict=True)]
    uniform_BR = torch.rand(len(prompts), max_new, generator=dice).to(device)
    open_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens, behaviours = [], []
    for t in range(max_new):
        a_BV, b_BV = (F.log_softmax(z / temperature, dim=-1) for z in logits)
        law_BV = torch.logaddexp(a_BV + np.log1p(-share), b_BV + np.log(share))
        token_B1 = inverse_cdf_sample(law_BV, uniform_BR[:, t]).masked_fill(~open_B[:, None], pad)
        tokens.append(token_B1)
        behaviours.append(law_BV.gather(1, token_B1).masked_fill(~open_B[:, None], 0.0))
        open_B = open_B & (token_B1[:, 0] != eos)
        if t + 1 == max_new or not open_B.any():
            break
        logits = [decode(token_B1) for decode in decoders]
    tokens_BR, behaviour_BR = torch.cat(tokens, dim=1), torch.cat(behaviours, dim=1)
    ended_BR = (tokens_BR == eos).cumsum(1) - (tokens_BR == eos).long() > 0
    return Drawn(tokens_BR, (~ended_BR).sum(1), behaviour_BR)


def blend(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """Teacher-mixed sampling (MiniLLM, 2306.08543): each token from (1 - share) q + share p."""
    documents, times = prompts.documents(step), config.samples
    assert author is not None and times is not None and config.temperature is not None and config.share is not None
    if config.share in (0.0, 1.0):
        return answered_by(prompts, config, step, author if config.share else model, "student")
    texts = asked(documents, times)
    dice = generator(prompts, "rollout", step, times * prompts.max_new)
    ends = prompts.tokens.eos, prompts.tokens.pad
    drawn = blended(model, author, config.share, texts, prompts.max_new, config.temperature, *ends, dice)
    group_B = prompts.first + torch.arange(len(texts), device=drawn.length_B.device) // times
    rollouts = assemble(prompts, texts, repeated(documents, times), *drawn, group_B, "student")
    flops = sum(generation_flops(m, rollouts.prompt_B, drawn.length_B, times) for m in (model, author))
    return rollouts, flops


def rows_of(drawn: Samples) -> list[tuple[list[int], list[float]]]:
    """Tokens and log-probabilities of each continuation."""
    lengths = drawn.lengths_B.tolist()
    both = zip(drawn.tokens_BT.tolist(), drawn.sampling_logprobs_BT.tolist(), lengths, strict=True)
    return [(tokens[:n], logps[:n]) for tokens, logps, n in both]


def padded(rows: list[list], fill: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Ragged rows as one tensor [B, R]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device, dtype=dtype)


def spliced(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """Mixed policy (DASD, 2601.09088): a wrong response is cut at a random point and the teacher finishes it.

    The cut leaves from none to all but one of the student's tokens, uniformly. Right responses stay as they are.
    """
    assert author is not None and config.temperature is not None
    rollouts, flops = answered_by(prompts, config, step, model, "student")
    wrong = np.flatnonzero(~rollouts.verdicts.right)
    if len(wrong) == 0:
        return rollouts, flops
    device, dice = rollouts.prompt_B.device, generator(prompts, "splice", step)
    keep = (torch.rand(len(wrong), generator=dice) * rollouts.length_B[wrong].cpu()).long().tolist()
    tokens, starts = rollouts.tokens_BT.tolist(), rollouts.prompt_B.tolist()
    prefixes = [tokens[row][: starts[row] + n] for row, n in zip(wrong, keep, strict=True)]
    room = prompts.max_new - np.array(keep)
    most = min(int(room.max()), author.config.context - max(map(len, prefixes)))
    eos, pad = prompts.tokens.eos, prompts.tokens.pad
    drawn = sample(author, prefixes, most, temperature=config.temperature, eos=eos, pad=pad, generator=dice)
    responses = [
        tokens[row][s : s + n] for row, (s, n) in enumerate(zip(starts, rollouts.length_B.tolist(), strict=True))
    ]
    behaviours = [row[:n] for row, n in zip(rollouts.behaviour_BR.tolist(), rollouts.length_B.tolist(), strict=True)]
    for row, n, (more, logps), left in zip(wrong, keep, rows_of(drawn), room, strict=True):
        responses[row] = responses[row][:n] + more[:left]
        behaviours[row] = behaviours[row][:n] + logps[:left]
    texts = [tokens[row][: starts[row]] for row in range(len(tokens))]
    length_B = torch.tensor([len(response) for response in responses], device=device)
    response_BR = padded(responses, pad, device, torch.long)
    behaviour_BR = padded(behaviours, 0.0, device, torch.float32)
    problems, group_B = rollouts.problems, rollouts.group_B
    whole = assemble(prompts, texts, problems, response_BR, length_B, behaviour_BR, group_B, "student")
    origin_B = whole.origin_B.clone()
    origin_B[torch.as_tensor(wrong, device=device)] = ORIGINS.index("spliced")
    prefix_B = torch.tensor([len(prefix) for prefix in prefixes], dtype=torch.float64)
    read_B = prefix_B + drawn.lengths_B.cpu() - 1
    return replace(whole, origin_B=origin_B), flops + forward_flops(author.config, read_B)


def revision(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """Self-revision training, phase 1 of SD-Zero (2604.12002): y0, its verdict as a flag, and revisions y1 of it.

    Two rows for each revision: y1 after the prompt that holds y0 and its flag, and y0 + flag + y1 after the bare
    prompt. Both carry the verdict of y1, by which they are kept or left out.
    """
    assert config.revisions is not None and config.temperature is not None
    first, flops = answered_by(prompts, config, step, model, "student")
    times = config.revisions
    tokens, starts, ends = first.tokens_BT.tolist(), first.prompt_B.tolist(), (first.prompt_B + first.length_B).tolist()
    bare = [row[:s] for row, s in zip(tokens, starts, strict=True)]
    tries = [written(row[s:e]) for row, s, e in zip(tokens, starts, ends, strict=True)]
    flags = [W.RIGHT if right else W.WRONG for right in first.verdicts.right]
    told = [[W.ATTEMPT, *y0, flag, *prompt] for y0, flag, prompt in zip(tries, flags, bare, strict=True)]
    asked_again = [prompt for prompt in told for _ in range(times)]
    dice = generator(prompts, "revision", step)
    drawn = sample(
        model, asked_again, prompts.max_new, temperature=config.temperature, eos=EOS, pad=PAD, generator=dice
    )
    flops += generation_flops(
        model, torch.tensor([len(prompt) for prompt in asked_again]), drawn.lengths_B.cpu(), times
    )
    device = first.prompt_B.device
    problems = first.problems.repeat(times)
    group_B = first.group_B.repeat_interleave(times)
    revised = assemble(
        prompts,
        asked_again,
        problems,
        drawn.tokens_BT,
        drawn.lengths_B,
        drawn.sampling_logprobs_BT,
        group_B,
        "revision",
    )
    whole = [[*tries[i // times], flags[i // times], *row] for i, (row, _) in enumerate(rows_of(drawn))]
    texts = asked_again + [bare[i // times] for i in range(len(asked_again))]
    rows = [row for row, _ in rows_of(drawn)] + whole
    length_B = torch.tensor([len(row) for row in rows], device=device)
    response_BR = padded(rows, PAD, device, torch.long)
    tokens_BT, prompt_B = join(texts, response_BR, length_B)
    twice = {name: torch.cat([getattr(revised, name)] * 2) for name in ("group_B", "origin_B")}
    behaviour_BR = F.pad(
        torch.cat([revised.behaviour_BR] * 2), (0, response_BR.shape[1] - revised.behaviour_BR.shape[1])
    )
    behaviour_BR[len(asked_again) :] = 0.0  # nobody drew these rows as they stand
    return (
        Rollouts(
            tokens_BT=tokens_BT,
            prompt_B=prompt_B,
            length_B=length_B,
            trainable_BR=torch.arange(response_BR.shape[1], device=device) < length_B[:, None],
            behaviour_BR=behaviour_BR,
            problems=Problems(*(np.concatenate([field, field]) for field in problems)),
            verdicts=type(revised.verdicts)(*(np.concatenate([field, field]) for field in revised.verdicts)),
            **twice,
        ),
        flops,
    )
