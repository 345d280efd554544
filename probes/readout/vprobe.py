"""V-probing: a nearly linear probe that may ask its question in the model's own terms (Part 2.1, section 4).

Input: the text, then `<start> A <end>` (dep: `<start> A <mid> B <end>`). Trained are a rank-r update of the input
embedding, E + U V for all tokens, and a linear head on the last hidden state at `<end>`. The model stays frozen: what
the head reads has to be computed by the model's own weights. Part 2.2's second version of it (section 3) also updates
every query and value map, with a small rank: `attention_rank`. As in the paper: AdamW, no warm-up, linear decay to 0.
Ours: a step takes texts with all of their queries, which costs little more than one query of each
(`probes.readout.activations`).

Legend: Q queries, P texts, C channels, R rank, K classes, V vocabulary, L layers.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.gpt import GPT
from probes.queries.labels import TaskNames
from probes.queries.table import Queries, Split
from probes.readout.activations import Batch, Texts, last_states, names_between_markers, read
from probes.readout.linear import Reading
from synth.kernel.progress import Progress
from synth.kernel.rng import key
from synth.ranges import AboveZero, Count, NotNegative, Positive, settings

SITE = "ln_final.hook_normalized"
BUCKET = 8  # steps whose texts are sorted by length together: little padding
LOG_EVERY = 25

LossLog = Callable[[int, float], None]  # step, mean loss since the last call


@settings
class VProbeConfig:
    """`tasks` it is trained for; `rank` of the update, and `attention_rank` of those of query and value maps.

    `steps` of `texts` texts each; `lr` and `weight_decay` of AdamW. `selectivity`: also train it for the control task
    `names` (`probes.readout.controls`), a third more work. The papers: rank 8, 100,000 steps of 256 queries, lr 2e-3,
    weight decay 0.01 (Part 2.1); ranks 32 and 2, 16,000 steps of 8, lr 1e-3 or 5e-4, no decay (Part 2.2, version 2). A
    short budget needs a higher lr.
    """

    tasks: TaskNames = ("nece", "value")  # what is read
    rank: Positive = 8  # of the update of the embedding
    attention_rank: Count = 0  # of the update of the attention
    steps: Positive = 300  # of training
    texts: Positive = 32  # in a step
    lr: AboveZero = 1e-2  # learning rate
    weight_decay: NotNegative = 0.01  # of its weights
    selectivity: bool = True


class VProbe(nn.Module):
    """The trainable part. One factor of every update is zero at first, so that the first states are the model's own.
    The other, and the head, are random."""

    def __init__(self, model: GPT, classes: int, config: VProbeConfig, seed: int) -> None:
        super().__init__()
        c, rank = model.config, config.attention_rank
        generator = torch.Generator().manual_seed(key(seed, "vprobe weights", 0))
        self.u_VR = nn.Parameter(torch.zeros(c.vocab_size, config.rank))
        self.v_RC = nn.Parameter(torch.randn(config.rank, c.n_embd, generator=generator))
        self.head_KC = nn.Parameter(torch.randn(classes, c.n_embd, generator=generator) * 0.1 / c.n_embd**0.5)
        self.bias_K = nn.Parameter(torch.zeros(classes))
        # of query and value maps, in this order
        self.b_L2CR = nn.Parameter(torch.zeros(c.n_layer, 2, c.n_embd, rank))
        self.a_L2RC = nn.Parameter(torch.randn(c.n_layer, 2, rank, c.n_embd, generator=generator) / c.n_embd**0.5)

    def updated(self, model: GPT) -> dict[str, Tensor]:
        """The model's weights that the probe replaces, by name: its input embedding and its query and value maps."""
        weights = {"embed.weight": model.embed.weight.detach() + self.u_VR @ self.v_RC}
        for block, (query_CC, value_CC) in zip(model.blocks, self.b_L2CR @ self.a_L2RC, strict=True):
            if self.b_L2CR.shape[-1]:
                update = torch.cat((query_CC, torch.zeros_like(query_CC), value_CC))  # keys stay
                weights[f"blocks.{block.attn.layer}.attn.qkv.weight"] = block.attn.qkv.weight.detach() + update
        return weights

    def forward(self, states_QC: Tensor) -> Tensor:
        """Logits [Q, K] of last hidden states."""
        return F.linear(states_QC, self.head_KC, self.bias_K)


class _LastStates(nn.Module):
    """`last_states` as a module, so that `functional_call` can put other weights in the model's place."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return last_states(self.model, batch)


def measure(model: GPT, split: Split, classes: int, config: VProbeConfig, seed: int, log: LossLog) -> list[Reading]:
    """Trains and tests the probe; `model` is not changed. `log(step, mean loss since the last)` comes regularly."""
    probe = train(model, split.fit, classes, config, seed, log)
    right = [predict(model, probe, part) == part.label for part in (split.validation, split.test)]
    return [Reading(SITE, model.config.n_layer, float(right[0].mean()), right[1], {})]


def train(
    model: GPT, queries: Queries, classes: int, config: VProbeConfig, seed: int, log: LossLog = lambda step, loss: None
) -> VProbe:
    """A probe after `config.steps` steps: a pure function of its arguments."""
    device = model.embed.weight.device
    frozen = _LastStates(copy.deepcopy(model).requires_grad_(False))
    probe = VProbe(model, classes, config, seed).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    texts, labels = Texts(queries, names_between_markers(queries)), torch.from_numpy(queries.label).to(device)
    parts = order(texts.cut, config.texts, seed)
    losses = []
    for step in Progress(range(config.steps), desc="V-probe", leave=False):
        batch = texts.batch(next(parts), device)
        weights = {f"model.{name}": weight for name, weight in probe.updated(model).items()}
        states_QC = functional_call(frozen, weights, (batch,))
        loss = F.cross_entropy(probe(states_QC), labels[batch.which_Q])
        optimizer.param_groups[0]["lr"] = config.lr * (1 - step / config.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            log(step + 1, sum(losses) / len(losses))
            losses.clear()
    return probe


@torch.no_grad()
def predict(model: GPT, probe: VProbe, queries: Queries) -> np.ndarray:
    """Most likely labels, int64[Q]."""
    asking = copy.deepcopy(model)
    for name, weight in probe.updated(model).items():
        asking.get_parameter(name).copy_(weight)
    states_QC = read(asking, queries, names_between_markers(queries), [SITE], dtype=torch.float32)[0]
    states_QC = states_QC.to(probe.bias_K.device)
    return probe(states_QC).argmax(-1).cpu().numpy()


def order(lengths_P: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of `size` texts (all of them, if there are fewer) for ever: every epoch each text at most once. Texts of
    similar length stand in one batch; the order is a pure function of (seed, epoch)."""
    size = min(size, len(lengths_P))
    epoch = 0
    while True:
        rng = np.random.Generator(np.random.Philox(key(seed, "vprobe order", epoch)))
        shuffled = rng.permutation(len(lengths_P))
        whole = shuffled[: len(shuffled) // size * size]
        for k in range(0, len(whole), size * BUCKET):
            bucket = whole[k : k + size * BUCKET]
            batches = bucket[np.argsort(lengths_P[bucket], kind="stable")].reshape(-1, size)
            yield from batches[rng.permutation(len(batches))]
        epoch += 1
