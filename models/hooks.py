"""Sites: the named places of the residual stream, and a context manager that records what passes through them.

The invariant that matters: outside the context nothing is attached, so looking costs nothing when nobody looks. Names
and meanings are TransformerLens's; `ln_final.hook_normalized` is what the unembedding reads (`ln_final.hook_out` in
TransformerLens 4, which gives the former name to the norm before its scale).

Try it:  with capture(model, ["blocks.0.hook_resid_post"]) as store: model(tokens_BT)
         store["blocks.0.hook_resid_post"].shape  # [B, T, C]

Legend: B batch, T tokens, C channels of the residual stream.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.gpt import GPT, GPTConfig

# Name inside a block -> (module of the block, whether the site is what goes into it rather than what comes out of it)
_IN_BLOCK: dict[str, tuple[str, bool]] = {
    "hook_resid_pre": ("", True),
    "hook_attn_out": ("attn", False),
    "hook_resid_mid": ("norm_mlp", True),
    "hook_mlp_out": ("mlp", False),
    "hook_resid_post": ("", False),
}


def hook_names(config: GPTConfig) -> tuple[str, ...]:
    """All sites of a model, in the order in which a forward pass reaches them."""
    blocks = (f"blocks.{layer}.{name}" for layer in range(config.n_layer) for name in _IN_BLOCK)
    return ("hook_embed", *blocks, "ln_final.hook_normalized")


@contextmanager
def capture(
    model: GPT,
    sites: Iterable[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Record [B, T, C] at each site during the forward passes inside the context; the last pass wins.

    Tensors are part of the autograd graph if gradients are on, and are converted to `dtype` and moved to `device` if
    given (`torch.float16` and "cpu" to store much of a large model). Raises ValueError for an unknown site, and for a
    compiled model, because compiled code would pass the sites by.
    """
    if not isinstance(model, GPT):
        raise ValueError(f"model of type {type(model).__name__}: expected a GPT (of a compiled model, its `_orig_mod`)")
    if model._compiled_call_impl is not None:
        raise ValueError("model is compiled in place: expected one on which `compile()` was not called")
    wanted, known = tuple(sites), set(hook_names(model.config))
    for site in wanted:
        if site not in known:
            raise ValueError(f"site={site!r}: expected one of {', '.join(hook_names(model.config))}")
    store: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for site in wanted:
            handle = _attach(model, site, _recorder(store, site, dtype, device))
            stack.callback(handle.remove)
        yield store


def _recorder(store: dict, site: str, dtype: torch.dtype | None, device: torch.device | str | None) -> Callable:
    def record(_module: nn.Module, inputs: tuple, output: Tensor | None = None) -> None:
        x_BTC = inputs[0] if output is None else output
        store[site] = x_BTC.to(device=device, dtype=dtype)

    return record


def _attach(model: GPT, site: str, record: Callable) -> Any:
    if site == "hook_embed":
        return model.embed.register_forward_hook(record)
    if site == "ln_final.hook_normalized":
        return model.ln_final.register_forward_hook(record)
    _, layer, name = site.split(".")
    path, is_input = _IN_BLOCK[name]
    module = model.blocks[int(layer)].get_submodule(path)
    return module.register_forward_pre_hook(record) if is_input else module.register_forward_hook(record)


@contextmanager
def edit(model: GPT, site: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the context what passes the site, [B, T, C], is replaced by `change` of it, in every forward pass.

    Raises ValueError for an unknown site.
    """
    if not isinstance(model, GPT) or site not in hook_names(model.config):
        known = ", ".join(hook_names(model.config)) if isinstance(model, GPT) else "a site of a GPT"
        raise ValueError(f"site={site!r}: expected one of {known}")

    def replace(_module: nn.Module, inputs: tuple, output: Tensor | None = None) -> Any:
        return (change(inputs[0]), *inputs[1:]) if output is None else change(output)

    handle = _attach(model, site, replace)
    try:
        yield
    finally:
        handle.remove()
