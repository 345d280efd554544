"""Growing: a trained model made deeper or wider without changing what it computes.

    python -m train.grow checkpoint=RUN n_layer=6                       # layers that add nothing yet
    python -m train.grow checkpoint=RUN n_embd=96 n_head=3              # channels, heads, hidden units
    python -m train.pretrain init=runs/grow/grow-1a2b3c4d ...

A new layer is a copy of the one before it whose two output maps are zero; the new ones stand in the middle, as far as
they go after different layers. A new channel of the residual stream is written by nobody (zero) and read by everybody
(random, as a fresh model's); a new head or hidden unit reads at random and is heard by nobody (zero), so that gradients
reach one side at once. Norms divide by the root of the mean over more channels, so their weights shrink by the root of
the ratio. Heads keep their width. The grown model has no optimiser state; nothing is trained and the ledger is empty.
"""

import math
import sys
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models.count import n_params
from models.gpt import GPT
from train import checkpoint
from train.config import REQUIRED, plain, run_entry
from train.machine import set_up
from train.optim import OptimConfig, Optimizer
from train.rundir import Out, open_run
from train.state import TrainState


@dataclass(frozen=True)
class GrowConfig:
    """Settings of the command; null keeps the checkpoint's. seed: of what is new."""

    checkpoint: str = REQUIRED
    n_layer: int | None = None
    n_embd: int | None = None
    n_head: int | None = None
    seed: int = 0
    out: Out = field(default_factory=lambda: Out("runs/grow", "grow"))


def sources(old: int, new: int) -> list[int]:
    """For each of `new` layers the old one that it is (first of its number) or copies (repeats), in order."""
    extra = new - old
    begin = max(0, (old - extra) // 2)
    times = [1] * old
    for i in range(extra):
        times[begin + i % (old - begin)] += 1
    return [layer for layer, n in enumerate(times) for _ in range(n)]


@torch.no_grad()
def deeper(model: GPT, n_layer: int) -> GPT:
    """The same function in more layers. Raises ValueError for fewer."""
    c = model.config
    if n_layer < c.n_layer:
        raise ValueError(f"n_layer={n_layer}: the checkpoint has {c.n_layer}; accepted: at least as many")
    grown = GPT(replace(c, n_layer=n_layer)).to(model.embed.weight.device)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}
    before = -1
    for layer, of in enumerate(sources(c.n_layer, n_layer)):
        for name, tensor in model.blocks[of].state_dict().items():
            silent = of == before and name.split(".")[-2] in ("out", "down")
            state[f"blocks.{layer}.{name}"] = torch.zeros_like(tensor) if silent else tensor
        before = of
    grown.load_state_dict(state)
    return grown


@torch.no_grad()
def wider(model: GPT, n_embd: int, n_head: int, seed: int = 0) -> GPT:
    """The same function (but for the epsilon of its norms) in more channels, heads and hidden units.

    Raises ValueError for fewer, for heads of another width, tied embeddings or LayerNorm, where it would not be.
    """
    c = model.config
    if n_embd < c.n_embd or n_head < c.n_head or n_embd * c.n_head != c.n_embd * n_head:
        raise ValueError(
            f"n_embd={n_embd}, n_head={n_head}: the checkpoint has {c.n_embd} and {c.n_head}; accepted: more of both, "
            f"with heads of {c.head_dim} channels"
        )
    if c.tied or c.norm != "rmsnorm" or c.mlp == "swiglu":
        raise ValueError("checkpoint: accepted: untied embeddings, rmsnorm, an MLP without gates")
    grown = GPT(replace(c, n_embd=n_embd, n_head=n_head), seed).to(model.embed.weight.device)
    old = dict(model.named_parameters())
    for name, new in grown.named_parameters():
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        _place(kind, new, old[name], math.sqrt(c.n_embd / n_embd))
    return grown


def _place(kind: str, new: Tensor, old: Tensor, shrink: float) -> None:
    """Puts a trained tensor into the corner of the fresh, larger one, and zeros where it would be heard."""
    if kind in ("norm_attn", "norm_mlp", "ln_final"):
        new.fill_(shrink)
        new[: len(old)] = old * shrink
    elif kind == "qkv":  # rows: all queries, all keys, all values
        for mine, theirs in zip(new.chunk(3), old.chunk(3), strict=True):
            mine[: theirs.shape[0], : theirs.shape[1]] = theirs
    elif kind in ("out", "down", "embed", "shift"):
        rows = old.shape[0]
        if kind in ("out", "down"):
            new.zero_()
        else:
            new[:, old.shape[1] :] = 0.0
        new[:rows, : old.shape[1]] = old
    elif kind in ("up", "unembed"):
        new[: old.shape[0], : old.shape[1]] = old
    else:  # scales of queries and keys, a value for each channel of a head
        new.copy_(old)


def main(config: GrowConfig) -> None:
    """Writes the grown checkpoint into a run folder; a complete one is left as it is."""
    set_up()
    notes = checkpoint.notes(config.checkpoint)
    model = checkpoint.load_model(config.checkpoint)
    c = model.config
    model = deeper(model, config.n_layer or c.n_layer)
    if (config.n_embd, config.n_head) != (None, None):
        model = wider(model, config.n_embd or c.n_embd, config.n_head or c.n_head, config.seed)
    run = open_run(plain(config), {"checkpoint": checkpoint.digest(config.checkpoint)})
    if not run.complete:
        state = TrainState()
        checkpoint.save(run.path, model, Optimizer(model, OptimConfig()), state, notes)
        run.write_json("ledger.json", state.state_dict()["ledger"])
        run.write_json("summary.json", {"parameters": n_params(model.config)})
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("grow", GrowConfig, main, __doc__ or ""))
