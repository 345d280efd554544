"""Hook points: the named places of the residual stream, to record what passes them or to replace it.

Names and meanings are TransformerLens's; `ln_final.hook_normalized` is what the unembedding reads (`ln_final.hook_out`
in TransformerLens 4, which gives the former name to the norm before its scale).

The invariant that matters: outside the contexts no hook is attached, so there is no cost.

Legend: B batch, T tokens, C channels of the residual stream.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.gpt import GPT, GPTConfig

# Name inside a block -> (submodule of the block, whether to take its input rather than its output)
_IN_BLOCK: dict[str, tuple[str, bool]] = {
    "hook_resid_pre": ("", True),
    "hook_attn_out": ("attn", False),
    "hook_resid_mid": ("norm_mlp", True),
    "hook_mlp_out": ("mlp", False),
    "hook_resid_post": ("", False),
}


def hook_names(config: GPTConfig) -> tuple[str, ...]:
    """All hook points of a model, in the order in which a forward pass reaches them."""
    blocks = (f"blocks.{layer}.{name}" for layer in range(config.n_layer) for name in _IN_BLOCK)
    return ("hook_embed", *blocks, "ln_final.hook_normalized")


@contextmanager
def capture(
    model: GPT, names: Iterable[str], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record [B, T, C] at each hook point during the forward passes inside the context; the last pass overwrites.
    Tensors are part of the autograd graph if gradients are on, and are converted to `dtype` and moved to `device` if
    given (`torch.float16` and "cpu" to store much of a large model). Raises ValueError for an unknown name, and for a
    compiled model, because compiled code skips hooks."""
    store: dict[str, Tensor] = {}

    def record(name: str, x_BTC: Tensor) -> None:
        store[name] = x_BTC.to(device=device, dtype=dtype)

    with ExitStack() as stack:
        for name in tuple(names):
            stack.callback(_attach(model, name, partial(record, name)).remove)
        yield store


@contextmanager
def edit(model: GPT, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace what passes the hook point, [B, T, C], by `change` of it, in every forward pass inside the context.
    Raises ValueError as `capture` does."""
    handle = _attach(model, name, change)
    try:
        yield
    finally:
        handle.remove()


def _attach(model: GPT, name: str, call: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Give what passes the hook point to `call`; a tensor that it returns takes the place of what passed."""
    if not isinstance(model, GPT):
        raise ValueError(f"model of type {type(model).__name__}: expected a GPT (of a compiled model, its `_orig_mod`)")
    if model._compiled_call_impl is not None:
        raise ValueError("model is compiled in place: expected one on which `compile()` was not called")
    if name not in hook_names(model.config):
        raise ValueError(f"hook={name!r}: expected one of {', '.join(hook_names(model.config))}")

    def on_input(_module: nn.Module, inputs: tuple) -> Any:
        changed = call(inputs[0])
        return None if changed is None else (changed, *inputs[1:])

    def on_output(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor | None:
        return call(output)

    if name == "hook_embed":
        return model.embed.register_forward_hook(on_output)
    if name == "ln_final.hook_normalized":
        return model.ln_final.register_forward_hook(on_output)
    _, layer, place = name.split(".")
    path, is_input = _IN_BLOCK[place]
    module = model.blocks[int(layer)].get_submodule(path)
    return module.register_forward_pre_hook(on_input) if is_input else module.register_forward_hook(on_output)
