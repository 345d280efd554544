"""Test-time baselines of distillation, with their cost: self-consistency, and a cascade from student to teacher.

    python -m train.opd.test_time student=RUN teacher=RUN samples=8 demonstrations=2

vote n: the most frequent answer of n samples of the student (2203.11171; first come, first served on a tie). cascade m:
that answer where m of all samples agree, else the teacher's greedy one. FLOPs are those of generation, per problem; a
prompt is read once for all its samples. Problems are of the test split; what distillation must beat at equal cost.
demonstrations=k (in-context distillation): all of this once more with k other problems before each, solved by the
teacher, the nearest by their graphs of `pool` problems of the training split; to read them is in the cost, to have them
solved once is not. Only a model whose pretraining had several documents in a window (batch.packing=concat) can use
them.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("test_time")

import sys
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch

from models.gpt import GPT
from synth.contexts.privileged import before
from synth.dataset import Source
from synth.documents import Documents
from synth.problem.arrays import Integers, Problems
from synth.ranges import AboveZero, Count, Positive, Range, settings
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.torch_setup import set_up
from train.data.batches import DataConfig, check_vocabulary
from train.evaluation.evaluator import (
    Evaluation,
    PassConfig,
    check_context_length,
    evaluate,
    rate,
    sample_solutions,
)
from train.opd.rollout_batch import generation_flops, votes
from train.runs.results import Run
from train.runs.run_folder import OutConfig, open_run
from train.statistics import paired_difference
from train.tables import Table


@settings
class BaselinesConfig:
    """Settings of the command. samples: of the student to each problem, at `temperature`. demonstrations: solved
    problems before each, of `pool`; 0: none."""

    student: str = REQUIRED  # a run folder or checkpoint
    teacher: str = REQUIRED  # a run folder or checkpoint
    data: DataConfig = field(default_factory=DataConfig)
    problems: Positive = 256  # how many to solve
    samples: Annotated[int, Range(2)] = 8
    temperature: AboveZero = 1.0  # of the samples
    demonstrations: Count = 0  # solved problems before each
    pool: Positive = 256  # problems that these are chosen from
    seed: int = 0  # of the samples
    threads: int = 1  # of the CPU
    device: str = "cpu"  # cpu, cuda or cuda:N
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/test_time", "test_time"))
    complete = staticmethod(partial(checkpoint.take_data, "student"))


def vote(answer_PN: np.ndarray, right_PN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the most frequent answer of each problem is right, bool[P], and how many samples gave it, int[P]."""
    votes_PN = votes(answer_PN)
    best_P, rows_P = votes_PN.argmax(axis=1), np.arange(len(answer_PN))
    return right_PN[rows_P, best_P], votes_PN[rows_P, best_P]


def flops(model: GPT, done: Evaluation, samples: int, kept: int) -> np.ndarray:
    """FLOPs of the first `kept` of each problem's `samples` responses: float64[P]."""
    lengths = (done.documents.prompt.reshape(-1, samples), done.length.reshape(-1, samples))
    rows = zip(*(torch.from_numpy(np.asarray(x[:, :kept], dtype=np.int64)) for x in lengths), strict=True)
    return np.array([generation_flops(model, prompt_B, length_B, kept) for prompt_B, length_B in rows])


class Pool(NamedTuple):
    """Problems with the tokens of each, its solution and the end of it."""

    problems: Problems
    tokens: Sequence[np.ndarray]


def solved(teacher: GPT, source: Source, count: int) -> Pool:
    """The first problems of a stream with the teacher's greedy solutions; those that it did not end are left out."""
    found = evaluate(teacher, source, range(count))
    rows = np.flatnonzero(found.finished)
    if not len(rows):
        raise ValueError(f"demonstrations: the teacher ended none of pool={count} solutions; accepted: 0")
    prompts = (found.documents.prompt_tokens(int(row)) for row in rows)
    responses = (found.tokens_NR[row, : found.length[row]] for row in rows)
    tokens = [np.concatenate(both).astype(np.int32) for both in zip(prompts, responses, strict=True)]
    return Pool(found.documents.problems.take(rows), tokens)


