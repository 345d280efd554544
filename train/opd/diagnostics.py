"""What every method reports about its batches, whatever it trains on.

Distribution measures are over all response positions and the full vocabulary, so they compare methods that train on
different divergences. Task and length measures are of sampled responses only: gold documents would flatter them.

Legend: B rows, N response positions, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from synth.world import EOS
from train.opd.divergence import kl_entries
from train.opd.repetition import periods
from train.opd.rollouts import ORIGINS, Rollouts
from train.opd.teacher import Scored


def entropy(log_NV: Tensor) -> Tensor:
    """Entropy of each position's distribution, in nats: float[N]."""
    return -(log_NV.exp() * log_NV).sum(dim=-1)


@torch.no_grad()
def distribution_sums(scored: Scored) -> dict[str, float]:
    """Sums over the positions of one micro-batch; divided by the number of positions they are means.

    student_entropy, and with a teacher: teacher_entropy, rkl = KL(q, p), fkl = KL(p, q), all exact, in nats, and
    advantage = log p(y) - log q(y) of the response tokens.
    """
    q_NV, p_NV = scored.student_NV, scored.teacher_NV
    sums = {"student_entropy": entropy(q_NV).sum()}
    if p_NV is not None:
        token_N1 = scored.token_N[:, None]
        sums["teacher_entropy"] = entropy(p_NV).sum()
        sums["rkl"] = kl_entries(q_NV, p_NV).sum()
        sums["fkl"] = kl_entries(p_NV, q_NV).sum()
        sums["advantage"] = (p_NV.gather(-1, token_N1) - q_NV.gather(-1, token_N1)).sum()
    return {name: float(value) for name, value in sums.items()}


@torch.no_grad()
def stop_sums(scored: Scored, eos: int = EOS) -> dict[str, float]:
    """Where responses end by themselves: sum of the student's probability of ending there, and how many do."""
    ends_N = scored.token_N == eos
    return {"eos": float(scored.student_NV[ends_N, eos].exp().sum()), "ends": float(ends_N.sum())}


def response_measures(rollouts: Rollouts) -> dict[str, float]:
    """Length, truncation, repetition and accuracy of the sampled responses; empty when all are gold.

    length_mean, length_p95: tokens. truncation: share that was cut at the budget. repetition: share that ends in a loop
    (`repetition.py`). accuracy_strict: every step right; accuracy_answer: the final answer right.
    """
    sampled_B = (rollouts.origin_B != ORIGINS.index("gold")).cpu().numpy()
    if not sampled_B.any():
        return {}
    length_B = rollouts.length_B.cpu().numpy()
    loops_B = periods(rollouts.response_BR.cpu().numpy(), length_B) > 0
    return {
        "length_mean": float(length_B[sampled_B].mean()),
        "length_p95": float(np.percentile(length_B[sampled_B], 95)),
        "truncation": float(1.0 - rollouts.finished_B.cpu().numpy()[sampled_B].mean()),
        "repetition": float(loops_B[sampled_B].mean()),
        "accuracy_strict": float(rollouts.verdicts.right[sampled_B].mean()),
        "accuracy_answer": float(rollouts.verdicts.answer_right[sampled_B].mean()),
    }
