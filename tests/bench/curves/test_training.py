"""What does a training step cost, the wider the model or the longer its rows? By compiled pass and modules, with the
share of the matrix rate measured beside them."""

from collections.abc import Callable

import pytest
import torch

from models import GPT, GPTConfig, gpt
from models.flops import training_flops_per_token
from tests.bench.curves.points import curve, matrix_rate, memory
from tests.bench.paired_timing import ratios
from train.core.optimizer import MuonConfig, OptimConfig, Optimizer
from train.core.torch_setup import set_up

LIKE = {"n_layer": 4, "mlp": "relu2", "rope_fraction": 0.5, "qk_norm": True, "token_shift": 2}
VOCABULARY, HEAD = 128, 32
WIDTHS, LENGTHS, TOKENS, WIDTH = (32, 64, 128, 256, 512), (32, 64, 128, 256, 512, 1024), 1024, 64
NUMBERS = ("tokens/s", "by modules", "ratio", "GFLOP/s", "matrix GFLOP/s", "share", "MiB")


def steps(width: int, length: int, count: int, shortcut: object) -> Callable[[], int]:
    """`count` steps with Muon on rows of random tokens, 1024 a step, by the pass that `shortcut` is."""
    config = GPTConfig(VOCABULARY, n_head=max(1, width // HEAD), n_embd=width, context=length, **LIKE)
    model = GPT(config, seed=0)
    optimizer = Optimizer(model, OptimConfig(muon=MuonConfig(), clip=1.0))
    tokens = torch.randint(VOCABULARY, (TOKENS // length, length), generator=torch.Generator().manual_seed(0))

    def work() -> int:
        gpt.shortcut = shortcut
        for _ in range(count):
            logits = model(tokens)
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.clip()
            optimizer.step(1.0)
            optimizer.zero_grad()
        return count * TOKENS

    return work


def point(width: int, length: int) -> tuple[float, ...]:
    """The numbers of one width and length."""
    compiled, count = gpt.shortcut, max(1, 256 // width)
    try:
        both = [steps(width, length, count, way) for way in (compiled, None)]
        ours, modules, each = ratios(*both, rounds=3)
        needed = memory(steps(width, length, 1, compiled))
    finally:
        gpt.shortcut = compiled
    config = GPTConfig(VOCABULARY, n_head=max(1, width // HEAD), n_embd=width, context=length, **LIKE)
    done, best = ours * training_flops_per_token(config, length) / 1e9, matrix_rate(TOKENS, width)
    return ours, modules, sorted(each)[len(each) // 2], done, best, done / best, needed


@pytest.mark.parametrize(("what", "sizes"), [("width", WIDTHS), ("context", LENGTHS)])
def test_training(what, sizes):
    set_up()
    rows = [(size, *point(*((size, 64) if what == "width" else (WIDTH, size)))) for size in sizes]
    columns = ("channels" if what == "width" else "tokens in a row", *NUMBERS)
    print(curve(f"training-{what}", f"Training against {what}", columns, rows, ("tokens/s", "by modules")))
