"""Exported folders: the same logits and the same greedy texts in `transformers`, and back the same bits.

What is stated: in float32 two logits of a model and of its folder differ by at most 1e-5 of the largest logit.
"""

import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPTNeoXForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3ForCausalLM

from models import gpt
from models.decode.sampling import sample
from models.gpt import GPT, GPTConfig
from models.hooks import capture, hook_names
from models.huggingface import export
from tests.helpers.untrained_models import perturbed

STATED = 1e-5
BASE = {"vocab_size": 29, "n_layer": 4, "n_head": 3, "n_embd": 48, "context": 96}
NEOX = {"norm": "layernorm", "bias": True}
LLAMA = {"mlp": "swiglu", "mlp_ratio": 8 / 3, "tied": False}
NATIVE = {
    "papers": (NEOX, GPTNeoXForCausalLM),
    "papers_untied_half_rope": ({**NEOX, "tied": False, "rope_fraction": 0.5}, GPTNeoXForCausalLM),
    "papers_deep": ({**NEOX, "n_layer": 20, "n_embd": 24}, GPTNeoXForCausalLM),
    "llama": (LLAMA, LlamaForCausalLM),
    "llama_tied_biased": ({**LLAMA, "tied": True, "bias": True, "rope_base": 500.0}, LlamaForCausalLM),
    "qwen3": ({**LLAMA, "qk_norm": True}, Qwen3ForCausalLM),
    "qwen3_tied": ({**LLAMA, "qk_norm": True, "tied": True}, Qwen3ForCausalLM),
}
QUICKSTART = {"mlp": "relu2", "qk_norm": True, "rope_fraction": 0.5, "token_shift": 4, "conv": 3, "tied": False}
EOS, PAD = 1, 0


