"""Sites: what is recorded is what the model computes, and looking leaves no trace."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.gpt import GPT, GPTConfig
from models.hooks import capture, hook_names

CONFIG = GPTConfig(13, 2, 2, 16, 24, mlp="relu2", qk_norm=True, token_shift=2, conv=2, tied=False)
TOKENS = torch.arange(20).view(2, 10) % 13


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_names_are_those_of_transformer_lens():
    assert hook_names(GPTConfig(13, 1, 2, 16, 24)) == (
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_mid",
        "blocks.0.hook_mlp_out",
        "blocks.0.hook_resid_post",
        "ln_final.hook_normalized",
    )


def test_sites_equal_a_computation_by_hand():
    model = GPT(CONFIG)
    with torch.no_grad(), capture(model, hook_names(CONFIG)) as store:
        logits = model(TOKENS)
    with torch.no_grad():
        keep, ahead, behind = model.rope_tables[:, :10]
        x = model.embed(TOKENS, None)
        assert torch.equal(store["hook_embed"], x)
        for layer, block in enumerate(model.blocks):
            assert torch.equal(store[f"blocks.{layer}.hook_resid_pre"], x)
            attn_out = block.attn(block.conv_attn(block.norm_attn(x), None), (keep, ahead, behind), None)
            assert torch.equal(store[f"blocks.{layer}.hook_attn_out"], attn_out)
            assert torch.equal(store[f"blocks.{layer}.hook_resid_mid"], x + attn_out)
            mlp_out = block.mlp(block.conv_mlp(block.norm_mlp(x + attn_out), None))
            assert torch.equal(store[f"blocks.{layer}.hook_mlp_out"], mlp_out)
            x = x + attn_out + mlp_out
            assert torch.equal(store[f"blocks.{layer}.hook_resid_post"], x)
        assert torch.equal(store["ln_final.hook_normalized"], model.ln_final(x))
        assert torch.equal(store["ln_final.hook_normalized"] @ model.unembed.weight.T, logits)


def test_nothing_stays_behind_also_after_an_error():
    model = GPT(CONFIG)
    with capture(model, hook_names(CONFIG)):
        assert hooks(model) == len(hook_names(CONFIG))
    assert hooks(model) == 0
    with pytest.raises(KeyError), capture(model, ["hook_embed"]) as store:
        raise KeyError(store)
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="hook_embd"):
        capture(model, ["hook_embed", "hook_embd"]).__enter__()
    assert hooks(model) == 0


class Operations(TorchDispatchMode):
    """Lists every operation that reaches torch's kernels."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_looking_adds_no_operation_and_no_copy():
    """Before, inside and after a context the model runs the same kernels; what is recorded is no copy."""
    model, passed = GPT(CONFIG), []
    model.blocks[0].register_forward_hook(lambda module, inputs, output: passed.append(output))
    model(TOKENS)  # makes the rotary tables
    runs = []
    for sites in ([], hook_names(CONFIG), []):
        with capture(model, sites) as store, Operations() as operations:
            model(TOKENS)
        runs.append(operations.names)
        if sites:
            assert store["blocks.0.hook_resid_post"].data_ptr() == passed[-1].data_ptr()
    assert runs[0] == runs[1] == runs[2] and len(runs[0]) > 50


def test_only_the_wanted_sites_in_the_wanted_form():
    model = GPT(CONFIG)
    with capture(model, ["blocks.1.hook_resid_mid"], dtype=torch.float16, device="cpu") as store:
        model(TOKENS)
    assert list(store) == ["blocks.1.hook_resid_mid"]
    assert store["blocks.1.hook_resid_mid"].dtype == torch.float16


def test_gradients_flow_through_a_recorded_site():
    model = GPT(CONFIG)
    with capture(model, ["blocks.0.hook_resid_post"]) as store:
        model.hidden(TOKENS)
    store["blocks.0.hook_resid_post"].square().sum().backward()
    assert model.embed.weight.grad.abs().sum() > 0
    assert model.blocks[1].mlp.up.weight.grad is None


def test_errors_say_what_is_accepted():
    model = GPT(CONFIG)
    with pytest.raises(ValueError, match=r"hook='blocks.2.hook_mlp_out': expected one of hook_embed, blocks.0"):
        capture(model, ["blocks.2.hook_mlp_out"]).__enter__()
    with pytest.raises(ValueError, match="_orig_mod"):
        capture(torch.nn.Sequential(model), ["hook_embed"]).__enter__()
