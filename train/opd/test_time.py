"""Test-time baselines of distillation, with their cost: self-consistency, and a cascade from student to teacher.

    python -m train.opd.test_time student=RUN teacher=RUN samples=8

vote n: the most frequent answer of n samples of the student (2203.11171; first come, first served on a tie). cascade m:
that answer where m of all samples agree, else the teacher's greedy one. FLOPs are those of generation, per problem; a
prompt is read once for all its samples. Problems are of the test split; what distillation must beat at equal cost.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("test_time")

import sys
from dataclasses import field
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch

from models.gpt import GPT
from synth.dataset import Source
from synth.ranges import AboveZero, Positive, Range, settings
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.torch_setup import set_up
from train.data.batches import DataConfig, check_vocabulary
from train.evaluation.evaluator import Evaluation, PassConfig, evaluate, rate, sample_solutions
from train.opd.rollouts import NO_ANSWER, generation_flops
from train.runs.results import Run
from train.runs.run_folder import OutConfig, open_run
from train.tables import Table


@settings
class BaselinesConfig:
    """Settings of the command. samples: of the student to each problem, at `temperature`."""

    student: str = REQUIRED  # a run folder or checkpoint
    teacher: str = REQUIRED  # a run folder or checkpoint
    data: DataConfig = field(default_factory=DataConfig)
    problems: Positive = 256  # how many to solve
    samples: Annotated[int, Range(2)] = 8
    temperature: AboveZero = 1.0  # of the samples
    seed: int = 0  # of the samples
    threads: int = 1  # of the CPU
    device: str = "cpu"  # cpu, cuda or cuda:N
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/test_time", "test_time"))
    complete = staticmethod(partial(checkpoint.take_data, "student"))


def vote(answer_PN: np.ndarray, right_PN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the most frequent answer of each problem is right, bool[P], and how many samples gave it, int[P]."""
    same_PNN = (answer_PN[:, :, None] == answer_PN[:, None, :]) & (answer_PN != NO_ANSWER)[:, None, :]
    votes_PN = same_PNN.sum(axis=2) * (answer_PN != NO_ANSWER)
    best_P = votes_PN.argmax(axis=1)
    rows_P = np.arange(len(answer_PN))
    return right_PN[rows_P, best_P], votes_PN[rows_P, best_P]


def flops(model: GPT, done: Evaluation, samples: int, kept: int) -> np.ndarray:
    """FLOPs of the first `kept` of each problem's `samples` responses: float64[P]."""
    lengths = (done.documents.prompt.reshape(-1, samples), done.length.reshape(-1, samples))
    rows = zip(*(torch.from_numpy(np.asarray(x[:, :kept], dtype=np.int64)) for x in lengths), strict=True)
    return np.array([generation_flops(model, prompt_B, length_B, kept) for prompt_B, length_B in rows])


def strategies(student: GPT, teacher: GPT, source: Source, config: BaselinesConfig) -> list[dict[str, Any]]:
    """Accuracy of the answer, with a 95% interval, and FLOPs per problem of each strategy."""
    n, problems = config.samples, range(config.problems)
    greedy = {name: evaluate(model, source, problems) for name, model in (("student", student), ("teacher", teacher))}
    drawn = sample_solutions(student, source, PassConfig(n, config.problems, config.temperature), config.seed)
    answer_PN, right_PN = (x.reshape(-1, n) for x in (drawn.verdicts.answer, drawn.verdicts.answer_right))
    cost = {name: flops(model, greedy[name], 1, 1) for name, model in (("student", student), ("teacher", teacher))}
    found = {f"{name}, greedy": (greedy[name].verdicts.answer_right, cost[name]) for name in greedy}
    for kept in sorted({2**i for i in range(1, n.bit_length()) if 2**i <= n} | {n}):
        right_P, _ = vote(answer_PN[:, :kept], right_PN[:, :kept])
        found[f"vote {kept}"] = right_P, flops(student, drawn, n, kept)
    right_P, agree_P = vote(answer_PN, right_PN)
    all_P, sure = flops(student, drawn, n, n), greedy["teacher"].verdicts.answer_right
    for wanted in range(n // 2 + 1, n + 1):
        asks_P = agree_P < wanted
        found[f"cascade {wanted}"] = np.where(asks_P, sure, right_P), all_P + asks_P * cost["teacher"]
    return [{"strategy": name, **rate(right), "flops": float(spent.mean())} for name, (right, spent) in found.items()]


def main(config: BaselinesConfig) -> None:
    """Measures into a run folder; a complete one is only shown again."""
    device, models = set_up(config.threads, config.device), []
    for setting in ("student", "teacher"):
        path = getattr(config, setting)
        check_vocabulary(checkpoint.notes(path, setting), config.data, path)
        models.append(checkpoint.load_model(path, setting, str(device)))
    inputs = {name: checkpoint.weights_digest(getattr(config, name), name) for name in ("student", "teacher")}
    seeds = {"data": config.data.seed, "sampling": config.seed}
    fingerprint = config.data.fingerprint()
    with open_run(plain(config), inputs, seeds, fingerprint, entry="train.opd.test_time", kind="analysis") as run:
        if not run.complete:
            rows = strategies(models[0], models[1], config.data.source("test", "evaluation"), config)
            run.write_json("summary.json", {"strategies": rows, "n": config.problems})
    rows = [
        [row["strategy"], f"{row['rate']:.1%} [{row['low']:.1%}, {row['high']:.1%}]", f"{row['flops']:.2e}"]
        for row in Run(run.path).summary["strategies"]
    ]
    print(Table(["strategy", "answer right [95%]", "FLOPs a problem"], rows).text("lr"))
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("test_time", BaselinesConfig, main, __doc__ or ""))
