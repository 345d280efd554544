"""Sampling with continuous batching: prompts are prefilled once, then every row of the batch grows by one token a step.

Finished rows leave the batch and waiting prompts take their places, so no step is spent on a nearly empty batch.

The invariant that matters: the sample of a prompt depends on the model, the settings, the generator and the prompt's
place in the list, not on its neighbours; and each log-probability is that of a forward pass over the finished text.

Legend: B prompts, A rows in the batch, M rows coming in, U different prompts among them, T new tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.decode.cache import KVCache
from models.decode.decoder import Decoder, prefill
from models.gpt import GPT

PREFILL_ROWS = 32  # different prompts of similar length in one prefill: more would read more padding
LEAVE_SHARE = 1 / 16  # finished rows leave the batch once they are this share of it, at the cost of moving as many


Generators = torch.Generator | Sequence[torch.Generator]  # one for all prompts, or one for each


class Samples(NamedTuple):
    """Continuations, on the model's device; behind a row's end `pad` and log-probabilities of 0."""

    tokens_BT: Tensor  # int64; new tokens only, with the final eos; T is the longest row's length
    lengths_B: Tensor  # int64; new tokens of each row, eos included
    logprobs_BT: Tensor  # float32, nats: under the model at temperature 1, nothing filtered
    sampling_logprobs_BT: Tensor  # float32, nats: under the distribution that was sampled from (all 0 when greedy)
    finished_B: Tensor  # bool: ended by eos, rather than by max_new_tokens

    @property
    def finish_reasons(self) -> list[str]:
        """`stop` or `length` for each row."""
        return [finish_reason(bool(finished)) for finished in self.finished_B.tolist()]


def finish_reason(finished: bool) -> str:
    """`stop`: ended by eos; `length`: cut at max_new_tokens (the names of the OpenAI API)."""
    return "stop" if finished else "length"


@torch.no_grad()
def sample(
    model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, temperature: float = 1.0, top_k: int = 0,
    top_p: float = 1.0, eos: int, pad: int, generator: Generators | None = None, max_rows: int = 128,
) -> Samples:  # fmt: skip
    """Continue every prompt until `eos` or for `max_new_tokens`.

    For several samples of a prompt, repeat it: repeats that enter the batch together are prefilled once. temperature 0
    takes the most likely token and needs no generator. top_k keeps the k most likely tokens (and ties; 0 keeps all),
    then top_p the smallest set of most likely tokens with this probability (Holtzman et al. 2020). The generator always
    advances by one draw per prompt and possible new token; with one for each prompt, a prompt's draws are its own
    wherever it stands. `max_rows` bounds the rows of the batch, hence memory; it changes results only by rounding.
    Raises ValueError for a setting out of range, an empty prompt, or a prompt too long for `max_new_tokens` in the
    model's context; FloatingPointError for logits that are not finite.
    """
    _check(temperature, top_k, top_p, generator, max_rows)
    check_prompts(model, prompts, max_new_tokens)
    if generator is not None and temperature > 0:
        uniform_BT = uniforms(generator, len(prompts), max_new_tokens, model.embed.weight.device)
    settings = (temperature, top_k, top_p)
    batch = _Batch(model, prompts, max_new_tokens, eos, min(max_rows, len(prompts)))
    while batch.fill():
        logp_AV = F.log_softmax(batch.logits_AV, dim=-1)
        if temperature == 0:
            sampling_AV, token_A1 = None, logp_AV.argmax(-1, keepdim=True)
        else:
            sampling_AV = logp_AV if settings == (1, 0, 1) else sampling_logprobs(logp_AV, *settings)
            token_A1 = inverse_cdf_sample(sampling_AV, uniform_BT[batch.row_A, batch.step_A])
        batch.advance(token_A1, logp_AV, sampling_AV)
    return _results(batch, eos, pad)


def uniforms(generator: Generators, rows: int, columns: int, device: torch.device) -> Tensor:
    """Draws from [0, 1), float32[rows, columns]; with a generator for each row, each row from its own."""
    if isinstance(generator, torch.Generator):
        return torch.rand(rows, columns, generator=generator, device=generator.device).to(device)
    return torch.stack([torch.rand(columns, generator=own, device=own.device) for own in generator]).to(device)


class _Batch:
    """The rows in the batch: the cache, which prompt each continues, the logits of its next token; and the results."""

    def __init__(
        self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos: int, max_rows: int
    ) -> None:
        self.model, self.max_new_tokens, self.eos, self.max_rows = model, max_new_tokens, eos, max_rows
        self.device = model.embed.weight.device
        self.prompts = [tuple(prompt) for prompt in prompts]
        # Popped from the end, so longest first and equal prompts together: rows of one prefill need about as many
        # columns of the cache, and a repeated prompt is read once.
        self.waiting = sorted(range(len(prompts)), key=lambda row: (len(self.prompts[row]), self.prompts[row]))
        self.cache = KVCache(model, max_rows, len(self.prompts[self.waiting[-1]]) + max_new_tokens - 1, empty=True)
        self.decode = Decoder(model, self.cache)
        shape = (len(prompts), max_new_tokens)
        self.tokens_BT = torch.full(shape, eos, device=self.device)
        self.logprobs_BT, self.sampling_logprobs_BT = torch.zeros(2, *shape, device=self.device)
        self.row_A = self.step_A = torch.zeros(0, dtype=torch.long, device=self.device)
        self.open_A = torch.ones(0, dtype=torch.bool, device=self.device)
        self.logits_AV = torch.zeros(0, model.config.vocab_size, device=self.device)

    def fill(self) -> bool:
        """Admit waiting prompts while enough rows are free. False when nothing is left to do."""
        while self.waiting and self.max_rows - self.cache.n_rows >= min(len(self.waiting), PREFILL_ROWS, self.max_rows):
            self._prefill()
        return self.cache.n_rows > 0

    def _next_rows(self) -> tuple[list[int], dict[tuple[int, ...], int]]:
        """The next rows, at most PREFILL_ROWS different prompts and no more than fit; and the place of each prompt."""
        rows, place = [], {}
        while self.waiting and len(rows) < self.max_rows - self.cache.n_rows:
            prompt = self.prompts[self.waiting[-1]]
            if len(place) == PREFILL_ROWS and prompt not in place:
                break
            place.setdefault(prompt, len(place))
            rows.append(self.waiting.pop())
        return rows, place

    def _prefill(self) -> None:
        rows, place = self._next_rows()
        read, logits_UV = prefill(self.model, list(place))
        source_M = torch.tensor([place[self.prompts[row]] for row in rows], device=self.device)
        self.cache.append_rows(read, source_M)
        self.row_A = torch.cat((self.row_A, torch.tensor(rows, device=self.device)))
        self.step_A = torch.cat((self.step_A, torch.zeros_like(source_M)))
        self.open_A = torch.cat((self.open_A, torch.ones_like(source_M, dtype=torch.bool)))
        self.logits_AV = torch.cat((self.logits_AV, logits_UV[source_M]))

    def advance(self, token_A1: Tensor, logp_AV: Tensor, sampling_AV: Tensor | None) -> None:
        """Record one token per row, let finished rows leave, and run the model on the others."""
        at = self.row_A, self.step_A
        self.tokens_BT[at] = token_A1[:, 0]
        self.logprobs_BT[at] = logp_AV.gather(1, token_A1)[:, 0]
        if sampling_AV is not None:
            self.sampling_logprobs_BT[at] = sampling_AV.gather(1, token_A1)[:, 0]
        self.step_A = self.step_A + 1
        full_A = self.step_A == self.max_new_tokens  # such a row has no column left in the cache: it must leave now
        self.open_A = self.open_A & (token_A1[:, 0] != self.eos) & ~full_A
        n_finished = len(token_A1) - int(self.open_A.sum())
        if n_finished and (n_finished >= LEAVE_SHARE * len(token_A1) or full_A.any()):
            old_A = self.cache.keep_rows(self.open_A)
            self.row_A, self.step_A, self.open_A = self.row_A[old_A], self.step_A[old_A], self.open_A[old_A]
            token_A1 = token_A1[old_A]
        self.logits_AV = self.decode(token_A1) if len(token_A1) else self.logits_AV[:0]


def sampling_logprobs(logits_BV: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probabilities of the sampling distribution: temperature (above 0), top-k, then top-p; -inf where removed."""
    logits_BV = logits_BV / temperature
    if 0 < top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -math.inf)
    if top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
        probability_BV = sorted_BV.softmax(-1, dtype=torch.float64)
        before_BV = probability_BV.cumsum(-1) - probability_BV  # of the more likely tokens
        removed_BV = torch.zeros_like(logits_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= top_p)
        logits_BV = logits_BV.masked_fill(removed_BV, -math.inf)
    return F.log_softmax(logits_BV, dim=-1)


