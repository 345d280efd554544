"""Estimates with 95% intervals: Wilson's for one rate, bootstraps for what is computed from several measurements.

Rates measured on the same problems are compared problem by problem where the verdicts are known (`paired_*`), else as
independent samples, which gives wider intervals. Random draws come from a fixed seed: equal data give equal intervals.

The invariant that matters: measurements that all agree never give an interval of width zero (`unanimous`).

Legend: D draws, S seeds, Q measurements, G clusters. scipy.stats takes a second to import, so functions import it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # two-sided 95%
DRAWS = 10_000
CLUSTER_DRAWS = 2000
SHARE, CHANGE, ANY = (0.0, 1.0), (-1.0, 1.0), (-np.inf, np.inf)  # what a rate, a difference of rates, a mean can be
Verdicts = Sequence[bool] | np.ndarray


class Estimate(NamedTuple):
    """A measured value with its 95% interval and the number of measurements behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(right: int, n: int) -> Estimate:
    """Rate right/n with Wilson's score interval (Wilson 1927, JASA 22:209). n = 0 gives nan and the interval [0, 1]."""
    if not 0 <= right <= n:
        raise ValueError(f"right = {right} is not a count out of n = {n}; accepted: 0 <= right <= n")
    if n == 0:
        return Estimate(float("nan"), *SHARE, 0)
    from scipy.stats import binomtest

    interval = binomtest(int(right), int(n)).proportion_ci(method="wilson")
    return Estimate(right / n, float(interval.low), float(interval.high), n)


def unanimous(value: float, n: int, within: tuple[float, float]) -> Estimate:
    """The mean of a population, `within` these bounds, of which n measurements all gave `value` (ours).

    Resampling them never differs. But at least a share w of the population has that value, Wilson's lower bound of n in
    n, and the rest may lie anywhere within the bounds.
    """
    w = wilson(n, n).low
    low, high = (w * value + (1 - w) * bound for bound in within)
    return Estimate(value, low, high, n)


def difference(right_a: int, n_a: int, right_b: int, n_b: int) -> Estimate:
    """Rate a minus rate b of independent samples, with Newcombe's hybrid score interval (Newcombe 1998, method 10)."""
    a, b = wilson(right_a, n_a), wilson(right_b, n_b)
    d = a.value - b.value
    low = d - np.hypot(a.value - a.low, b.high - b.value)
    high = d + np.hypot(a.high - a.value, b.value - b.low)
    return Estimate(d, float(low), float(high), min(n_a, n_b))


