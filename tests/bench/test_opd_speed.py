"""One step of on-policy distillation beside TRL's GKD trainer: rollout, teacher, loss, gradient, AdamW. `make bench`.

The same student and teacher (ours, exported), prompts, sampling law and divergence (generalised JSD, beta 0.5, student
rollouts only), one thread. The student has learnt to end its solutions, as one that is distilled has; with GPT-2's
vocabulary it has not. Tokens are those of prompts and responses that were learned from. Ours also writes diagnostics
and asks the checker. Memory is what a step adds to a process of its own. Nothing is asserted about time.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.gpt import GPT, GPTConfig
from models.huggingface.export import to_hugging_face
from synth.world.vocabulary import EOS, PAD
from tests.bench.model_peers import learned
from tests.bench.paired_timing import line, ratios
from tests.bench.peak_memory import CLEAR, added_by
from tests.helpers.commands import command
from train.core.optimizer import OptimConfig, Optimizer
from train.core.torch_setup import set_up
from train.data.batches import DataConfig
from train.export import for_generating
from train.opd.divergence.kl_and_jsd import JSD
from train.opd.method import Method
from train.opd.objective import Objective
from train.opd.rollout_batch import Prompts
from train.opd.source.rollout_sampling import GoldDocuments, StudentSampler
from train.opd.teacher.external_and_oracle import ExternalTeacher
from train.opd.teacher.teacher import Frozen, Teacher

DATA = DataConfig("tiny", {"ops": 3})
# layers, heads, channels, vocabulary (0: the world's own), prompts of a step, tokens of a response
Shape = tuple[int, int, int, int, int, int]
SHAPES: dict[str, Shape] = {
    "llama of nano's size": (4, 2, 64, 0, 64, 96),
    "llama of mini's size": (6, 4, 128, 0, 32, 48),
    "the vocabulary of GPT-2": (2, 2, 64, 50257, 16, 24),
}
RATE, FASTER = 1e-4, 3.0


def models(shape: Shape, fresh: bool = False) -> tuple[GPT, GPT]:
    """Student and teacher; the student has learnt to end its solutions, unless `fresh` or of another vocabulary."""
    layers, heads, width, size, *_ = shape
    config = GPTConfig(size or DATA.encoding().size, layers, heads, width, 512, mlp="swiglu", tied=False)
    student = GPT(config, 0)
    return student if fresh or size else learned(student), GPT(config, 1)


def ours(shape: Shape, fresh: bool = False) -> Callable[[], int]:
    """A function that makes one step and returns its tokens."""
    *_, count, new = shape
    student, teacher = models(shape, fresh)
    method = Method("gkd", StudentSampler(), divergence=JSD(beta=0.5))
    prompts = Prompts(DATA.source("train"), count, new, 0)
    GoldDocuments().draw(prompts, 0, student, None)  # the compiled generator and checker are no part of a step
    objective = Objective(method, prompts, Teacher(ExternalTeacher(), Frozen(teacher)), micro_batch=16)
    optimizer, at = Optimizer(student, OptimConfig(lr=RATE, clip=1.0)), iter(range(10**9))

    def step() -> int:
        output = objective(student, next(at))
        output.loss.backward()
        optimizer.clip()
        optimizer.step(1.0)
        optimizer.zero_grad()
        return output.tokens

    return step


def trl(shape: Shape, folder: Path, fresh: bool = False) -> Callable[[], int]:
    """The same with TRL's trainer: its `training_step`, then clip and AdamW as `transformers` does them."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    *_, count, new = shape
    student, teacher = (to_hugging_face(model, eos=EOS, pad=PAD) for model in models(shape, fresh))
    args = GKDConfig(
        output_dir=str(folder), lmbda=1.0, beta=0.5, temperature=1.0, max_new_tokens=new, use_cpu=True, report_to=[],
        per_device_train_batch_size=count, bf16=False, learning_rate=RATE, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GKDTrainer(
        student.train(), teacher, args, data_collator=list, train_dataset=Dataset.from_list([{"messages": []}]),
        processing_class=for_generating(DATA.encoding().tokenizer, 512),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    source, at = DATA.source("train"), iter(range(10**9))
    source.documents(range(count))
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, fused=True)

    def step() -> int:
        start = next(at) * count
        documents = source.documents(range(start, start + count))
        rows = [documents.prompt_tokens(i).tolist() for i in range(count)]
        width = max(map(len, rows))
        inputs = {
            "prompts": torch.tensor([[PAD] * (width - len(row)) + row for row in rows]),
            "prompt_attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        }
        trainer.training_step(trainer.model, inputs)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return int(inputs["attention_mask"].sum())

    return step


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_distillation(shape, tmp_path):
    pytest.importorskip("trl")
    set_up()
    measured = ratios(ours(SHAPES[shape]), trl(SHAPES[shape], tmp_path), rounds=5)
    print("\n" + line(f"distillation step, {shape}", "tokens", *measured, goal=FASTER))


@pytest.mark.skipif(not CLEAR.exists(), reason="needs the high-water mark of Linux")
@pytest.mark.parametrize("shape", SHAPES)
def test_its_memory(shape, tmp_path):
    """The ratio is theirs over ours: above 1, we need less."""
    pytest.importorskip("trl")
    found = []
    for who in ("ours", "trl"):
        done = command("tests.bench.test_opd_speed", who, shape, tmp_path, timeout=3600)
        done.check_returncode()
        found.append(float(done.stdout.split()[-1]))
    what = f"peak memory, distillation step, {shape} (peer over ours)"
    print("\n" + line(what, "MiB", *found, [found[1] / found[0]], goal=1.0, per=""))


def main(who: str, shape: str, folder: str) -> None:
    """Prints the MiB by which two steps raise the resident memory over what it was with both models loaded."""
    set_up()
    # Fresh models: one that has learnt leaves freed memory behind. Their responses are as long as allowed.
    size = SHAPES[shape]
    step = ours(size, fresh=True) if who == "ours" else trl(size, Path(folder), fresh=True)
    print(added_by(lambda: (step(), step())))


if __name__ == "__main__":
    main(*sys.argv[1:])
