"""pass@k: how often at least one of k sampled solutions of a problem is fully right.

From n samples of which c are right, the unbiased estimate for one problem is 1 - C(n-c, k) / C(n, k) (Chen et al. 2021,
2107.03374). All problems have the same n; intervals resample problems. Try: `python -m train.evaluate
checkpoint=zoo/tiny-student-0 passes.samples=16`.
"""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from models.gpt import GPT
from synth.dataset import Source
from synth.ranges import AboveZero, Count, Positive, settings
from train.evaluation.evaluator import BATCH, Evaluation, Sampling, evaluate
from train.statistics import SHARE, nested_mean


@settings
class PassConfig:
    """`samples` solutions of each of `problems` problems at `temperature`; 0 samples: pass@k is not measured."""

    samples: Count = 0
    problems: Positive = 128
    temperature: AboveZero = 1.0


def pass_at_k(right_N: Sequence[int], n: int, k: int) -> np.ndarray:
    """The estimate for each problem, float64[N], from how many of its `n` samples were right; 1 <= k <= n."""
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: accepted: 1 to n={n}")
    by_count = np.array([1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return by_count[np.asarray(right_N, dtype=np.int64)]


def sample_solutions(model: GPT, source: Source, config: PassConfig, seed: int, batch: int = BATCH) -> Evaluation:
    """The solutions that `config` asks for, those of one problem in consecutive rows."""
    sampling = Sampling(temperature=config.temperature, seed=seed)
    return evaluate(model, source, np.repeat(np.arange(config.problems), config.samples).tolist(), sampling, batch)


def pass_rates(right_PN: np.ndarray, ops_P: np.ndarray) -> dict[str, Any]:
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
        same = ops_P == ops
        row = {"ops": int(ops), "problems": int(same.sum())}
        rows.append(row | {k: float(value_P[same].mean()) for k, value_P in estimates.items()})
    rates = {k: {"rate": rate.value, "low": rate.low, "high": rate.high} for k, rate in at.items()}
    return {"samples": n, "problems": problems, "right": right_P.tolist(), "at": rates, "by_ops": rows}


def pass_rates_of(drawn: Evaluation, samples: int) -> dict[str, Any]:
    """`pass_rates` of what `sample_solutions` returned."""
    return pass_rates(drawn.verdicts.right.reshape(-1, samples), drawn.ops[::samples])