def gap_closed(after: tuple[int, int], before: tuple[int, int], goal: tuple[int, int]) -> Estimate:
    """Share of the gap before -> goal that `after` closes; each argument is (right, n). Ours.

    The interval is that of the ratio (after - before) / (goal - before) under independent Jeffreys posteriors of the
    three rates. A gap of zero or less has no share: nan with an infinite interval.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.beta(right + 0.5, n - right + 0.5, DRAWS) for right, n in (after, before, goal)]
    return _ratio(*(right / n for right, n in (after, before, goal)), *drawn, n=min(after[1], before[1], goal[1]))


def paired_gap_closed(after: Verdicts, before: Verdicts, goal: Verdicts) -> Estimate:
    """`gap_closed` for verdicts on the same problems in the same order: bootstrap over problems, which keeps pairs."""
    verdicts = np.asarray([after, before, goal], dtype=float)
    n = verdicts.shape[1]
    # Resampling n problems = weighting each by a multinomial count; only the 8 patterns of three verdicts differ.
    patterns, counts = np.unique(verdicts, axis=1, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(n, counts / n, DRAWS) @ patterns.T / n
    found = _ratio(*verdicts.mean(axis=1), *drawn.T, n=n)
    return gap_closed(*((int(sum(v)), n) for v in verdicts)) if found.low == found.high else found


def paired_difference(a: Verdicts, b: Verdicts) -> Estimate:
    """Rate a minus rate b for verdicts on the same problems in the same order: bootstrap over problems."""
    n, d = len(a), np.subtract(np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    if n == 0 or (d == d[0]).all():
        return unanimous(float(d.mean()) if n else float("nan"), n, CHANGE)
    share = [(d > 0).mean(), (d < 0).mean(), (d == 0).mean()]
    drawn_D3 = np.random.default_rng(0).multinomial(n, share, DRAWS)
    return _between((drawn_D3[:, 0] - drawn_D3[:, 1]) / n, float(d.mean()), n)


def nested_mean(seeds: Sequence[np.ndarray], within: tuple[float, float]) -> Estimate:
    """The mean over seeds of each seed's mean over its problems; its bootstrap draws seeds, then their problems.

    seeds: what was measured on each problem (a verdict, or a difference of two), float[n] for every seed; within: its
    bounds. With one seed this is the bootstrap over problems. Few seeds make it narrow: three cannot show how far a
    fourth may lie.
    """
    return nested_test(seeds, within)[0]


def nested_test(seeds: Sequence[np.ndarray], within: tuple[float, float]) -> tuple[Estimate, float]:
    """`nested_mean`, and the two-sided p-value of "the mean is 0" from the same draws; if all agree, of a sign test."""
    rng, count = np.random.default_rng(0), len(seeds)
    value, n = float(np.mean([np.mean(seed) for seed in seeds])), sum(len(seed) for seed in seeds)
    if len(np.unique(np.concatenate(seeds))) == 1:
        return unanimous(value, n, within), min(1.0, 2 * 0.5**n) if value else 1.0
    chosen_DS = rng.integers(count, size=(DRAWS, count))
    mean_DS = np.empty((DRAWS, count))
    for s, seed in enumerate(seeds):
        entries, counts = np.unique(np.asarray(seed, dtype=float), return_counts=True)
        here = chosen_DS == s
        mean_DS[here] = rng.multinomial(len(seed), counts / len(seed), int(here.sum())) @ entries / len(seed)
    drawn_D = mean_DS.mean(axis=1)
    tail = min(np.mean(drawn_D <= 0), np.mean(drawn_D >= 0))
    return _between(drawn_D, value, n), min(1.0, 2 * max(float(tail), 1 / DRAWS))


def _between(drawn_D: np.ndarray, value: float, n: int) -> Estimate:
    """`value` with the middle 95% of what was drawn."""
    low, high = np.quantile(drawn_D, [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (Holm 1979), which scipy lacks: name -> adjusted p."""
    names = sorted(p_values, key=lambda name: p_values[name])
    steps = [min(1.0, (len(names) - i) * p_values[name]) for i, name in enumerate(names)]
    return dict(zip(names, np.maximum.accumulate(steps).tolist(), strict=True)) if names else {}


def correlation(x: np.ndarray, y: np.ndarray, kind: str = "pearson") -> float:
    """Pearson's, Spearman's or Kendall's (tau-b) correlation; 0 where one of the two does not vary."""
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    measure = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}[kind]
    return float(measure(x, y).statistic)


