"""V-probing: a nearly linear probe that may ask its question in the model's own terms (Part 2.1, section 4).

Input: the text, then `<start> NAME <end>`. Trained are a rank-r update of the input embedding, E + U V for all tokens,
and a linear head on the last hidden state at `<end>`. The model stays frozen: what the head reads has to be computed
by the model's own weights. The paper's optimiser: AdamW, no warm-up, linear decay to 0.

Legend: Q queries, B rows, T tokens, C channels, R rank, S sites, V vocabulary.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.gpt import GPT
from probes.activations import names_between_markers, read, right_padded
from probes.labels import Queries
from synth.hashing import key

SITE = "ln_final.hook_normalized"
BUCKET = 16  # batches sorted by length together: little padding


@dataclass(frozen=True)
class VProbeConfig:
    """`rank` of the update; `steps` of `batch` queries each; `lr` and `weight_decay` of AdamW (defaults: the paper's)."""

    tasks: tuple[str, ...] = ("nece", "value")
    rank: int = 8
    steps: int = 300
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01


class Hidden(nn.Module):
    """The model up to its last hidden state, as a module of its own for `functional_call`."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model.hidden(tokens_BT)


class VProbe(nn.Module):
    """The trainable part. U starts at zero, so the first states are the model's own; V and the head are random."""

    def __init__(self, model: GPT, classes: int, rank: int, seed: int) -> None:
        super().__init__()
        c, generator = model.config, torch.Generator().manual_seed(key(seed, "vprobe weights", 0))
        self.u_VR = nn.Parameter(torch.zeros(c.vocab_size, rank))
        self.v_RC = nn.Parameter(torch.randn(rank, c.n_embd, generator=generator) * VSTD)
        self.head = nn.Parameter(torch.randn(classes, c.n_embd, generator=generator) / c.n_embd**0.5 * 0.1)
        self.bias = nn.Parameter(torch.zeros(classes))

    def embedding(self, model: GPT) -> Tensor:
        return model.embed.weight + self.u_VR @ self.v_RC
VSTD=1.0