def nearest(problems: Problems, pool: Problems, count: int) -> np.ndarray:
    """int[N, count]: the problems of the pool whose graphs are most alike, the nearest last.

    Alike: in depth, operations, sentences, needed parameters and edges, each in standard deviations of the pool.
    """
    of_graph = [0, 2, 3, 4, 5]
    here_NF, there_MF = (np.asarray(p.scalars[:, of_graph], dtype=float) for p in (problems, pool))
    scale_F = np.maximum(there_MF.std(axis=0), 1e-9)
    gap_NM = np.abs((here_NF[:, None] - there_MF[None]) / scale_F).sum(axis=2)
    return np.argsort(gap_NM, axis=1, kind="stable")[:, :count][:, ::-1]


class Demonstrated(Source):
    """The stream of `source` with `count` solved problems of a pool before each prompt."""

    def __init__(self, source: Source, pool: Pool, count: int) -> None:
        self.__dict__.update(source.__dict__)
        self.pool, self.count = pool, count

    def documents(self, indices: Integers) -> Documents:
        documents = super().documents(indices)
        rows_NK = nearest(documents.problems, self.pool.problems, self.count)
        return before(documents, [tuple(np.concatenate([self.pool.tokens[row] for row in rows])) for rows in rows_NK])


Found = dict[str, tuple[np.ndarray, np.ndarray]]  # strategy -> whether each answer is right, and FLOPs: [P] each


def of_student(student: GPT, source: Source, config: BaselinesConfig, teacher: tuple[np.ndarray, np.ndarray]) -> Found:
    """Greedy, votes and cascades of the student; `teacher`: whether its greedy answers are right, and their FLOPs."""
    n, greedy = config.samples, evaluate(student, source, range(config.problems))
    drawn = sample_solutions(student, source, PassConfig(n, config.problems, config.temperature), config.seed)
    answer_PN, right_PN = (x.reshape(-1, n) for x in (drawn.verdicts.answer, drawn.verdicts.answer_right))
    found = {"student, greedy": (greedy.verdicts.answer_right, flops(student, greedy, 1, 1))}
    for kept in sorted({2**i for i in range(1, n.bit_length()) if 2**i <= n} | {n}):
        right_P, _ = vote(answer_PN[:, :kept], right_PN[:, :kept])
        found[f"vote {kept}"] = right_P, flops(student, drawn, n, kept)
    right_P, agree_P = vote(answer_PN, right_PN)
    all_P, (sure_P, more_P) = flops(student, drawn, n, n), teacher
    for wanted in range(n // 2 + 1, n + 1):
        asks_P = agree_P < wanted
        found[f"cascade {wanted}"] = np.where(asks_P, sure_P, right_P), all_P + asks_P * more_P
    return found


def strategies(student: GPT, teacher: GPT, data: DataConfig, config: BaselinesConfig) -> list[dict[str, Any]]:
    """Accuracy of the answer, with a 95% interval, and FLOPs per problem of each strategy."""
    source, k = data.source("test", "evaluation"), config.demonstrations
    greedy = evaluate(teacher, source, range(config.problems))
    own = greedy.verdicts.answer_right, flops(teacher, greedy, 1, 1)
    found = {"teacher, greedy": own} | of_student(student, source, config, own)
    if k:
        shown = Demonstrated(source, solved(teacher, data.source("train", "demonstrations"), config.pool), k)
        check_context_length(shown, config.problems, student.config.context, f"demonstrations={k}")
        more = of_student(student, shown, config, own)
        found |= {f"{name}, {k} shown": value for name, value in more.items()}
    return [
        {"strategy": name, **rate(right), "flops": float(spent.mean())}
        | {"over_teacher": paired_difference(right.tolist(), own[0].tolist())._asdict()}
        for name, (right, spent) in found.items()
    ]


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
            rows = strategies(models[0], models[1], config.data, config)
            run.write_json("summary.json", {"strategies": rows, "n": config.problems})
    rows = [
        [row["strategy"], f"{row['rate']:.1%} [{row['low']:.1%}, {row['high']:.1%}]", f"{row['flops']:.2e}"]
        for row in Run(run.path).summary["strategies"]
    ]
    print(Table(["strategy", "answer right [95%]", "FLOPs a problem"], rows).text("lr"))
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("test_time", BaselinesConfig, main, __doc__ or ""))
