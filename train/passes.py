"""pass@k: how often at least one of k sampled solutions of a problem is fully right.

From n samples of which c are right, the unbiased estimate for one problem is 1 - C(n-c, k) / C(n, k) (Chen et al. 2021,
2107.03374). All problems have the same n, and problems are what an interval draws. Try: `python -m train.evaluate
checkpoint=zoo/tiny-student-0 passes.samples=16`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np

from models.gpt import GPT
from synth.dataset import Source
from train.evaluation import Sampling, evaluate
from train.intervals import nested_mean


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
    return np.array([1 - comb(n - int(c), k) / comb(n, k) for c in right_N])


def measure_passes(model: GPT, source: Source, config: PassConfig, seed: int, batch: int) -> dict[str, Any]:
    """The rates at k = 1, 4, 16, ... up to the number of samples, each with its 95% interval over problems.

    Returns {"samples", "problems", "right": right samples of each problem, "at": {k: rate, low, high}}."""
    sampling = replace(Sampling(), temperature=config.temperature, seed=seed)
    index = np.repeat(np.arange(config.problems), config.samples)
    done = evaluate(model, source, index.tolist(), sampling, batch)
    right_N = done.verdicts.right.reshape(config.problems, config.samples).sum(axis=1)
    ks = [4**i for i in range(16) if 4**i <= config.samples]
    at = {k: nested_mean([pass_at_k(right_N, config.samples, k)]) for k in ks}
    rates = {str(k): {"rate": rate.value, "low": rate.low, "high": rate.high} for k, rate in at.items()}
    return {"samples": config.samples, "problems": config.problems, "right": right_N.tolist(), "at": rates}
