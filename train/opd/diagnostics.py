"""What every method reports about its batches, whatever it trains on.

Distribution measures are over all response positions and the full vocabulary, so they compare methods that train on
different divergences. Task and length measures are of sampled responses only: gold documents would flatter them.

Legend: B rows, N response positions, V vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from synth.world import EOS
from train.opd.kinds import kl_entries
from train.opd.outcome import OutcomeConfig, clipped
from train.opd.repetition import periods
from train.opd.rollouts import ORIGINS, Rollouts
from train.opd.teacher import Scored
from train.opd.transform import entropy

OVERLAP = 8  # likeliest tokens of each whose overlap is reported


@torch.no_grad()
def distribution_sums(scored: Scored) -> dict[str, float]:
    """Sums over the positions of one micro-batch; divided by the number of positions they are means.

    student_entropy, and with a teacher: teacher_entropy, rkl = KL(q, p), fkl = KL(p, q), all exact, in nats,
    entropy_gap = |H_q - H_p|, advantage = log p(y) - log q(y) of the response tokens, and of the 8 likeliest tokens of
    each (2604.13016) overlap, the share that is common, and overlap_mass, what the student gives to those.
    """
    q_NV, p_NV, token_N1 = scored.student_NV, scored.teacher_NV, scored.token_N[:, None]
    sums = {"student_entropy": entropy(q_NV).sum()}
    if p_NV is not None:
        k = min(OVERLAP, q_NV.shape[-1])
        tops = [torch.zeros_like(z, dtype=torch.bool).scatter(-1, z.topk(k).indices, True) for z in (q_NV, p_NV)]
        common_NV = tops[0] & tops[1]
        sums["overlap"] = common_NV.sum() / k
        sums["overlap_mass"] = (q_NV.exp() * common_NV).sum()
        sums["entropy_gap"] = (entropy(q_NV) - entropy(p_NV)).abs().sum()
        sums["teacher_entropy"] = entropy(p_NV).sum()
        sums["rkl"] = kl_entries(q_NV, p_NV).sum()
        sums["fkl"] = kl_entries(p_NV, q_NV).sum()
        sums["advantage"] = (p_NV.gather(-1, token_N1) - q_NV.gather(-1, token_N1)).sum()
    return {name: float(value) for name, value in sums.items()}


@torch.no_grad()
def ratio_sums(scored: Scored, part: Rollouts) -> dict[str, float]:
    """rho, rho2: the student's probability of a token over that of sampling it, squared; of sampled rows only."""
    if (part.origin_B != ORIGINS.index("student")).any():
        return {}
    rho_N = (scored.student_NV.gather(-1, scored.token_N[:, None]).squeeze(-1) - scored.behaviour_N).exp()
    return {"rho": float(rho_N.sum()), "rho2": float((rho_N**2).sum())}


@torch.no_grad()
def stop_sums(scored: Scored, eos: int = EOS) -> dict[str, float]:
    """Where responses end by themselves: sum of the student's probability of ending there, and how many do."""
    ends_N = scored.token_N == eos
    return {"eos": float(scored.student_NV[ends_N, eos].exp().sum()), "ends": float(ends_N.sum())}


@torch.no_grad()
def outcome_sums(scored: Scored, advantage_B: Tensor, config: OutcomeConfig) -> dict[str, float]:
    """clip_share: positions whose gradient the clip takes away; sign_conflict: where the teacher would push the token
    the other way than the outcome does."""
    sums = {}
    if config.clip is not None:
        sums["clip_share"] = float(clipped(scored, advantage_B, config).sum())
    if scored.teacher_NV is not None:
        token_N1 = scored.token_N[:, None]
        d_N = (scored.teacher_NV.gather(-1, token_N1) - scored.student_NV.gather(-1, token_N1)).squeeze(-1)
        sums["sign_conflict"] = float((d_N * advantage_B[scored.row_N] < 0.0).sum())
    return sums


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