def lively(settings: dict) -> GPT:
    """A model whose tensors are all far from their quiet initial values."""
    model = GPT(GPTConfig(**{**BASE, **settings})).eval()
    return perturbed(model, 0.3 / model.config.n_layer**0.5, 1)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, BASE["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NATIVE.values(), ids=NATIVE.keys(), scope="module")
def exported(request, tmp_path_factory):
    settings, architecture = request.param
    model, folder = lively(settings), tmp_path_factory.mktemp("folder")
    export.save(model, folder, eos=EOS, pad=PAD)
    return model, folder, architecture


def left_padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def test_the_folder_is_complete_and_of_the_architecture(exported):
    _, folder, architecture = exported
    assert {p.name for p in folder.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    theirs = export.read(folder)
    assert type(theirs) is architecture
    assert (theirs.config.eos_token_id, theirs.config.pad_token_id, theirs.config.bos_token_id) == (EOS, PAD, None)
    assert theirs.generation_config.max_length == BASE["context"] and not theirs.generation_config.do_sample


def test_same_logits(exported):
    model, folder, _ = exported
    theirs = export.read(folder)
    difference, largest = export.parity(model, theirs)
    assert difference <= STATED * largest and largest > 1
    x = tokens(3, 40)
    with torch.no_grad():
        right = theirs(F.pad(x, (0, 9)), attention_mask=F.pad(torch.ones_like(x), (0, 9))).logits[:, :40]
        assert (right - model(x)).abs().max() <= STATED * largest
        ids, mask = left_padded([row[: 40 - 7 * b].tolist() for b, row in enumerate(x)])
        position = (mask.cumsum(1) - 1).clamp(min=0)
        left = theirs(ids, attention_mask=mask, position_ids=position).logits
        for b in range(3):
            assert (left[b, 7 * b :] - model(x)[b, : 40 - 7 * b]).abs().max() <= STATED * largest


def test_back_to_the_same_bits(exported):
    model, folder, _ = exported
    again = export.load(folder)
    assert again.config == model.config
    ours, back = model.state_dict(), again.state_dict()
    assert list(ours) == list(back) and all(torch.equal(ours[name], back[name]) for name in ours)
    assert all(p.requires_grad for p in again.parameters()) and not again.training


def test_generate_writes_what_sampling_does(exported):
    """Token for token, greedy, with and without their cache, in a batch padded on the left."""
    model, folder, _ = exported
    theirs = export.read(folder)
    prompts = [tokens(n, seed=n).tolist() for n in (9, 3, 14, 1)]
    ours = sample(model, prompts, 24, temperature=0.0, eos=EOS, pad=PAD)
    ids, mask = left_padded(prompts)
    for use_cache in (True, False):
        text = theirs.generate(ids, attention_mask=mask, max_length=ids.shape[1] + 24, use_cache=use_cache)
        new = text[:, ids.shape[1] :]
        assert new.shape == ours.tokens_BT.shape and torch.equal(new, ours.tokens_BT)


def test_exporting_draws_from_no_global_generator():
    before = torch.get_rng_state()
    export.to_hugging_face(lively(LLAMA))
    assert torch.equal(before, torch.get_rng_state())


def test_low_precision_stays_low():
    theirs = export.to_hugging_face(lively(LLAMA).bfloat16())
    assert theirs.dtype == torch.bfloat16 and export.from_hugging_face(theirs).embed.weight.dtype == torch.bfloat16


def test_a_difference_that_is_no_rounding_is_an_error():
    model = lively(LLAMA)
    theirs = export.to_hugging_face(model)
    with torch.no_grad():
        theirs.model.norm.weight *= 1.001
    with pytest.raises(FloatingPointError, match="logits differ by"):
        export.parity(model, theirs)


def test_any_model_goes_with_its_own_code(tmp_path, monkeypatch):
    """Read in a process that knows nothing of this repository."""
    model = lively(QUICKSTART)
    with pytest.raises(ValueError, match="token_shift=4: has no counterpart"):
        export.save(model, tmp_path / "native")
    assert not (tmp_path / "native").exists()
    folder = tmp_path / "folder"
    written = export.save(model, folder, eos=EOS, pad=PAD, custom_code=True)
    difference, largest = export.parity(model, written)
    assert difference <= 1e-5 * largest
    monkeypatch.setattr(gpt, "shortcut", None)  # the folder's code is that of the modules
    assert export.parity(model, written)[0] == 0.0
    again = export.load(folder)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    prompts = [tokens(n, seed=n).tolist() for n in (9, 3, 14)]
    ids, mask = left_padded(prompts)
    expected = sample(model, prompts, 24, temperature=0.0, eos=EOS, pad=PAD).tokens_BT
    logits = model(tokens(2, 30)).detach()
    torch.save(
        {"ids": ids, "mask": mask, "expected": expected, "x": tokens(2, 30), "logits": logits}, tmp_path / "o.pt"
    )
    script = """
import torch
from transformers import AutoModelForCausalLM
o = torch.load("o.pt")
model = AutoModelForCausalLM.from_pretrained("folder", trust_remote_code=True)
out = model(o["x"], labels=o["x"])
assert torch.equal(out.logits, o["logits"]) and out.loss > 0
width = o["ids"].shape[1]
text = model.generate(o["ids"], attention_mask=o["mask"], max_length=width + 24)[:, width:]
assert torch.equal(text, o["expected"]), (text, o["expected"])
"""
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_what_is_no_folder_of_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"folder={tmp_path}: holds no config.json of a model"):
        export.load(tmp_path)
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    export.save(lively(LLAMA), whole)
    shutil.copytree(whole, folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:100])
    with pytest.raises(ValueError, match="damaged: cannot be read"):
        export.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="damaged: cannot be read"):
        export.load(folder)
    shutil.copy(whole / "model.safetensors", folder)
    text = (folder / "config.json").read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged: missing keys in its weights: model\.layers\.4"):
        export.load(folder)


