"""Three steps of every method in the processes that torchrun starts; the first writes what came out. Not a test.

torchrun --nproc-per-node=2 -m tests.helpers.distil_steps OUT
"""

import sys

import torch

from synth.dataset import Source
from synth.spec import preset
from synth.store import encodings
from tests.helpers.opd_batches import model
from tests.helpers.opd_methods import NAMES, descend, judged, method, objective
from train.core.distributed import Group, process_group
from train.opd.rollout_batch import Rollouts


def steps(name: str, group: Group) -> dict:
    """Losses, metrics and costs of three steps of descent, the weights after them, and what was learned from."""
    source = Source(preset("tiny", ops=3, edges=6), seed=0, split="train", stream="distillation")
    student, seen = model(source, 0), []

    def watch(step: int, rollouts: Rollouts) -> None:
        seen.append(rollouts.tokens_BT[rollouts.tokens_BT != rollouts.pad].double().sum().item())

    o = objective(method(name), source, student, micro_batch=3, group=group)
    o.on_batch = watch
    losses, metrics = [], []
    for k in range(3):
        student.zero_grad()
        output = o(student, k)
        output.loss.backward()
        losses.append(group.mean(output.loss.detach()))
        metrics.append(
            {"tokens": output.tokens, **output.metrics, **{f"{k} flops": v for k, v in output.flops.items()}}
        )
        descend(student)
    weights = torch.cat([p.detach().flatten() for p in student.parameters()])
    return {"losses": losses, "metrics": metrics, "weights": weights, "seen": seen}


def main(out: str) -> None:
    encodings.check = judged
    with process_group(torch.device("cpu")) as group:
        found = {name: steps(name, group) for name in NAMES}
        if group.is_main:
            torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
