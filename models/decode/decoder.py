"""The step that grows every row by one token; on a GPU with fixed shapes, recorded once as a graph and replayed.

A step of a small model is a hundred launches of kernels that each take less time than their launch. So on a GPU rows
and columns are rounded up, each shape is recorded the first time that it comes, and afterwards costs one launch.
Elsewhere the step has the shapes of the rows in use.

The invariant that matters: the logits of the rows in use are those of `model.forward(token_A1, cache)`, and so is what
the cache holds of them afterwards.

Legend: A rows in use, R rows of the cache, V vocabulary.
"""

import torch
from torch import Tensor

from models.decode.cache import KVCache
from models.decode.cpu_step import CPUStep, is_supported
from models.gpt import GPT

STATIC_ON = ("cuda",)  # kinds of device on which shapes are rounded up
ROWS, COLUMNS = 32, 64  # to multiples of these


class Decoder:
    """Steps of one model on one cache, under `torch.no_grad()`.

    What serves them is decided here, once: hooks, threads, weights and precision must not change while it lives."""

    def __init__(self, model: GPT, cache: KVCache) -> None:
        self.model, self.cache, self.device = model, cache, model.embed.weight.device
        self.token_R1 = torch.zeros(len(cache.lengths_R), 1, dtype=torch.long, device=self.device)
        self.fused = CPUStep(model, cache) if is_supported(model, cache) else None
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, token_A1: Tensor) -> Tensor:
        """Logits [A, V] of the token after `token_A1`, valid until the next call."""
        if self.fused is not None:
            return self.fused(token_A1)
        if self.device.type not in STATIC_ON:
            # forward, not __call__: a compiled model would be compiled anew for every shape of batch and cache
            return self.model.forward(token_A1, self.cache)[:, 0]
        cache, n, longest = self.cache, len(token_A1), self.cache.longest
        rows = min(_up(n, ROWS), len(self.token_R1))
        columns = min(_up(longest + 1, COLUMNS), cache.capacity)
        self.token_R1[:n] = token_A1
        cache.lengths_R[n:rows] = 0  # rows not in use write into their first column, which nobody reads
        cache.n_rows, cache.least_columns = rows, columns
        logits_RV = self._replayed(rows, columns) if self.device.type == "cuda" else self._step(rows)
        cache.n_rows, cache.least_columns, cache.longest = n, 0, longest + 1
        return logits_RV[:n]

    def _step(self, rows: int) -> Tensor:
        return self.model.forward(self.token_R1[:rows], self.cache)[:, 0]

    def _replayed(self, rows: int, columns: int) -> Tensor:
        if (rows, columns) not in self.graphs:
            self.graphs[rows, columns] = self._recorded(rows)
        graph, logits_RV = self.graphs[rows, columns]
        graph.replay()
        return logits_RV

    def _recorded(self, rows: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The step as a graph. It is run once before, for what libraries set up on their first call, and undone."""
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


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
