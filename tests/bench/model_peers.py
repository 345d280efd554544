"""Training steps and rollouts, ours and those of `transformers`, as pieces of work that return the tokens done."""

import numpy as np
import torch

from models.decode.sampling import sample
from models.gpt import GPT, GPTConfig
from models.huggingface.export import to_hugging_face
from synth.world.vocabulary import EOS, PAD
from train.core.optimizer import OptimConfig, Optimizer
from train.data.batches import BatchConfig, Batches, DataConfig
from train.pretrain import NextToken

LLAMA = {"mlp": "swiglu", "mlp_ratio": 8 / 3, "tied": False}
GPT2 = {"norm": "layernorm", "mlp": "gelu", "bias": True, "tied": True}
NANO, MINI = {"n_layer": 4, "n_head": 2, "n_embd": 64}, {"n_layer": 6, "n_head": 4, "n_embd": 128}
SHAPES = {
    "llama, nano": NANO | LLAMA,
    "gpt2, nano": NANO | GPT2,
    "llama, mini": MINI | LLAMA,
    "gpt2, mini": MINI | GPT2,
}
DATA = DataConfig("tiny", {"ops": 3})
IGNORED = -100  # the label that transformers leaves out
STEPS, BATCH, ROWS = 16, 16, 128
LEARNING = 240  # steps


def pair(shape: str) -> tuple[GPT, torch.nn.Module]:
    model = GPT(GPTConfig(DATA.encoding().size, context=512, **SHAPES[shape]))
    return model, to_hugging_face(model, eos=EOS, pad=PAD)


def batches() -> Batches:
    return Batches(DATA.source("train"), BatchConfig(documents=BATCH))


class Ours:
    """`STEPS` steps as `train.core.loop` takes them; called, it returns the tokens trained on."""

    def __init__(self, model: GPT, source: Batches) -> None:
        self.model, self.objective = model, NextToken(source, torch.device("cpu"))
        self.optimizer, self.at = Optimizer(model, OptimConfig(muon=None, clip=1.0)), 0

    def __call__(self) -> int:
        tokens = 0
        for _ in range(STEPS):
            output = self.objective(self.model, self.at)
            output.loss.backward()
            self.optimizer.clip()
            self.optimizer.step(1.0)
            self.optimizer.zero_grad()
            tokens, self.at = tokens + output.tokens, self.at + 1
        return tokens


def learned(model: GPT) -> GPT:
    """The model after LEARNING steps: it ends its solutions, if not rightly."""
    step = Ours(model, batches())
    for _ in range(LEARNING // STEPS):
        step()
    model.zero_grad()
    return model


class Plain:
    """The same steps over a model of `transformers`."""

    def __init__(self, model: torch.nn.Module, source: Batches) -> None:
        self.model, self.batches, self.at = model.train(), source, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.99), weight_decay=0.0)

    def __call__(self) -> int:
        tokens = 0
        for _ in range(STEPS):
            batch = self.batches.batch(self.at)
            labels = batch.tokens_BT.masked_fill(~batch.loss_BT, IGNORED)
            mask = (batch.tokens_BT != PAD).long()
            self.model(input_ids=batch.tokens_BT, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            tokens, self.at = tokens + batch.tokens, self.at + 1
        return tokens


class Rollouts:
    """Continuations by both, at most `ROWS` at a time: of `ROWS` prompts, a fixed number of tokens; or, by a model that
    has learnt to end its solutions, of four times as many prompts until the end token."""

    def __init__(self, shape: str, until_eos: bool) -> None:
        self.model, _ = pair(shape)
        self.eos, n = (EOS, 4 * ROWS) if until_eos else (-1, ROWS)  # -1: no token
        if until_eos:
            learned(self.model)
        self.theirs = to_hugging_face(self.model.requires_grad_(False), eos=EOS, pad=PAD)
        self.theirs.generation_config.eos_token_id = EOS if until_eos else None
        documents = DATA.source("test").documents(range(n))
        self.prompts = [documents.prompt_tokens(i).tolist() for i in range(n)]
        self.new = int((np.diff(documents.offsets) - documents.prompt).max()) * 2

    def ours(self) -> int:
        generator = torch.Generator().manual_seed(0)
        found = sample(self.model, self.prompts, self.new, eos=self.eos, pad=PAD, generator=generator, max_rows=ROWS)
        return int(found.lengths_B.sum())

    def generate(self) -> int:
        """Batch by batch, padded on the left; a batch ends with its last row."""
        tokens = 0
        for start in range(0, len(self.prompts), ROWS):
            prompts = self.prompts[start : start + ROWS]
            width = max(map(len, prompts))
            padded = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
            with torch.no_grad():
                out = self.theirs.generate(
                    padded, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=self.new, max_length=None
                )
            ends = (out[:, width:] == self.eos).long()
            tokens += int(((ends.cumsum(1) - ends) == 0).sum())
        return tokens
