"""How well scores tell right responses from wrong ones, eight ways (MOPD, 2605.12652): within one prompt.

spearman, kendall       rank correlations of score and rightness (tau-b)
pairs                   share of right-wrong pairs with the right one strictly ahead
auc                     the same with ties counted half
point_biserial          Pearson correlation of score and rightness
brier_sigmoid           squared error of 1 / (1 + exp(-score)); smaller is better
brier_minmax            of the score scaled to 0..1 inside the prompt; smaller is better
top1                    whether a response of the highest score is right (ties: the share of them that is)
"""

import numpy as np

from probes.runs import correlation

METRICS = ("spearman", "kendall", "pairs", "auc", "point_biserial", "brier_sigmoid", "brier_minmax", "top1")


def metrics(score: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """All eight for the responses of one prompt, which must hold a right and a wrong one.

    Where all scores are equal there is no correlation: 0, as for scores that say nothing.
    """
    score, y = np.asarray(score, dtype=float), np.asarray(right, dtype=float)
    assert 0 < y.sum() < len(y), "a prompt needs a right and a wrong response"
    ahead = np.sign(score[y == 1][:, None] - score[y == 0][None, :])
    spread = score.max() - score.min()
    scaled = (score - score.min()) / spread if spread > 0 else np.full(len(score), 0.5)
    best = score == score.max()
    return {
        "spearman": correlation(score, y, "spearman"),
        "kendall": correlation(score, y, "kendall"),
        "pairs": float((ahead > 0).mean()),
        "auc": float((ahead > 0).mean() + (ahead == 0).mean() / 2),
        "point_biserial": correlation(score, y),
        "brier_sigmoid": float(np.mean((1 / (1 + np.exp(-score)) - y) ** 2)),
        "brier_minmax": float(np.mean((scaled - y) ** 2)),
        "top1": float(y[best].mean()),
    }
