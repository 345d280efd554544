"""What do rollouts cost, the more rows there are at a time? A fixed number of tokens each, beside `generate`."""

import torch

from models.decode.sampling import sample
from synth.world.vocabulary import PAD
from tests.bench.curves.points import curve, memory
from tests.bench.model_peers import Rollouts
from tests.bench.paired_timing import ratios
from train.core.torch_setup import set_up

BATCHES, NEW = (1, 4, 16, 64, 256), 32
COLUMNS = ("rows", "tokens/s", "generate, tokens/s", "ratio", "MiB", "generate, MiB")


def test_rollouts_against_batch():
    set_up()
    both, rows = Rollouts("llama, nano", until_eos=False), []
    prompts, both.new = (both.prompts * 2)[: max(BATCHES)], NEW

    def ours(size: int) -> int:
        generator = torch.Generator().manual_seed(0)
        found = sample(both.model, prompts[:size], NEW, eos=-1, pad=PAD, generator=generator, max_rows=size)
        return int(found.lengths_B.sum())

    def theirs(size: int) -> int:
        both.prompts = prompts[:size]
        return both.generate()

    for size in BATCHES:
        a, b, each = ratios(lambda size=size: ours(size), lambda size=size: theirs(size), rounds=3)
        needed = [memory(lambda size=size, work=work: work(size)) for work in (ours, theirs)]
        rows.append((size, a, b, sorted(each)[1], *needed))
    print(curve("rollouts", "Rollouts against batch, llama of nano's size", COLUMNS, rows, COLUMNS[1:3]))
