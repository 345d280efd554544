"""Intervals for counts: Wilson for one rate, simulation for what is computed from several rates.

Every number of a report comes with n and a 95% interval, and all of them are made here. Rates measured on the same
problems are compared problem by problem where the verdicts are at hand (`paired_*`), else as independent samples
(`share`), which is wider and so errs on the careful side. Draws come from a fixed key: the same counts give the same
interval. Try: `python -c "from train.statistics import wilson; print(wilson(46, 50))"`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # two-sided 95%
DRAWS = 10_000
CLUSTER_DRAWS = 2000


class Estimate(NamedTuple):
    """A measured value with its 95% interval and the number of problems behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(right: int, n: int) -> Estimate:
    """Rate right/n with Wilson's score interval (Wilson 1927, JASA 22:209). n = 0 gives nan and the interval [0, 1]."""
    if not 0 <= right <= n:
        raise ValueError(f"right = {right} is not a count out of n = {n}; accepted: 0 <= right <= n")
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    p = right / n
    middle = p + Z * Z / (2 * n)
    half = Z * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    low = 0.0 if right == 0 else float((middle - half) / scale)
    high = 1.0 if right == n else float((middle + half) / scale)
    return Estimate(p, low, high, n)


def difference(right_a: int, n_a: int, right_b: int, n_b: int) -> Estimate:
    """Rate a minus rate b of independent samples, with Newcombe's hybrid score interval (Newcombe 1998, method 10)."""
    a, b = wilson(right_a, n_a), wilson(right_b, n_b)
    d = a.value - b.value
    low = d - np.hypot(a.value - a.low, b.high - b.value)
    high = d + np.hypot(a.high - a.value, b.value - b.low)
    return Estimate(d, float(low), float(high), min(n_a, n_b))


