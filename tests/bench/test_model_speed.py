"""Training steps and rollouts beside `transformers` at the same shape, weights, batch and dtype. Try: `make bench`.

The peer of training is the plain loop that its users write: model(input_ids, labels), backward, clip, AdamW; that of
rollouts is `generate` with its cache. Ours is what `train.pretrain` and evaluation run. Both on one thread; lines with
rates and ratios are printed, nothing is asserted about time.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from models.export import to_hugging_face
from models.gpt import GPT, GPTConfig
from models.sampling import sample
from synth.world import EOS, PAD
from train.data import BatchConfig, Batches, DataConfig
from train.optim import OptimConfig, Optimizer
from train.pretrain import NextToken

pairs = runpy.run_path(str(Path(__file__).with_name("pairs.py")))
line, ratios = pairs["line"], pairs["ratios"]

SHAPES = {
    "llama of nano's size": {"n_layer": 4, "n_head": 2, "n_embd": 64, "mlp": "swiglu", "tied": False},
    "gpt2 of nano's size": {
        "n_layer": 4,
        "n_head": 2,
        "n_embd": 64,
        "norm": "layernorm",
        "mlp": "gelu",
        "bias": True,
        "tied": True,
    },
    "llama of mini's size": {"n_layer": 6, "n_head": 4, "n_embd": 128, "mlp": "swiglu", "tied": False},
}
DATA = DataConfig("tiny", {"ops": 3})
IGNORED = -100  # the label that transformers leaves out


def pair(shape: str) -> tuple[GPT, torch.nn.Module]:
    model = GPT(GPTConfig(DATA.encoding().size, context=512, **SHAPES[shape]))
    return model, to_hugging_face(model, eos=EOS, pad=PAD)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_step(shape):
    torch.set_num_threads(1)
    model, theirs = pair(shape)
    batches = Batches(DATA.source("train"), BatchConfig(documents=16))
    objective = NextToken(batches, torch.device("cpu"))
    optimizer = Optimizer(model, OptimConfig(muon=None, clip=1.0))
    peer = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
    at = {"ours": 0, "theirs": 0}

    def ours() -> int:
        tokens = 0
        for _ in range(20):
            output = objective(model, at["ours"])
            output.loss.backward()
            optimizer.clip()
            optimizer.step(1.0)
            optimizer.zero_grad()
            tokens, at["ours"] = tokens + output.tokens, at["ours"] + 1
        return tokens

    def plain() -> int:
        tokens = 0
        for _ in range(20):
            batch = batches.batch(at["theirs"])
            labels = batch.tokens_BT.masked_fill(~batch.loss_BT, IGNORED)
            out = theirs(input_ids=batch.tokens_BT, attention_mask=(batch.tokens_BT != PAD).long(), labels=labels)
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            peer.step()
            peer.zero_grad()
            tokens, at["theirs"] = tokens + batch.tokens, at["theirs"] + 1
        return tokens

    print("\n" + line(f"training step, {shape}", "tokens", *ratios(ours, plain)))


@pytest.mark.parametrize("shape", SHAPES)
def test_rollouts(shape):
    torch.set_num_threads(1)
    model, theirs = pair(shape)
    documents = DATA.source("test").documents(range(128))
    prompts = [documents.prompt_tokens(i).tolist() for i in range(128)]
    width = max(map(len, prompts))
    padded = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    new = int((np.diff(documents.offsets) - documents.prompt).max()) * 2

    def ours() -> int:
        generator = torch.Generator().manual_seed(0)
        return int(sample(model, prompts, new, eos=EOS, pad=PAD, generator=generator).lengths_B.sum())

    def generate() -> int:
        with torch.no_grad():
            out = theirs.generate(padded, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=new)
        response = out[:, width:]
        ends = (response == EOS).long()
        return int(((ends.cumsum(1) - ends) == 0).sum())

    print("\n" + line(f"rollouts, batch 128, {shape}", "tokens", *ratios(ours, generate, rounds=5)))
