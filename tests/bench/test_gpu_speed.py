"""On a CUDA card: training as a share of the card's own bf16 matrix rate, and rollouts beside continuous batching.

The matrix rate is measured in the same pairs (8192 x 8192 products); the FLOPs of a step are those of the ledger
(`models.flops.flops_per_token`, three forward passes). Times are wall seconds with the card waited for: `make bench`.
"""

import time
from collections.abc import Callable

import pytest
import torch
from transformers import GenerationConfig

from models.decode.sampling import sample
from models.gpt import GPT
from models.huggingface.export import to_hugging_face
from models.sizes import FOLDER, read_size
from synth.world.vocabulary import EOS, PAD
from tests.bench.paired_timing import line, ratios
from train.core.optimizer import OptimConfig, Optimizer
from train.core.torch_setup import set_up
from train.data.batches import BatchConfig, Batches, DataConfig
from train.pretrain import NextToken

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

DATA = DataConfig("med")
SIDE, STEPS, WINDOW, DOCUMENTS, PROMPTS = 8192, 8, 1024, 256, 512


def timed(work: Callable[[], float]) -> Callable[[], tuple[float, float]]:
    """Units and wall seconds of `work`, from an idle card to an idle card."""

    def run() -> tuple[float, float]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        units = work()
        torch.cuda.synchronize()
        return units, time.perf_counter() - start

    return run


@pytest.mark.parametrize("size", ["gpt2-12-12", "llama-12-12"])
def test_training_share_of_the_matrix_rate(size):
    device = set_up(1, "cuda", "bfloat16")
    model = GPT(read_size(FOLDER / f"{size}.yaml", DATA.encoding().size)).to(device)
    batches = Batches(DATA.source("train"), BatchConfig(DOCUMENTS, packing="concat", window=WINDOW, loss_on="all"))
    objective = NextToken(batches, device, compiled=True, precision="bfloat16")
    optimizer, at = Optimizer(model, OptimConfig(muon=None)), {"step": 0}
    matrix = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)

    def train() -> float:
        flops = 0.0
        for _ in range(STEPS):
            output = objective(model, at["step"])
            output.loss.backward()
            optimizer.clip()
            optimizer.step(1.0)
            optimizer.zero_grad()
            flops, at["step"] = flops + output.flops["update"] / 1e9, at["step"] + 1
        return flops

    def products() -> float:
        for _ in range(50):
            matrix @ matrix
        return 50 * 2 * SIDE**3 / 1e9

    found = ratios(timed(train), timed(products))
    print("\n" + line(f"training in bf16 (peer: the card's matrix rate), {size}", "GFLOP", *found, goal=0.45))


def test_rollouts_beside_continuous_batching():
    device = set_up(1, "cuda", "bfloat16")
    model = GPT(read_size(FOLDER / "llama-12-12.yaml", DATA.encoding().size)).to(device, torch.bfloat16)
    theirs = to_hugging_face(model, eos=EOS, pad=PAD).to(device, torch.bfloat16)
    documents = DATA.source("test").documents(range(PROMPTS))
    prompts = [documents.prompt_tokens(i).tolist() for i in range(PROMPTS)]
    config = GenerationConfig(max_new_tokens=256, do_sample=True, top_k=0, eos_token_id=EOS, pad_token_id=PAD)

    def ours() -> float:
        generator = torch.Generator(device).manual_seed(0)
        out = sample(model, prompts, 256, eos=EOS, pad=PAD, generator=generator, max_rows=PROMPTS)
        return float(out.lengths_B.sum())

    def batching() -> float:
        found = theirs.generate_batch(inputs=prompts, generation_config=config)
        return float(sum(len(each.generated_tokens) for each in found.values()))

    found = ratios(timed(ours), timed(batching), rounds=3)
    print("\n" + line("rollouts in bf16 (peer: continuous batching), llama-12-12", "tokens", *found))