def test_transformer_lens_sees_the_same_at_every_site(tmp_path):
    """Its bridge says `ln_final.hook_out` for what the unembedding reads, and its `hook_normalized` has no scale."""
    bridge = pytest.importorskip("transformer_lens.model_bridge")
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(BASE["vocab_size"])}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0")
    x = tokens(2, 30)
    for name in ("papers", "llama", "qwen3"):
        model = lively(NATIVE[name][0])
        export.save(model, tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        lens = bridge.TransformerBridge.boot_transformers(
            str(tmp_path / name), hf_model=export.read(tmp_path / name), device="cpu", load_weights=True
        )
        with torch.no_grad(), capture(model, hook_names(model.config)) as store:
            logits = model(x)
            theirs, cache = lens.run_with_cache(x)
        assert (theirs - logits).abs().max() <= STATED * logits.abs().max()
        for site in hook_names(model.config)[:-1]:
            assert torch.allclose(cache[site], store[site], atol=1e-4), (name, site)
        assert torch.allclose(cache["ln_final.hook_out"], store["ln_final.hook_normalized"], atol=1e-4)


@pytest.fixture(scope="module")
def custom():
    model = lively(QUICKSTART)
    return model, export.to_custom_code(model, eos=EOS, pad=PAD)


def test_hidden_states_and_embeddings_of_custom_code(custom):
    """As `transformers` means them: what enters each block, then what the unembedding reads, padded or not."""
    model, theirs = custom
    prompts = [tokens(n, seed=n).tolist() for n in (9, 3, 14)]
    ids, mask = left_padded(prompts)
    with torch.no_grad():
        out = theirs(ids, attention_mask=mask, output_hidden_states=True)
        embedded = theirs(inputs_embeds=theirs.get_input_embeddings()(ids), attention_mask=mask)
        last = theirs(ids, attention_mask=mask, logits_to_keep=2)
    sites = ["blocks.0.hook_resid_pre", *(f"blocks.{k}.hook_resid_post" for k in range(3)), "ln_final.hook_normalized"]
    assert len(out.hidden_states) == len(sites) and theirs(ids).hidden_states is None
    for b, prompt in enumerate(prompts):
        with torch.no_grad(), capture(model, sites) as store:
            model(torch.tensor([prompt]))
        for site, state in zip(sites, out.hidden_states, strict=True):
            assert torch.allclose(state[b, -len(prompt) :], store[site][0], atol=1e-5), site
    assert torch.equal(embedded.logits, out.logits) and torch.equal(last.logits, out.logits[:, -2:])
    with pytest.raises(ValueError, match="input_ids and inputs_embeds"):
        theirs(ids, inputs_embeds=out.hidden_states[0])


def test_custom_code_generates_from_embeddings(custom):
    _, theirs = custom
    ids = tokens(2, 7, seed=3)
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6)[:, 7:]
    embeddings = theirs.get_input_embeddings()(ids).detach()
    got = theirs.generate(inputs_embeds=embeddings, attention_mask=torch.ones_like(ids), max_new_tokens=6)
    assert torch.equal(got, expected)


def test_gradient_checkpointing_of_custom_code_changes_no_gradient(custom):
    _, theirs = custom
    x, gradients = tokens(2, 20, seed=4), []
    theirs.train()
    for reentrant in (None, False, True):
        theirs.zero_grad()
        if reentrant is not None:
            theirs.gradient_checkpointing_enable({"use_reentrant": reentrant})
            theirs.enable_input_require_grads()
        theirs(x, labels=x).loss.backward()
        gradients.append([p.grad.clone() for p in theirs.parameters()])
    assert theirs.is_gradient_checkpointing
    theirs.gradient_checkpointing_disable()
    theirs.eval()
    assert all(torch.equal(a, b) for other in gradients[1:] for a, b in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize("custom_code", [False, True])
def test_weights_may_be_read_by_those_who_may_read_the_rest(tmp_path, custom_code):
    export.save(lively(LLAMA), tmp_path / "folder", custom_code=custom_code)
    assert {oct(p.stat().st_mode) for p in (tmp_path / "folder").iterdir()} == {"0o100644"}
