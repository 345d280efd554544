"""pass@k: how often at least one of k sampled solutions of a problem is fully right.

From n samples of which c are right, the unbiased estimate for one problem is 1 - C(n-c, k) / C(n, k) (Chen et al. 2021,
2107.03374). All problems have the same n, and problems are what an interval draws. Try: `python -m train.evaluate
checkpoint=zoo/tiny-student-0 passes.samples=16`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from models.gpt import GPT
from synth.dataset import Source
from train.evaluation.evaluator import BATCH, Evaluation, Sampling, evaluate
from train.statistics import SHARE, nested_mean


@dataclass(frozen=True)
class PassConfig:
    """`samples` solutions, at `temperature`, of each of `problems` problems; 0 samples: none of it."""

    samples: int = 0
    problems: int = 128
    temperature: float = 1.0

    def __post_init__(self):
        if self.samples < 0:
            raise ValueError(f"passes.samples={self.samples}: accepted: 0 or more")
        if self.problems < 1:
            raise ValueError(f"passes.problems={self.problems}: accepted: 1 or more")
        if not self.temperature > 0.0:
            raise ValueError(
                f"passes.temperature={self.temperature}: accepted: above 0, or the samples are all the same"
            )


def pass_at_k(right_N: Sequence[int], n: int, k: int) -> np.ndarray:
    """The estimate for each problem, float64[N], from how many of its `n` samples were right; 1 <= k <= n."""
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: accepted: 1 to n={n}")
    by_count = np.array([1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return by_count[np.asarray(right_N, dtype=np.int64)]


def sampled(model: GPT, source: Source, config: PassConfig, seed: int, batch: int = BATCH) -> Evaluation:
    """The solutions, those of a problem one after another."""
    sampling = Sampling(temperature=config.temperature, seed=seed)
    return evaluate(model, source, np.repeat(np.arange(config.problems), config.samples).tolist(), sampling, batch)


def passes(right_PN: np.ndarray, ops_P: np.ndarray) -> dict[str, Any]:
    """pass@k of P problems with n solutions each, for k = 1, 2, 4, ... and n.

    Args:
        right_PN: bool[P, n], whether a solution is right. ops_P: int[P].
    Returns:
        samples (n), problems (P), right: right samples of each problem, at: {k: rate, low, high}, the intervals over
        problems, and by_ops: the rates by number of operations.
    """
    problems, n = right_PN.shape
    right_P = right_PN.sum(axis=1)
    estimates = {str(k): pass_at_k(right_P, n, k) for k in sorted({2**i for i in range(n.bit_length())} | {n})}
    at = {k: nested_mean([value_P], SHARE) for k, value_P in estimates.items()}
    rows = []
    for ops in np.unique(ops_P):
        of = ops_P == ops
        row = {"ops": int(ops), "problems": int(of.sum())}
        rows.append(row | {k: float(value_P[of].mean()) for k, value_P in estimates.items()})
    rates = {k: {"rate": rate.value, "low": rate.low, "high": rate.high} for k, rate in at.items()}
    return {"samples": n, "problems": problems, "right": right_P.tolist(), "at": rates, "by_ops": rows}


def passes_of(done: Evaluation, samples: int) -> dict[str, Any]:
    """`passes` of what `sampled` made."""
    return passes(done.verdicts.right.reshape(-1, samples), done.ops[::samples])


def measure_passes(model: GPT, source: Source, config: PassConfig, seed: int, batch: int) -> dict[str, Any]:
    """Samples solutions and counts the right ones."""
    return passes_of(sampled(model, source, config, seed, batch), config.samples)
