"""Growing: a trained model made deeper or wider without changing what it computes (after Net2Net, Chen et al. 2016).

    python -m train.grow checkpoint=RUN n_layer=6                       # layers that add nothing yet
    python -m train.grow checkpoint=RUN n_embd=96 n_head=3              # channels, heads, hidden units
    python -m train.pretrain init=runs/grow/grow-1a2b3c4d ...

A new layer is a copy of the one before it whose two output maps are zero; new layers stand in the middle. A new channel
of the residual stream has zero weights where it is written and random ones where it is read; a new head or hidden unit
reads with random weights and has zero weights behind it, so that gradients reach one side at once. Norms divide by the
root of the mean over more channels, so their weights shrink by the root of the ratio. Heads keep their width. The grown
model has no optimiser state and an empty ledger.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("grow")

import math
import sys
from dataclasses import field, replace

import torch
from torch import Tensor

from models.gpt import GPT
from synth.ranges import Positive, settings
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.torch_setup import set_up
from train.runs.run_folder import OutConfig, open_run


@settings
class GrowConfig:
    """Settings of the command; null keeps the checkpoint's. seed: of the new weights."""

    checkpoint: str = REQUIRED  # the model to grow
    n_layer: Positive | None = None  # layers afterwards
    n_embd: Positive | None = None  # channels afterwards
    n_head: Positive | None = None  # heads afterwards
    seed: int = 0
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/grow", "grow"))


def layer_sources(old: int, new: int) -> list[int]:
    """For each of `new` layers the old one that it is, or that it copies (where the number comes again), in order."""
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
    for layer, of in enumerate(layer_sources(c.n_layer, n_layer)):
        for name, tensor in model.blocks[of].state_dict().items():
            is_copy = of == before and name.split(".")[-2] in ("out", "down")
            state[f"blocks.{layer}.{name}"] = torch.zeros_like(tensor) if is_copy else tensor
        before = of
    grown.load_state_dict(state)
    return grown


@torch.no_grad()
def wider(model: GPT, n_embd: int, n_head: int, seed: int = 0) -> GPT:
    """The same function (but for the epsilon of its norms) in more channels, heads and hidden units.

    Raises ValueError for fewer, for heads of another width, and for shapes where it would not be the same function.
    """
    c = model.config
    if n_embd < c.n_embd or n_head < c.n_head or n_embd * c.n_head != c.n_embd * n_head:
        raise ValueError(
            f"n_embd={n_embd}, n_head={n_head}: the checkpoint has {c.n_embd} and {c.n_head}; accepted: more of both, "
            f"with heads of {c.head_dim} channels"
        )
    if c.tied or c.bias or c.norm != "rmsnorm" or c.mlp == "swiglu":
        raise ValueError("checkpoint: accepted: untied embeddings, rmsnorm, no biases, an MLP without gates")
    grown = GPT(replace(c, n_embd=n_embd, n_head=n_head), seed).to(model.embed.weight.device)
    old = dict(model.named_parameters())
    for name, new in grown.named_parameters():
        role = name.removesuffix(".weight").rsplit(".", 1)[-1]
        _place(role, new, old[name], math.sqrt(c.n_embd / n_embd))
    return grown


def _place(role: str, new: Tensor, old: Tensor, shrink: float) -> None:
    """Puts a trained tensor into the corner of the larger one, and zeros where the rest would change the output."""
    if role in ("norm_attn", "norm_mlp", "ln_final"):
        new.fill_(shrink)
        old = old * shrink
    elif role in ("out", "down"):
        new.zero_()
    elif role in ("embed", "shift"):
        new[:, old.shape[1] :] = 0.0
    parts = 3 if role == "qkv" else 1  # rows: all queries, all keys, all values
    for part, trained in zip(new.chunk(parts), old.chunk(parts), strict=True):
        part[tuple(map(slice, trained.shape))] = trained


def main(config: GrowConfig) -> None:
    """Writes the grown checkpoint into a run folder; a complete one is left as it is."""
    set_up()
    notes = checkpoint.notes(config.checkpoint)
    model = checkpoint.load_model(config.checkpoint)
    c = model.config
    model = deeper(model, config.n_layer or c.n_layer)
    if (config.n_embd, config.n_head) != (None, None):
        model = wider(model, config.n_embd or c.n_embd, config.n_head or c.n_head, config.seed)
    inputs = {"checkpoint": checkpoint.weights_digest(config.checkpoint)}
    with open_run(plain(config), inputs, entry="train.grow", kind="grow") as run:
        checkpoint.write_untrained(run, model, notes)


if __name__ == "__main__":
    sys.exit(run_entry("grow", GrowConfig, main, __doc__ or ""))