def auroc(score_Q: np.ndarray, positive_Q: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann and Whitney); nan without both."""
    positive_Q = np.asarray(positive_Q, dtype=bool)
    positives = int(positive_Q.sum())
    if positives in (0, len(positive_Q)):
        return float("nan")
    from scipy.stats import rankdata

    wins = rankdata(score_Q)[positive_Q].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(positive_Q) - positives)))


def _ratio(after, before, goal, after_D, before_D, goal_D, n: int) -> Estimate:
    """The ratio and the quantiles of its draws (axis D); a draw without a gap counts as infinite, by its sign."""
    if goal <= before:
        return Estimate(float("nan"), float("-inf"), float("inf"), n)
    gap_D = goal_D - before_D
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_D = np.where(gap_D > 0, (after_D - before_D) / gap_D, np.sign(after_D - before_D) * np.inf)
    low, high = np.quantile(np.nan_to_num(ratio_D, nan=0.0), [0.025, 0.975], method="nearest")
    return Estimate(float((after - before) / (goal - before)), float(low), float(high), n)


class ClusterBootstrap:
    """Bootstrap over clusters: repeated measurements of one problem are drawn together (Davison and Hinkley 1997).

    `cluster_Q` says which of Q measurements belong together. One set of draws serves every quantity that is measured
    on them, so differences are paired. `n` of an estimate counts measurements.
    """

    def __init__(self, cluster_Q: np.ndarray, draws: int = CLUSTER_DRAWS) -> None:
        names, self._place_Q = np.unique(cluster_Q, return_inverse=True)
        self.n = len(names)
        share = np.full(max(1, self.n), 1 / max(1, self.n))  # without a cluster there is nothing to draw, and no rate
        self._weight_DG = np.random.default_rng(0).multinomial(self.n, share, draws).astype(np.float32)

    def _count(self, among_Q: np.ndarray) -> int:
        """Clusters with a measurement among these."""
        return len(np.unique(self._place_Q[among_Q]))

    def rate(self, right_Q: np.ndarray, among_Q: np.ndarray | None = None) -> Estimate:
        """Share of `right_Q` (among those of `among_Q`) with its interval."""
        among_Q = np.ones(len(right_Q), dtype=bool) if among_Q is None else among_Q
        n = int(among_Q.sum())
        if n == 0:
            return wilson(0, 0)
        value = float(np.mean(right_Q[among_Q]))
        return self.statistic(lambda rate_D: rate_D, value, n, (right_Q, among_Q), within=SHARE)

    def statistic(
        self, quantity: Callable[..., np.ndarray], value: float, n: int, *rates: tuple, within: tuple[float, float]
    ) -> Estimate:
        """`value` with the interval of `quantity(rate_D, ...)`, whose rates are (right_Q, among_Q) in each draw."""
        drawn_D = quantity(*(self._drawn(*rate) for rate in rates))
        return self._interval(drawn_D, value, n, within, min((self._count(among_Q) for _, among_Q in rates), default=0))

    @staticmethod
    def _interval(drawn_D: np.ndarray, value: float, n: int, within: tuple[float, float], clusters: int) -> Estimate:
        drawn_D = drawn_D[~np.isnan(drawn_D)]
        if len(drawn_D) == 0 or np.ptp(drawn_D) == 0:
            return unanimous(value, clusters, within)._replace(n=n)
        return _between(drawn_D, value, n)

    def _drawn(self, right_Q: np.ndarray, among_Q: np.ndarray) -> np.ndarray:
        """The rate in each draw, float64[D]; nan where a draw has none to count."""
        with np.errstate(invalid="ignore"):
            return self.sums(right_Q & among_Q) / self.sums(among_Q)

    def ratio(
        self, top_Q: np.ndarray, bottom_Q: np.ndarray | None = None, within: tuple[float, float] = ANY
    ) -> Estimate:
        """Sum of `top_Q` over sum of `bottom_Q` (default 1 each: the mean) with its interval; nan where nothing counts.
        n counts measurements whose `bottom_Q` is not zero. The weights of two calls are the same draws."""
        bottom_Q = np.ones(len(top_Q)) if bottom_Q is None else np.asarray(bottom_Q, dtype=float)
        n = int(np.count_nonzero(bottom_Q))
        if n == 0:
            return Estimate(float("nan"), float("nan"), float("nan"), 0)
        with np.errstate(invalid="ignore"):
            drawn_D = self.sums(top_Q) / self.sums(bottom_Q)
        value = float(np.sum(top_Q) / np.sum(bottom_Q))
        return self._interval(drawn_D, value, n, within, self._count(bottom_Q != 0))

    def sums(self, value_Q: np.ndarray) -> np.ndarray:
        """The sum of `value_Q` in each draw, float64[D]."""
        return self._weight_DG.astype(float) @ np.bincount(self._place_Q, weights=value_Q, minlength=self.n)

    def auroc(self, score_Q: np.ndarray, positive_Q: np.ndarray) -> Estimate:
        """Area under the ROC curve of `score_Q` for `positive_Q` (ties count half), with its interval."""
        positive_Q = np.asarray(positive_Q, dtype=bool)
        n = len(positive_Q)
        if not 0 < positive_Q.sum() < n:
            return Estimate(float("nan"), float("nan"), float("nan"), n)
        _, tie_Q = np.unique(score_Q, return_inverse=True)
        drawn = [_auroc(w_DG[:, self._place_Q], tie_Q, positive_Q) for w_DG in np.array_split(self._weight_DG, 20)]
        clusters = min(self._count(positive_Q), self._count(~positive_Q))
        return self._interval(np.concatenate(drawn), auroc(score_Q, positive_Q), n, SHARE, clusters)


def _auroc(weight_DQ: np.ndarray, tie_Q: np.ndarray, positive_Q: np.ndarray) -> np.ndarray:
    """AUROC under weights, float64[D]. `tie_Q`: rank of each score among the different ones."""
    order = np.argsort(tie_Q, kind="stable")
    starts = np.flatnonzero(np.diff(tie_Q[order], prepend=-1))
    of_DK = [np.add.reduceat((weight_DQ * side_Q)[:, order], starts, axis=1) for side_Q in (positive_Q, ~positive_Q)]
    below_DK = of_DK[1].cumsum(1) - of_DK[1] / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (of_DK[0] * below_DK).sum(1) / (of_DK[0].sum(1) * of_DK[1].sum(1))
