"""pass@k: the chance that at least one of k sampled solutions is right, estimated from n >= k of them without bias.

    1 - C(n - c, k) / C(n, k)   with c right ones of n          (Chen et al. 2021, 2107.03374)

The naive 1 - (1 - c/n)^k is biased. Intervals are bootstraps over problems, the unit that was drawn.
Try: `python -c "from train.passes import pass_at_k; print(pass_at_k([0, 1, 4], 4, 2))"`.
"""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

from train.intervals import CLUSTER_DRAWS, wilson


def pass_at_k(right_P: Sequence[int], n: int, k: int) -> np.ndarray:
    """The estimate for each problem with this many right solutions of n: float64[P]."""
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: accepted: 1 to n={n}")
    by_count = np.array([1.0 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return by_count[np.asarray(right_P, dtype=np.int64)]


def budgets(n: int) -> list[int]:
    """The k that are reported: 1, 2, 4, ... and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def passes(right_PN: np.ndarray, ops_P: np.ndarray) -> dict[str, Any]:
    """pass@k of P problems with n solutions each, overall and by number of operations; JSON.

    Args:
        right_PN: bool[P, n], whether a solution is right. ops_P: int[P].
    Returns:
        problems, samples (n), k: {"1": {rate, low, high}, ...}, and by_ops: the same rates without intervals.
    """
    problems, n = right_PN.shape
    right_P = right_PN.sum(axis=1)
    found = {str(k): pass_at_k(right_P, n, k) for k in budgets(n)}
    rows = []
    for ops in np.unique(ops_P):
        of = ops_P == ops
        rows.append({"ops": int(ops), "problems": int(of.sum())} | {k: float(v[of].mean()) for k, v in found.items()})
    rates = {k: _interval(value_P) for k, value_P in found.items()}
    return {"problems": problems, "samples": n, "k": rates, "by_ops": rows}


def _interval(value_P: np.ndarray) -> dict[str, float]:
    """Mean over problems with a percentile bootstrap; where all are 0 or all 1 no draw differs: then Wilson's."""
    mean, count = float(value_P.mean()), len(value_P)
    if (value_P == value_P[0]).all() and value_P[0] in (0.0, 1.0):
        sure = wilson(round(mean * count), count)
        return {"rate": mean, "low": sure.low, "high": sure.high}
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), CLUSTER_DRAWS) @ value_P / count
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"rate": mean, "low": float(low), "high": float(high)}
