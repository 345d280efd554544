"""How a divergence is computed at a position: over its support exactly, or from the sampled token alone.

The sampled forms estimate the reverse KL. What is differentiated decides what is learned: the plain log-ratio (k1) has
zero expected gradient and is refused, its policy gradient (pg) and half its square (k2) have that of the reverse KL,
and k3, a common default under the name of reverse KL, has that of the FORWARD KL.

Legend: N response positions, B rows, R response columns, V vocabulary, K entries of the support.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from train.opd.divergence.kl import KINDS, RESTS, generalised_kl_entries, kl_entries
from train.opd.teacher.targets import Scored

if TYPE_CHECKING:
    from train.opd.divergence.divergence import DivergenceConfig


def student_topk(scored: Scored, k: int) -> Tensor:
    """Indices of the student's k likeliest tokens at each position, held fixed within a step."""
    return scored.student_NV.detach().topk(k, dim=-1).indices


def teacher_topk(scored: Scored, k: int) -> Tensor:
    """Indices of the target's k likeliest tokens at each position."""
    assert scored.teacher_NV is not None
    return scored.teacher_NV.topk(k, dim=-1).indices


TOPK = {"student_topk": student_topk, "teacher_topk": teacher_topk}
SUPPORTS = ("full", *TOPK, "sampled")