def inverse_cdf_sample(logp_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One token per row, [B, 1]: the first whose cumulative probability exceeds a float32 uniform from [0, 1). In
    float64, so that rounding can neither select a removed token nor run past the last one."""
    cumulative_BV = logp_BV.double().exp_().cumsum(-1)
    target_B1 = uniform_B.double()[:, None] * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, target_B1, right=True)


def token_logprobs(model: GPT, tokens_BT: Tensor) -> Tensor:
    """log p(token t | tokens before it), teacher-forced: [B, T-1], nats, for t = 1 .. T-1. Differentiable."""
    logp_BTV = F.log_softmax(model(tokens_BT[:, :-1]), dim=-1)
    return logp_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0]


def _check(temperature: float, top_k: int, top_p: float, generator: Generators | None, max_rows: int) -> None:
    has_generator = generator is not None or temperature == 0
    for name, value, right, expected in (
        ("temperature", temperature, temperature >= 0 and math.isfinite(temperature), "0 (greedy) or more"),
        ("top_k", top_k, top_k >= 0, "0 (all tokens) or more"),
        ("top_p", top_p, 0 < top_p <= 1, "a number above 0, up to 1"),
        ("generator", generator, has_generator, "a torch.Generator unless temperature=0"),
        ("max_rows", max_rows, max_rows >= 1, "at least 1"),
    ):
        if not right:
            raise ValueError(f"{name}={value}: expected {expected}")


def check_prompts(model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise ValueError unless every prompt has tokens and leaves `max_new_tokens` positions of the model's context."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: expected at least 1")
    if not prompts:
        raise ValueError("prompts=[]: expected at least one prompt")
    if min(map(len, prompts)) == 0:
        raise ValueError("prompts: expected at least one token in every prompt")
    longest = max(map(len, prompts))
    context = model.config.context
    if longest + max_new_tokens - 1 > context:
        leaves = f"a prompt of {longest} tokens leaves at most {max(0, context - longest + 1)}"
        raise ValueError(f"max_new_tokens={max_new_tokens}: {leaves} in the model's context={context}")


def _results(batch: _Batch, eos: int, pad: int) -> Samples:
    """The results, without what finished rows wrote between their eos and leaving the batch."""
    is_eos_BT = batch.tokens_BT == eos
    behind_BT = (is_eos_BT.cumsum(1) - is_eos_BT.long()) > 0
    lengths_B = (~behind_BT).sum(1)
    tokens_BT, logprobs_BT, sampling_logprobs_BT = (
        values_BT.masked_fill(behind_BT, blank)[:, : int(lengths_B.max())]
        for values_BT, blank in ((batch.tokens_BT, pad), (batch.logprobs_BT, 0), (batch.sampling_logprobs_BT, 0))
    )
    return Samples(tokens_BT, lengths_B, logprobs_BT, sampling_logprobs_BT, is_eos_BT.any(1))
