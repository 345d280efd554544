"""The two forward passes of generation: `prefill` reads prompts, `Decoder` appends one token to every row.

A decoding step of a small model is a hundred kernel launches that each take longer than the kernel. So on a GPU rows
and columns are rounded up, each shape is recorded as a CUDA graph on first use, and afterwards costs one launch. On one
CPU thread `models.decode.cpu_step` takes the step, elsewhere the model itself.

The invariant that matters: logits and cache of the rows in use are those of `model.forward(token_A1, cache)`.

Legend: A rows in use, B prompts, R rows of the cache, T tokens of the longest prompt, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.decode.cache import KVCache
from models.decode.cpu_step import CPUStep, is_supported
from models.gpt import GPT

STATIC_ON = ("cuda",)  # device types on which shapes are rounded up
ROWS, COLUMNS = 32, 64  # to multiples of these


def prefill(model: GPT, prompts: Sequence[Sequence[int]]) -> tuple[KVCache, Tensor]:
    """Read prompts in one pass: their cache, one row each, and the logits [B, V] of the token after each. Raises
    FloatingPointError for logits that are not finite."""
    device, n = model.embed.weight.device, len(prompts)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens_BT = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(device)
    width = tokens_BT.shape[1]
    cache = KVCache(model, n, width)
    logits_BV = model.forward(tokens_BT, cache, at_N=lengths_B - 1 + width * torch.arange(n, device=device))
    if not logits_BV.isfinite().all():
        raise FloatingPointError("the model's logits are not finite: its training has diverged")
    cache.truncate(lengths_B)
    return cache, logits_BV


class Decoder:
    """Decoding steps of one model on one cache, under `torch.no_grad()`. The implementation is chosen once, here:
    hooks, threads, weights and precision must not change afterwards."""

    def __init__(self, model: GPT, cache: KVCache) -> None:
        self.model, self.cache, self.device = model, cache, model.embed.weight.device
        self.token_R1 = torch.zeros(len(cache.lengths_R), 1, dtype=torch.long, device=self.device)
        self.cpu_step = CPUStep(model, cache) if is_supported(model, cache) else None
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, token_A1: Tensor) -> Tensor:
        """Logits [A, V] of the token after `token_A1`, valid until the next call."""
        if self.cpu_step is not None:
            return self.cpu_step(token_A1)
        if self.device.type not in STATIC_ON:
            # forward, not __call__: torch.compile would recompile for every shape of batch and cache
            return self.model.forward(token_A1, self.cache)[:, 0]
        cache, n, longest = self.cache, len(token_A1), self.cache.longest
        rows = min(_round_up(n, ROWS), len(self.token_R1))
        columns = min(_round_up(longest + 1, COLUMNS), cache.capacity)
        self.token_R1[:n] = token_A1
        cache.lengths_R[n:rows] = 0  # unused rows write into their first column, which is never read
        cache.n_rows, cache.least_columns = rows, columns
        if self.device.type != "cuda":
            logits_RV = self._step(rows)
        else:
            if (rows, columns) not in self.graphs:
                self.graphs[rows, columns] = self._recorded(rows)
            graph, logits_RV = self.graphs[rows, columns]
            graph.replay()
        cache.n_rows, cache.least_columns, cache.longest = n, 0, longest + 1
        return logits_RV[:n]

    def _step(self, rows: int) -> Tensor:
        return self.model.forward(self.token_R1[:rows], self.cache)[:, 0]

    def _recorded(self, rows: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The step as a CUDA graph. A warm-up run, for what libraries set up on first use, is undone before."""
        cache, lengths_R, longest = self.cache, self.cache.lengths_R.clone(), self.cache.longest
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(rows)
            cache.lengths_R.copy_(lengths_R)
        torch.cuda.current_stream().wait_stream(stream)
        cache.longest = longest
        with torch.cuda.graph(graph):
            logits_RV = self._step(rows)
        return graph, logits_RV


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
