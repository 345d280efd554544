"""Beam search: the most likely continuations of each prompt, by keeping the K best unfinished ones at every step.

Scores and stopping follow `generate(num_beams=K)` of `transformers`, which the tests compare with: a finished text has
the score log-probability / length ** length_penalty (new tokens, eos included), and a prompt is done when it has K
finished texts and no unfinished one can still beat the worst of them. With a generator it is the beam sampling of
Part 2.1 and 2.2 (K = 4): the 2K candidates of a step are drawn without replacement with probability proportional to the
exponential of their scores, instead of being the 2K best.

Legend: P prompts, K beams, V vocabulary, T new tokens.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.decode.cache import KVCache
from models.decode.decoder import Decoder, prefill
from models.decode.sampling import Generators, Samples, check_prompts, uniforms
from models.gpt import GPT


@torch.no_grad()
def beam_search(
    model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, beams: int = 4, length_penalty: float = 1.0,
    eos: int, pad: int, generator: Generators | None = None, max_rows: int = 128,
) -> Samples:  # fmt: skip
    """The best continuation of every prompt, in the form of `models.decode.sampling.sample`. `sampling_logprobs_BT` is
    zero: the probability of drawing a beam's text has no closed form. `max_rows` bounds the rows of a batch (prompts x
    beams). Raises ValueError for beams below 1 or above max_rows, and as `sample` does."""
    check_prompts(model, prompts, max_new_tokens)
    if not 1 <= beams <= max_rows:
        raise ValueError(f"beams={beams}: expected 1 up to max_rows={max_rows}")
    if model.config.vocab_size < 2 * beams:
        raise ValueError(f"beams={beams}: expected at most half the vocabulary of {model.config.vocab_size}")
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    size, found = max_rows // beams, {}
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        search = _Search(model, [list(prompts[row]) for row in rows], max_new_tokens, beams, length_penalty, eos)
        own = [generator[row] for row in rows] if isinstance(generator, Sequence) else generator
        while search.step(own):
            pass
        found.update(zip(rows, (items[0][1:] for items in search.finished), strict=True))  # the best of each prompt
    texts, logprobs = zip(*(found[row] for row in range(len(prompts))), strict=True)
    device = model.embed.weight.device
    tokens_BT = pad_sequence([torch.tensor(tokens, device=device) for tokens in texts], True, pad)
    logprobs_BT = pad_sequence([torch.tensor(values, device=device) for values in logprobs], True)
    lengths_B = torch.tensor([len(tokens) for tokens in texts], device=device)
    finished_B = torch.tensor([tokens[-1] == eos for tokens in texts], device=device)
    return Samples(tokens_BT, lengths_B, logprobs_BT, torch.zeros_like(logprobs_BT), finished_B)


class _Search:
    """The beams of some prompts: row p * K + k of the cache holds beam k of prompt p."""

    def __init__(
        self, model: GPT, prompts: list[list[int]], max_new_tokens: int, beams: int, length_penalty: float, eos: int
    ) -> None:
        self.beams, self.penalty, self.eos = beams, length_penalty, eos
        self.max_new_tokens, n = max_new_tokens, len(prompts)
        device = model.embed.weight.device
        read, logits_PV = prefill(model, prompts)
        self.cache = KVCache(model, n * beams, read.capacity + max_new_tokens - 1, empty=True)
        self.cache.append_rows(read, torch.arange(n, device=device).repeat_interleave(beams))
        self.decode = Decoder(model, self.cache)
        self.logp_PKV = F.log_softmax(logits_PV, -1)[:, None].expand(-1, beams, -1)
        # All beams of a prompt are equal at first, so only one of them may be continued.
        self.score_PK = torch.full((n, beams), -1e9, device=device)
        self.score_PK[:, 0] = 0.0
        self.text_PKT = torch.zeros(n, beams, 0, dtype=torch.long, device=device)
        self.logp_PKT = torch.zeros(n, beams, 0, device=device)
        self.done_P = torch.zeros(n, dtype=torch.bool, device=device)
        self.finished: list[list[tuple[float, list[int], list[float]]]] = [[] for _ in range(n)]

    def step(self, generator: Generators | None) -> bool:
        """Continue every beam by one token; False when all prompts are done."""
        n, beams, vocabulary = self.logp_PKV.shape
        total_PC = (self.score_PK[..., None] + self.logp_PKV).flatten(1)
        if generator is None:
            score_PC, chosen_PC = total_PC.topk(2 * beams, dim=-1)
        else:  # the largest after adding Gumbel noise: a draw without replacement
            uniform_PC = uniforms(generator, *total_PC.shape, total_PC.device)
            noisy_PC = total_PC - (-uniform_PC.clamp(1e-20, 1 - 1e-7).log()).log()
            chosen_PC = noisy_PC.topk(2 * beams, dim=-1).indices
            score_PC, order_PC = total_PC.gather(1, chosen_PC).sort(-1, descending=True)
            chosen_PC = chosen_PC.gather(1, order_PC)
        from_PC, token_PC = chosen_PC // vocabulary, chosen_PC % vocabulary
        length = self.text_PKT.shape[2] + 1
        last = length == self.max_new_tokens
        place_P = torch.arange(n, device=token_PC.device)[:, None]
        text_PCT = torch.cat((self.text_PKT[place_P, from_PC], token_PC[..., None]), -1)
        logp_PC1 = self.logp_PKV[place_P, from_PC, token_PC][..., None]
        logp_PCT = torch.cat((self.logp_PKT[place_P, from_PC], logp_PC1), -1)
        ends_PC = token_PC == self.eos
        self._finish(score_PC, text_PCT, logp_PCT, ends_PC, length, last)
        if last or bool(self.done_P.all()):
            return False
        # the K best candidates that have not ended, in order (a stable sort keeps it)
        keep_PK = ends_PC.long().sort(dim=-1, stable=True).indices[:, :beams]
        self.score_PK = score_PC.gather(1, keep_PK)
        self.text_PKT, self.logp_PKT = text_PCT[place_P, keep_PK], logp_PCT[place_P, keep_PK]
        row_PK = place_P * beams + from_PC.gather(1, keep_PK)
        self.cache.reorder(row_PK.flatten())
        logits_RV = self.decode(token_PC.gather(1, keep_PK).reshape(-1, 1))
        self.logp_PKV = F.log_softmax(logits_RV, -1).view(n, beams, vocabulary)
        return True

    def _finish(
        self, score_PC: Tensor, text_PCT: Tensor, logp_PCT: Tensor, ends_PC: Tensor, length: int, last: bool
    ) -> None:
        """Keep the K best finished texts of each prompt; at the last step unfinished beams count as finished."""
        for p in range(len(self.finished)):
            if self.done_P[p]:
                continue
            for c in range(self.beams):  # only the K best candidates of the step may finish
                if (last or ends_PC[p, c]) and float(score_PC[p, c]) > -1e8:
                    score = float(score_PC[p, c]) / length**self.penalty
                    self.finished[p].append((score, text_PCT[p, c].tolist(), logp_PCT[p, c].tolist()))
            self.finished[p] = sorted(self.finished[p], key=lambda item: -item[0])[: self.beams]
            open_scores = score_PC[p][~ends_PC[p]]
            if len(self.finished[p]) == self.beams and len(open_scores):
                bound = float(open_scores.max()) / length**self.penalty
                self.done_P[p] = self.finished[p][-1][0] >= bound