def exact(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """The divergence summed over its support. With `entry_clip` each vocabulary entry counts at most that much.

    Entry clip: OPSD (2601.18734), sum_v min(p log(p/q), tau). The clipped sum can be negative and its gradient is zero
    exactly at the worst entries: a heuristic against a few dominating tokens, no longer a divergence.
    """
    entries_NK = exact_entries(scored, config)
    if config.entry_clip is not None:
        entries_NK = entries_NK.clamp(max=config.entry_clip)
    return entries_NK.sum(dim=-1)


def exact_entries(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """The entries over the support whose sum is the divergence, before any clip: float[N, K]."""
    assert scored.teacher_NV is not None
    p_NK, q_NK, entries = scored.teacher_NV, scored.student_NV, kl_entries
    if config.k is not None and config.rest is not None:
        index_NK = TOPK[config.support](scored, config.k)
        p_NK, q_NK = (RESTS[config.rest](log_NV, index_NK) for log_NV in (p_NK, q_NK))
        entries = generalised_kl_entries if config.rest == "general" else kl_entries
    share = config.beta if config.kind == "jsd" else config.alpha
    return KINDS[config.kind](p_NK, q_NK, entries, share or 0.0)


def sampled(scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
    """log p(y), log q(y) and log mu(y) of the response tokens, mu being the distribution they were drawn from."""
    assert scored.teacher_NV is not None
    index_N1 = scored.token_N[:, None]
    log_p_N = scored.teacher_NV.gather(-1, index_N1).squeeze(-1)
    log_q_N = scored.student_NV.gather(-1, index_N1).squeeze(-1)
    return log_p_N, log_q_N, scored.behaviour_N


def clipped_gain(ratio_N: Tensor, advantage_N: Tensor, low: float | None, high: float | None) -> Tensor:
    """PPO's min(r A, clip(r, 1 - low, 1 + high) A) (1707.06347); r A without a clip. `high` null means as `low`."""
    gain_N = ratio_N * advantage_N
    if low is None:
        return gain_N
    bounded_N = ratio_N.clamp(1.0 - low, 1.0 + (low if high is None else high))
    return torch.minimum(gain_N, bounded_N * advantage_N)


def future(reward_N: Tensor, scored: Scored, gamma: float, length_norm: bool) -> Tensor:
    """sum_{k>=1} gamma^k reward_{t+k} of the same response, at each position; rows must be whole.

    With `length_norm` divided by the number of tokens that follow (MiniLLM: otherwise short empty answers win).
    """
    row_N, time_N = scored.row_N, scored.time_N
    shape = (int(row_N.max()) + 1, int(time_N.max()) + 2)
    reward_BR = reward_N.new_zeros(shape).index_put((row_N, time_N), reward_N)
    after_BR = torch.zeros_like(reward_BR)
    for t in range(shape[1] - 2, -1, -1):
        after_BR[:, t] = gamma * (reward_BR[:, t + 1] + after_BR[:, t + 1])
    total_N = after_BR[row_N, time_N]
    if not length_norm:
        return total_N
    length_B = torch.zeros(shape[0], dtype=torch.long, device=row_N.device).index_add(0, row_N, torch.ones_like(row_N))
    return total_N / (length_B[row_N] - 1 - time_N).clamp(min=1)


def pg(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """Sampled reverse KL as a policy gradient: -rho A, A = sg[clip(d, -c, c)], d = log p(y)/q(y), rho = q(y)/mu(y).

    Its expected gradient is that of the exact reverse KL. Form: tinker-cookbook's on-policy distillation (advantage =
    minus the sampled KL, importance-sampling loss); `adv_clip` guards against tokens the teacher finds impossible.
    rho is one up to rounding where y was drawn from q itself, and corrects for another sampling distribution; with
    `ratio: false` it is left out (Lightning OPD, 2604.13010), and `clip` bounds it as PPO does.

    baseline rkl: A = d + RKL, centred, of the same expectation (vOPD). gamma: A gets the discounted d of the tokens
    that follow; gamma = 1 is the gradient of the sequence's KL (MiniLLM, 2306.08543). decompose: the token's own d is
    replaced by the exact reverse KL, and only the future is sampled (MiniLLM's single-step decomposition).
    """
    _, log_q_N, log_mu_N = sampled(scored)
    advantage_N, own_N = pg_advantage(scored, config)
    if not config.ratio:
        return own_N - log_q_N * advantage_N
    return own_N - clipped_gain((log_q_N - log_mu_N).exp(), advantage_N, config.clip, None)


def pg_advantage(scored: Scored, config: "DivergenceConfig") -> tuple[Tensor, Tensor]:
    """The advantage of `pg`, without gradient, and its exact part, with gradient, at each position: float[N]."""
    log_p_N, log_q_N, _ = sampled(scored)
    reward_N = (log_p_N - log_q_N).detach()
    if config.adv_clip is not None:
        reward_N = reward_N.clamp(-config.adv_clip, config.adv_clip)
    advantage_N = torch.zeros_like(reward_N) if config.decompose else reward_N
    if config.gamma is not None:
        advantage_N = advantage_N + future(reward_N, scored, config.gamma, config.length_norm)
    own_N = torch.zeros_like(reward_N)
    if config.decompose or config.baseline == "rkl":
        rkl_N = kl_entries(scored.student_NV, scored.teacher_NV).sum(dim=-1)
        if config.decompose:
            own_N = rkl_N
        else:
            advantage_N = advantage_N + rkl_N.detach()
    return advantage_N, own_N


def k2(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """Half the squared log-ratio: its expected gradient is that of the exact reverse KL (KDRL, 2506.02208)."""
    log_p_N, log_q_N, log_mu_N = sampled(scored)
    return (log_q_N - log_mu_N).detach().exp() * 0.5 * (log_q_N - log_p_N) ** 2


def k3(scored: Scored, config: "DivergenceConfig") -> Tensor:
    """p/q - 1 + log(q/p): an unbiased value of the reverse KL whose expected gradient is that of the FORWARD KL.

    It is a common default loss under the name of reverse KL; read runs that use it as forward KL on student states.
    """
    log_p_N, log_q_N, log_mu_N = sampled(scored)
    log_ratio_N = log_p_N - log_q_N
    return (log_q_N - log_mu_N).detach().exp() * (log_ratio_N.exp() - 1.0 - log_ratio_N)


ESTIMATORS = {"exact": exact, "pg": pg, "k2": k2, "k3": k3}


def clipped_positions(scored: Scored, config: "DivergenceConfig") -> Tensor | None:
    """Where a clip of the term changes something, bool[N]: an entry above `entry_clip`, a sampled log-ratio beyond
    `adv_clip`, an importance ratio that `clip` stops. None for a term without clips."""
    acting = []
    if config.entry_clip is not None:
        acting.append((exact_entries(scored, config) > config.entry_clip).any(dim=-1))
    if config.adv_clip is not None:
        log_p_N, log_q_N, _ = sampled(scored)
        acting.append((log_p_N - log_q_N).abs() > config.adv_clip)
    if config.clip is not None:
        _, log_q_N, log_mu_N = sampled(scored)
        ratio_N, (advantage_N, _) = (log_q_N - log_mu_N).exp(), pg_advantage(scored, config)
        acting.append(clipped_gain(ratio_N, advantage_N, config.clip, None) < ratio_N * advantage_N)
    return torch.stack(acting).any(dim=0) if acting else None
