"""Part 2.2's published accuracies (2408.16293, Figs. 4, 7, 10), in percent, to be set beside ours.

Theirs: GPT-2 with 12 layers of 12 heads, rotary positions (124 M weights), 39 (med) or 52 (hard) thousand million
tokens, fully right solutions of 4096 problems a column, the best of two seeds and of greedy and beam search.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """Mean over all columns of med and hard, pq and qp; med pq with exactly 23 operations (trained: up to 15)."""

    average: float
    far: float | None


# (kind of mistake, rate, masked), trained from scratch
SCRATCH = {
    ("none", 0.0, False): Row(91.8, 77.7),
    ("retry", 0.05, False): Row(93.3, 83.9),
    ("retry", 0.05, True): Row(93.1, 78.5),
    ("retry", 0.1, False): Row(94.9, 90.6),
    ("retry", 0.1, True): Row(94.8, 87.5),
    ("retry", 0.2, False): Row(96.2, 91.6),
    ("retry", 0.2, True): Row(96.3, 87.8),
    ("retry", 0.4, False): Row(96.4, 90.6),
    ("retry", 0.5, False): Row(97.5, 93.6),
    ("retry", 0.5, True): Row(97.7, 94.8),
    ("miss", 0.05, False): Row(91.0, 76.3),
    ("miss", 0.1, False): Row(92.6, 81.6),
    ("miss", 0.2, False): Row(93.5, 87.1),
    ("miss", 0.5, False): Row(88.9, 83.2),
    ("weak", 0.05, False): Row(94.1, 86.4),
    ("weak", 0.05, True): Row(93.0, None),
    ("weak", 0.1, False): Row(95.5, 90.1),
    ("weak", 0.1, True): Row(95.3, None),
    ("weak", 0.2, False): Row(95.1, 91.0),
    ("weak", 0.2, True): Row(95.0, None),
    ("weak", 0.5, False): Row(74.6, 61.1),
    ("weak", 0.5, True): Row(73.1, None),
}
# twice the tokens, all on retry data
DOUBLE = {
    ("retry", 0.2, False): Row(97.3, None),
    ("retry", 0.2, True): Row(96.7, None),
    ("retry", 0.5, False): Row(97.7, None),
    ("retry", 0.5, True): Row(98.4, None),
}
# as many tokens on retry data after error-free pretraining, all weights trained
CONTINUED = {
    ("retry", 0.2, False): Row(96.9, None),
    ("retry", 0.2, True): Row(96.9, None),
    ("retry", 0.5, False): Row(98.0, None),
    ("retry", 0.5, True): Row(97.9, None),
}
# the same with LoRA, the best rank of 4 to 256
LORA = {
    ("retry", 0.2, False): Row(92.1, None),
    ("retry", 0.2, True): Row(92.9, None),
    ("retry", 0.5, True): Row(94.0, None),
}
# error-free model, sentences that a detector doubts drawn again: greedy, probe, perfect detector (Fig. 3b)
REGRET = {"greedy": 91.5, "probe": 92.9, "perfect": 95.7}