def share(after: tuple[int, int], before: tuple[int, int], goal: tuple[int, int]) -> Estimate:
    """Share of the gap before -> goal that `after` closes; each argument is (right, n). Ours.

    The interval is that of the ratio (after - before) / (goal - before) under independent Jeffreys posteriors of the
    three rates. A gap of zero or less has no share: nan with an infinite interval.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.beta(right + 0.5, n - right + 0.5, DRAWS) for right, n in (after, before, goal)]
    return _ratio(*(right / n for right, n in (after, before, goal)), *drawn, n=min(after[1], before[1], goal[1]))


def paired_share(after: Sequence[bool], before: Sequence[bool], goal: Sequence[bool]) -> Estimate:
    """`share` for verdicts on the same problems in the same order: bootstrap over problems, which keeps pairs."""
    verdicts = np.asarray([after, before, goal], dtype=float)
    n = verdicts.shape[1]
    # Resampling n problems = weighting each by a multinomial count; only the 8 patterns of three verdicts differ.
    patterns, counts = np.unique(verdicts, axis=1, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(n, counts / n, DRAWS) @ patterns.T / n
    return _ratio(*verdicts.mean(axis=1), *drawn.T, n=n)


def paired_difference(a: Sequence[bool], b: Sequence[bool]) -> Estimate:
    """Rate a minus rate b for verdicts on the same problems in the same order: bootstrap over problems."""
    n = len(a)
    counts = np.array(
        [sum(x and not y for x, y in zip(a, b, strict=True)), sum(y and not x for x, y in zip(a, b, strict=True))]
    )
    drawn_D2 = np.random.default_rng(0).multinomial(n, [*counts / n, 1 - counts.sum() / n], DRAWS)[:, :2]
    low, high = np.quantile((drawn_D2[:, 0] - drawn_D2[:, 1]) / n, [0.025, 0.975])
    return Estimate(float((counts[0] - counts[1]) / n), float(low), float(high), n)


def nested_mean(seeds: Sequence[np.ndarray]) -> Estimate:
    """The mean over seeds of each seed's mean over its problems; its bootstrap draws seeds, then their problems.

    seeds: what was measured on each problem (a verdict, or a difference of two), float[n] for every seed. With one seed
    this is the bootstrap over problems. Few seeds make it narrow: three cannot show how far a fourth may lie.
    """
    value, drawn_D = nested_draws(seeds)
    low, high = np.quantile(drawn_D, [0.025, 0.975])
    return Estimate(value, float(low), float(high), sum(len(seed) for seed in seeds))


def nested_draws(seeds: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """The value of `nested_mean` and its draws, float64[D]; the same key for all, so equal n draw alike."""
    rng, count = np.random.default_rng(0), len(seeds)
    chosen_DS = rng.integers(count, size=(DRAWS, count))
    mean_DS = np.empty((DRAWS, count))
    for s, seed in enumerate(seeds):
        entries, counts = np.unique(np.asarray(seed, dtype=float), return_counts=True)
        here = chosen_DS == s
        mean_DS[here] = rng.multinomial(len(seed), counts / len(seed), int(here.sum())) @ entries / len(seed)
    return float(np.mean([np.mean(seed) for seed in seeds])), mean_DS.mean(axis=1)


def _ratio(after, before, goal, after_D, before_D, goal_D, n: int) -> Estimate:
    """The ratio and the quantiles of its draws (axis D); draws without a gap count as infinitely far on their side."""
    if goal <= before:
        return Estimate(float("nan"), float("-inf"), float("inf"), n)
    gap_D = goal_D - before_D
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_D = np.where(gap_D > 0, (after_D - before_D) / gap_D, np.sign(after_D - before_D) * np.inf)
    low, high = np.quantile(np.nan_to_num(ratio_D, nan=0.0), [0.025, 0.975], method="nearest")
    return Estimate(float((after - before) / (goal - before)), float(low), float(high), n)


class ClusterBootstrap:
    """Bootstrap over clusters: what is measured several times on one problem is drawn together (Davison, Hinkley 1997).

    `cluster_Q` tells which of Q measurements belong together. One set of draws serves every quantity that is measured
    on them, so differences are paired. Legend: D draws, G clusters.
    """

    def __init__(self, cluster_Q: np.ndarray, draws: int = CLUSTER_DRAWS) -> None:
        names, self._place_Q = np.unique(cluster_Q, return_inverse=True)
        self.n = len(names)
        share = np.full(max(1, self.n), 1 / max(1, self.n))  # without a cluster there is nothing to draw, and no rate
        self._weight_DG = np.random.default_rng(0).multinomial(self.n, share, draws).astype(np.float32)

    def rate(self, right_Q: np.ndarray, among_Q: np.ndarray | None = None) -> Estimate:
        """Share of `right_Q` (among those of `among_Q`) with its interval; n counts measurements.

        Where all have one outcome no draw differs: then Wilson's interval, clusters counting once each.
        """
        among_Q = np.ones(len(right_Q), dtype=bool) if among_Q is None else among_Q
        n = int(among_Q.sum())
        if n == 0:
            return wilson(0, 0)
        value = float(np.mean(right_Q[among_Q]))
        if value in (0.0, 1.0):
            clusters = len(np.unique(self._place_Q[among_Q]))
            whole = wilson(clusters if value else 0, clusters)
            return Estimate(value, whole.low, whole.high, n)
        return self.of(lambda rate_D: rate_D, value, n, (right_Q, among_Q))

    def of(self, quantity: Callable[..., np.ndarray], value: float, n: int, *rates: tuple) -> Estimate:
        """`value` with the quantiles of `quantity(rate_D, ...)`, whose rates are (right_Q, among_Q) in each draw."""
        drawn_D = quantity(*(self._drawn(*rate) for rate in rates))
        low, high = np.nanquantile(drawn_D, [0.025, 0.975])
        return Estimate(value, float(low), float(high), n)

    def _drawn(self, right_Q: np.ndarray, among_Q: np.ndarray) -> np.ndarray:
        """The rate in each draw, float64[D]; nan where a draw has none to count."""
        right_G, n_G = (
            np.bincount(self._place_Q, weights=w, minlength=self.n).astype(np.float32)
            for w in (right_Q & among_Q, among_Q)
        )
        with np.errstate(invalid="ignore"):
            return (self._weight_DG @ right_G).astype(float) / (self._weight_DG @ n_G)

    def ratio(self, top_Q: np.ndarray, bottom_Q: np.ndarray | None = None) -> Estimate:
        """Sum of `top_Q` over sum of `bottom_Q` (default 1 each: the mean) with its interval; nan where nothing counts.

        n counts measurements whose `bottom_Q` is not nought. The weights of two calls are the same draws.
        """
        bottom_Q = np.ones(len(top_Q)) if bottom_Q is None else np.asarray(bottom_Q, dtype=float)
        n = int(np.count_nonzero(bottom_Q))
        if n == 0:
            return Estimate(float("nan"), float("nan"), float("nan"), 0)
        with np.errstate(invalid="ignore"):
            drawn_D = self.sums(top_Q) / self.sums(bottom_Q)
        low, high = np.nanquantile(drawn_D, [0.025, 0.975])
        return Estimate(float(np.sum(top_Q) / np.sum(bottom_Q)), float(low), float(high), n)

    def sums(self, value_Q: np.ndarray) -> np.ndarray:
        """The sum of `value_Q` in each draw, float64[D]."""
        return self._weight_DG.astype(float) @ np.bincount(self._place_Q, weights=value_Q, minlength=self.n)

    def auroc(self, score_Q: np.ndarray, positive_Q: np.ndarray) -> Estimate:
        """Area under the ROC curve of `score_Q` for `positive_Q` (ties count half), with its interval."""
        positive_Q = np.asarray(positive_Q, dtype=bool)
        n = len(positive_Q)
        if not 0 < positive_Q.sum() < n:
            return Estimate(float("nan"), float("nan"), float("nan"), n)
        value = auroc(score_Q, positive_Q)
        _, tie_Q = np.unique(score_Q, return_inverse=True)
        drawn = [_auroc(w_DG[:, self._place_Q], tie_Q, positive_Q) for w_DG in np.array_split(self._weight_DG, 20)]
        low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975])
        return Estimate(value, float(low), float(high), n)


def auroc(score_Q: np.ndarray, positive_Q: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann and Whitney); nan without both."""
    if not len(score_Q):
        return float("nan")
    _, tie_Q = np.unique(score_Q, return_inverse=True)
    return float(_auroc(np.ones((1, len(tie_Q))), tie_Q, np.asarray(positive_Q, dtype=bool))[0])


def _auroc(weight_DQ: np.ndarray, tie_Q: np.ndarray, positive_Q: np.ndarray) -> np.ndarray:
    """AUROC under weights, float64[D]. `tie_Q`: rank of each score among the different ones."""
    order = np.argsort(tie_Q, kind="stable")
    starts = np.flatnonzero(np.diff(tie_Q[order], prepend=-1))
    of_DK = [np.add.reduceat((weight_DQ * side_Q)[:, order], starts, axis=1) for side_Q in (positive_Q, ~positive_Q)]
    below_DK = of_DK[1].cumsum(1) - of_DK[1] / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (of_DK[0] * below_DK).sum(1) / (of_DK[0].sum(1) * of_DK[1].sum(1))
