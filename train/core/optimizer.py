"""The optimiser: Muon for the matrices inside blocks, AdamW for everything else, one learning rate schedule for both.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest matrix with equal singular values, found by
Newton-Schulz iteration, here of all matrices of one shape together. AdamW is torch's own, fused. The schedule is a pure
function of progress and step.

Legend: N matrices of one shape, R rows <= C columns.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from synth.ranges import AboveZero, Count, NotNegative, Positive, Range, Share, settings
from train.core.distributed import shard_like, sharded, unsharded

BelowOne = Annotated[float, Range(0, below=1)]
# Quintic coefficients (Jordan et al. 2024): steepest at 0 at the price of singular values that end near 1, not at it.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
RUN = 3  # iterations of wide matrices between two looks at the matrices themselves
STACKED = {"qkv": 3}  # linear maps whose rows are several matrices; each of them is orthogonalised by itself


@settings
class Schedule:
    """Factor on every learning rate: warm-up, then a shape over progress p in [0, 1].

    shape: `wsd` 1, then linear to `floor` over the last fraction `decay`; `linear`, `cosine` from 1 to `floor`.
    Warm-up is linear over `warmup_steps` steps and over the first fraction `warmup`, whichever is lower at the time.
    """

    shape: Literal["wsd", "linear", "cosine", "constant"] = "wsd"
    warmup_steps: Count = 20  # steps of rising from 0
    warmup: Share = 0.0  # the same as a share of the run
    decay: Share = 0.5  # share of the run in which the rate falls
    floor: Share = 0.0  # where it ends, as a share of its height

    def __call__(self, progress: float, step: int) -> float:
        """The factor for the step with index `step` (from 0), taken when `progress` of the budget is spent."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.warmup and progress < self.warmup:
            rise = min(rise, progress / self.warmup)
        left = 1.0
        if self.shape == "wsd" and self.decay:
            left = min(1.0, (1 - progress) / self.decay)
        elif self.shape == "linear":
            left = 1 - progress
        elif self.shape == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * progress))
        return rise * (self.floor + (1 - self.floor) * left)

    def is_flat_until(self, progress: float) -> bool:
        """Whether the factor of all steps up to this progress is that of their index alone, whatever the budget."""
        flat = self.shape == "constant" or (self.shape == "wsd" and progress <= 1 - self.decay)
        return flat and self.warmup == 0.0


@settings
class MuonConfig:
    """Muon's part; `lr` is the size of an orthogonal update, so it does not depend on the gradient's scale."""

    lr: AboveZero = 0.03  # learning rate of the matrices
    momentum: BelowOne = 0.95  # decay of the mean gradient
    weight_decay: NotNegative = 0.01  # of the matrices
    iterations: Positive = 5  # of Newton and Schulz


@settings
class OptimConfig:
    """AdamW for all (`muon: null`) or all but the matrices inside blocks. `clip` bounds the gradient norm, 0: off.

    ema: decay of an average of the weights, 0 for none; it is what evaluations judge and checkpoints offer to readers.
    Early on the decay is (1 + t) / (10 + t) at step t, where that is less. spike: training stops as diverged when the
    smoothed loss is this far above its lowest, 0 for never.
    """

    lr: AboveZero = 5e-3  # learning rate of AdamW, and of what Muon leaves out
    beta1: BelowOne = 0.9  # decay of the mean gradient
    beta2: BelowOne = 0.99  # decay of the mean square
    eps: AboveZero = 1e-8  # added to its root
    weight_decay: NotNegative = 0.0  # on matrices only; scales and biases are never decayed
    clip: NotNegative = 1.0  # most norm of the gradient, 0 for any
    muon: MuonConfig | None = None
    schedule: Schedule = field(default_factory=Schedule)
    ema: BelowOne = 0.0
    spike: NotNegative = 0.0


def orthogonalise(g_NRC: Tensor, iterations: int = 5) -> Tensor:
    """The matrices U V^T (nearly) of g = U S V^T, for a batch with R <= C; singular values end within 0.7 to 1.2.

    An iteration is x <- q x with q = a + b s + c s^2 and s = x x^T. For wide matrices `RUN` iterations multiply their
    small q first and follow s <- q s q. Longer runs lose small singular values to rounding, for s has their squares.
    """
    a, b, c = NEWTON_SCHULZ
    x_NRC = g_NRC / (g_NRC.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    run = RUN if x_NRC.shape[2] >= 2 * x_NRC.shape[1] else 1
    for first in range(0, iterations, run):
        s_NRR = product_NRR = torch.bmm(x_NRC, x_NRC.mT)
        for i in range(first, end := min(first + run, iterations)):
            q_NRR = torch.baddbmm(s_NRR, s_NRR, s_NRR, beta=b, alpha=c)
            q_NRR.diagonal(dim1=1, dim2=2).add_(a)
            product_NRR = q_NRR if i == first else torch.bmm(q_NRR, product_NRR)
            if i + 1 < end:
                s_NRR = q_NRR @ s_NRR @ q_NRR
        x_NRC = torch.bmm(product_NRR, x_NRC)
    return x_NRC


class Muon:
    """Nesterov momentum of matrices, orthogonalised, times sqrt(max(1, rows / columns)) (Jordan et al. 2024).

    Momentum is sharded as its parameter is. Each process gathers one sharded matrix at a time, orthogonalises it and
    keeps its own rows.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: MuonConfig):
        self.config = config
        self.groups: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
        for name, p in parameters:
            rows, columns = p.shape[0] // self._parts(name), p.shape[1]
            self.groups.setdefault((min(rows, columns), max(rows, columns)), []).append((name, p))
        self.momentum = {name: torch.zeros_like(p) for group in self.groups.values() for name, p in group}

    @staticmethod
    def _parts(name: str) -> int:
        return STACKED.get(name.removesuffix(".weight").rsplit(".", 1)[-1], 1)

    def _views(self, name: str, whole: Tensor) -> tuple[Tensor, ...]:
        """The matrices of a whole parameter, transposed where they have more rows than columns."""
        parts = whole.chunk(self._parts(name))
        return parts if parts[0].shape[0] <= parts[0].shape[1] else tuple(part.mT for part in parts)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        for group in self.groups.values():
            for part in ([pair] for pair in group) if sharded(group[0][1]) else [group]:
                self._step(part, self.config.lr * scale)

    def _step(self, group: list[tuple[str, nn.Parameter]], lr: float) -> None:
        c, parameters = self.config, list[Tensor](p for _, p in group)
        momenta = [self.momentum[name] for name, _ in group]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - c.momentum)
        torch._foreach_lerp_(gradients, momenta, c.momentum)
        matrices = [self._views(name, unsharded(g)) for (name, _), g in zip(group, gradients, strict=True)]
        updates = orthogonalise(torch.stack([m for views in matrices for m in views]), c.iterations)
        if c.weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * c.weight_decay)
        for p, update_PRC in zip(parameters, updates.split([len(views) for views in matrices]), strict=True):
            rows = p.shape[0] // len(update_PRC)
            transposed = rows > p.shape[1]
            update = (update_PRC.mT if transposed else update_PRC).reshape(p.shape)
            p.sub_(shard_like(update, p), alpha=lr * (math.sqrt(rows / p.shape[1]) if transposed else 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        """Whole momentum by `NAME:FIRST_ROW` of each matrix of a parameter. Every process must call it."""
        state = {}
        for name, momentum in self.momentum.items():
            for i, part in enumerate(self._views(name, unsharded(momentum))):
                first = i * momentum.shape[0] // self._parts(name)
                state[f"{name}:{first}"] = part.clone(memory_format=torch.contiguous_format)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, momentum in self.momentum.items():
            rows = momentum.shape[0] // self._parts(name)
            parts = [state[f"{name}:{i * rows}"] for i in range(self._parts(name))]
            whole = torch.cat([part if part.shape[0] == rows else part.mT for part in parts])
            momentum.copy_(shard_like(whole, momentum))


class WeightAverage:
    """Exponential moving average of parameters, kept beside them."""

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self.parameters: list[Tensor] = list(parameters)
        self.decay, self.steps = decay, 0
        self.swapped = False  # whether the parameters hold the average, and `kept` the weights that are trained
        self.kept = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        torch._foreach_lerp_(self.kept, self.parameters, 1 - min(self.decay, (1 + self.steps) / (10 + self.steps)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters and the average, to the bit."""
        for p, kept in zip(self.parameters, self.kept, strict=True):
            before = p.detach().clone()
            p.copy_(kept)
            kept.copy_(before)
        self.swapped = not self.swapped

    def state_dict(self) -> dict[str, Any]:
        """The trained weights; the checkpoint's weights are the average."""
        assert self.swapped, "saved outside of Optimizer.averaged()"
        return {"steps": self.steps, "weights": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Must come after loading the parameters from a checkpoint, which holds the average."""
        self.steps = state["steps"]
        self.kept = [shard_like(k, p).clone() for k, p in zip(state["weights"], self.parameters, strict=True)]
        self.swapped = True
        self.swap()


class Optimizer:
    """Both optimisers behind one `step(scale)`; `scale` is the schedule's factor on the configured learning rates.

    Muon takes every two-dimensional weight inside a block: the linear maps, and the convolutions over positions
    [positions, channels], for which the quickstart's rates were found.
    """

    def __init__(self, model: nn.Module, config: OptimConfig):
        self.config = config
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [(n, p) for n, p in named if config.muon and n.startswith("blocks.") and p.ndim == 2]
        muon_names = {n for n, _ in matrices}
        rest = [p for n, p in named if n not in muon_names]
        self.parameters = [p for _, p in named]
        partial = len(named) < len(list(model.parameters()))
        self.trained = dict(named) if partial else {}  # LoRA: a checkpoint's weights are not those that train
        self.muon = Muon(matrices, config.muon) if config.muon and matrices else None
        decay = {True: config.weight_decay, False: 0.0}  # of matrices, of scales and biases
        groups = [{"params": [p for p in rest if (p.ndim >= 2) == k], "weight_decay": d} for k, d in decay.items()]
        groups = [group for group in groups if group["params"]]
        betas = (config.beta1, config.beta2)
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
        self.average = WeightAverage(self.parameters, config.ema) if config.ema else None

    def clip(self) -> Tensor:
        """The gradient norm before clipping, a scalar tensor."""
        limit = self.config.clip or math.inf
        return unsharded(nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True))

    @torch.no_grad()
    def update_norm(self, before: list[Tensor]) -> float:
        """L2 norm of the change of the weights since they were `before` (copies of `parameters`)."""
        changes = [p.detach() - b for p, b in zip(self.parameters, before, strict=True)]
        return float(unsharded(nn.utils.get_total_norm(changes, foreach=True)))

    def step(self, scale: float) -> None:
        """One update with every learning rate times `scale`."""
        for group in self.adamw.param_groups:
            group["lr"] = self.config.lr * scale
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(scale)
        if self.average is not None:
            self.average.step()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights, if `config.ema` is on: for evaluations and checkpoints."""
        swap = self.average.swap if self.average is not None else lambda: None
        swap()
        try:
            yield
        finally:
            swap()

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors also where the model is in shards; then every process must call it."""
        state = {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict() if self.muon else {}}
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.trained:
            state["trained"] = {name: p.detach() for name, p in self.trained.items()}
        return unsharded(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        adamw = dict(state["adamw"])
        owners = [p for group in self.adamw.param_groups for p in group["params"]]
        moments = {i: {k: shard_like(v, owners[i]) for k, v in m.items()} for i, m in adamw["state"].items()}
        self.adamw.load_state_dict({**adamw, "state": moments})
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        with torch.no_grad():
            for name, p in self.trained.items():
                p.copy_(state["trained"][name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
