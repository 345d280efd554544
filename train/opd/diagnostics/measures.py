"""What is logged of a batch: sums over its micro-batches, means over its response positions, lengths and accuracies.

Whether the teacher objects where the student goes wrong is measured, too: by responses with a wrong step (the checker
names the first, `Verdicts.first_mistake`), at those of their positions that have a target.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from synth.judge.checker import MALFORMED, Verdicts
from synth.world.vocabulary import ANSWER
from train.core.budget_and_ledger import forward_flops, training_flops
from train.core.distributed import Group
from train.evaluation.repetition import compressible, periods, repetitive
from train.opd.log_probs import Scored, advantage, entropy, kl
from train.opd.rollout_batch import ORIGINS, Rollouts
from train.statistics import auroc


class StepTotals:
    """Sums over the micro-batches of a step; `metrics()` at its end."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = defaultdict(float)
        self.shares: dict[str, float] = {}
        self.tokens: dict[str, int] = defaultdict(int, teacher=0, update=0)
        self.flops: dict[str, float] = defaultdict(float, teacher=0.0, update=0.0)
        self.teacher_seconds = 0.0

    def add_terms(self, terms: dict[str, Tensor]) -> None:
        """A block's terms of the loss."""
        for name, value in terms.items():
            self.terms[name] += float(value.detach())

    def add_update(self, model: GPT, part: Rollouts) -> None:
        """What the student read of a micro-batch to learn from it, row by row: a prompt that is read once for all
        its responses (`models.branches.repeated_prompts`) saves time, not FLOPs of the ledger."""
        read_B = part.prompt_B + part.length_B - 1  # the last token of a row is only a target
        self.tokens["update"] += int((read_B + 1).sum())
        self.flops["update"] += training_flops(model.config, read_B)

    def add_teacher(self, tokens: int, flops: float, seconds: float) -> None:
        """What the teacher read."""
        self.tokens["teacher"] += tokens
        self.flops["teacher"] += flops
        self.teacher_seconds += seconds

    def add_signals(self, model: GPT, rollouts: Rollouts) -> None:
        """The student's own pass without gradient over a micro-batch."""
        self.flops["signals"] += forward_flops(model.config, rollouts.prompt_B + rollouts.length_B - 1)
        self.tokens["signals"] += int((rollouts.prompt_B + rollouts.length_B).sum())

    def add_judge(self, loss: float, tokens: int, flops: float, shares: dict[str, float], counts: bool) -> None:
        """What a judge that learns lost, read, spent and is measured by. counts: in this process's ledger."""
        self.shares |= shares
        if counts:
            self.terms["discriminator"] += loss
            self.tokens["discriminator"] += tokens
            self.flops["discriminator"] += flops

    def add_look_ahead(self, flops: float, forks: float) -> None:
        """The futures written at high-loss tokens, and the share of these that are real forks."""
        self.flops["futures"] = flops
        self.shares["forks"] = forks

    def add_share(self, name: str, chosen_BR: Tensor, rollouts: Rollouts) -> None:
        """The share of response tokens where something holds."""
        inside_BR = torch.arange(chosen_BR.shape[1], device=chosen_BR.device) < rollouts.length_B[:, None]
        self.shares[name] = float((chosen_BR & inside_BR).sum() / inside_BR.sum().clamp(min=1))

    def gather(self, group: Group) -> None:
        """Adds up what the processes of a group counted; all write all futures, the main one counts them."""
        if not group.is_main and "futures" in self.flops:
            self.flops["futures"] = 0.0
        for name in ("terms", "tokens", "flops"):
            own = getattr(self, name)
            total = defaultdict(own.default_factory)
            for part in group.gather(own):
                for kind, value in part.items():
                    total[kind] += value
            setattr(self, name, total)

    def metrics(self) -> dict[str, float]:
        """Terms of the loss, and shares of positions."""
        return {f"loss_{name}": value for name, value in self.terms.items()} | self.shares


BEFORE, AT, AFTER, NOWHERE = 0, 1, 2, -1
PLACES = ("before", "at", "after")


def first_wrong_span(verdicts: Verdicts) -> tuple[np.ndarray, np.ndarray]:
    """First token of the first wrong step in each response and the one behind its last: two int64[B], -1 without."""
    first_B = np.asarray(verdicts.first_mistake, dtype=np.int64)
    if verdicts.start.shape[1] == 0:
        return np.full(len(first_B), -1), np.full(len(first_B), -1)
    at_B1 = np.maximum(first_B, 0)[:, None]
    spans = (np.take_along_axis(np.asarray(x), at_B1, axis=1)[:, 0] for x in (verdicts.start, verdicts.stop))
    start_B, stop_B = (np.where(first_B >= 0, span_B, -1).astype(np.int64) for span_B in spans)
    return start_B, stop_B


def places(verdicts: Verdicts, length_B: np.ndarray, width: int) -> np.ndarray:
    """int8[B, width]: where each response token stands to the first wrong step; NOWHERE on padding and in responses
    that have none."""
    start_B, stop_B = first_wrong_span(verdicts)
    time_R = np.arange(width)
    place_BR = (time_R >= start_B[:, None]).astype(np.int8) + (time_R >= stop_B[:, None])
    outside_BR = (time_R >= np.asarray(length_B)[:, None]) | (start_B < 0)[:, None]
    return np.where(outside_BR, NOWHERE, place_BR).astype(np.int8)


def localisation(
    values: dict[str, np.ndarray], place_BR: np.ndarray, has_target_BR: np.ndarray | None
) -> dict[str, float]:
    """How well the teacher's signal points at the first wrong step.

    Args:
        values: `advantage` (d = log p(y) - log q(y)) and `rkl`, float[B, R], NaN where there is no target.
        place_BR: of `places`. has_target_BR: bool[B, R], where there is a target; None: everywhere.
    Returns:
        auroc_advantage, auroc_rkl: of -d and of the KL for "this token belongs to the first wrong step".
        rkl_before, rkl_at, rkl_after: nats a token. mass_before, mass_at, mass_after: shares of the KL of these
        responses. What has no tokens is left out.
    """
    if "rkl" not in values:
        return {}
    inside_BR = (place_BR != NOWHERE) & np.isfinite(values["rkl"])
    if has_target_BR is not None:
        inside_BR &= has_target_BR
    place_N, rkl_N = place_BR[inside_BR], values["rkl"][inside_BR].astype(float)
    scores = {"advantage": -values["advantage"][inside_BR], "rkl": rkl_N}
    found = {f"auroc_{name}": auroc(score_N, place_N == AT) for name, score_N in scores.items()}
    total = rkl_N.sum()
    for place, name in enumerate(PLACES):
        part_M = rkl_N[place_N == place]
        found[f"rkl_{name}"] = float(part_M.mean()) if len(part_M) else np.nan
        found[f"mass_{name}"] = float(part_M.sum() / total) if total > 0.0 else np.nan
    return {name: value for name, value in found.items() if np.isfinite(value)}


OVERLAP = 8  # likeliest tokens of each whose overlap is reported
LARGE_KL = 0.1  # nats: a reverse KL above it is counted by `rkl_large`
UNDEFINED = float("nan")  # in a table of positions only; never logged


@torch.no_grad()
def token_measures(scored: Scored, eos: int) -> dict[str, Tensor]:
    """What is measured at each position of a micro-batch, float[N] by name; exact, in nats.

    student_entropy, log_q = log q(y), log_eos = log q(eos). With a teacher: teacher_entropy, rkl = KL(q, p), fkl =
    KL(p, q), entropy_gap = |H_q - H_p|, advantage = log p(y) - log q(y), and of the 8 likeliest tokens of each
    (2604.13016) overlap, the share that is common, overlap_mass, what the student gives to those, and
    overlap_advantage = sum p' log(q'/p') with both renormalised on them.
    """
    q_NV, p_NV = scored.student_NV, scored.teacher_NV
    values = {"student_entropy": entropy(q_NV), "log_q": scored.log_q_N, "log_eos": q_NV[:, eos]}
    if p_NV is None:
        return values
    k = min(OVERLAP, q_NV.shape[-1])
    top_NK = q_NV.topk(k).indices
    teacher_top_NV = torch.zeros_like(p_NV, dtype=torch.bool).scatter(-1, p_NV.topk(k).indices, True)
    common_NK = teacher_top_NV.gather(-1, top_NK)
    q_NK, p_NK = (z.gather(-1, top_NK).masked_fill(~common_NK, float("-inf")) for z in (q_NV, p_NV))
    mass_N = q_NK.exp().sum(dim=-1)
    q_bar_NK, p_bar_NK = (z - z.logsumexp(dim=-1, keepdim=True) for z in (q_NK, p_NK))
    gain_NK = torch.where(common_NK, p_bar_NK.exp() * (q_bar_NK - p_bar_NK), torch.zeros_like(q_NK))
    teacher_entropy = entropy(p_NV)
    return values | {
        "teacher_entropy": teacher_entropy,
        "entropy_gap": (values["student_entropy"] - teacher_entropy).abs(),
        "rkl": kl(q_NV, p_NV),
        "fkl": kl(p_NV, q_NV),
        "advantage": advantage(scored),
        "overlap": common_NK.sum(dim=-1) / k,
        "overlap_mass": mass_N,
        "overlap_advantage": torch.where(common_NK.any(dim=-1), gain_NK.sum(dim=-1), UNDEFINED),
    }


class PositionMeasures:
    """What each response position of a batch measured: float32[B, R] by name, R the longest response; NaN on padding
    and where undefined."""

    def __init__(self, rollouts: Rollouts, answer: int | None = ANSWER) -> None:
        """`answer` is the token that marks an answer, None where an answer is not one token behind a marker."""
        self.rollouts, self.answer, self.shape = rollouts, answer, tuple(rollouts.response_BR.shape)
        self.values: dict[str, np.ndarray] = {}
        self.has_target_BR: Tensor | None = None  # where there is a target; None: everywhere

    def add(self, index_M: Tensor, scored: Scored, values: dict[str, Tensor]) -> None:
        """The positions of one micro-batch, whose rows are `index_M` of the batch."""
        at = (index_M[scored.row_N].cpu().numpy(), scored.time_N.cpu().numpy())
        columns = torch.stack([value_N.detach().float() for value_N in values.values()]).cpu().numpy()
        for name, row_N in zip(values, columns, strict=True):
            self.values.setdefault(name, np.full(self.shape, UNDEFINED, dtype=np.float32))[at] = row_N

    def gather(self, group: Group) -> None:
        """Take in what the other processes measured, each of rows of its own."""
        for other in group.gather(self.values) if group.world_size > 1 else []:
            for name, other_BR in other.items():
                own_BR = self.values.setdefault(name, np.full_like(other_BR, UNDEFINED))
                np.copyto(own_BR, other_BR, where=~np.isnan(other_BR))

    def means(self) -> dict[str, float]:
        """Means over the batch's positions, and what the checker's first wrong steps say of the teacher's signal."""
        rollouts, values = self.rollouts, self.values
        length_B, response_BR = rollouts.length_B.cpu().numpy(), rollouts.response_BR.cpu().numpy()
        found = {name: _mean(at_BR) for name, at_BR in values.items() if not name.startswith("log_")}
        inside_BR = np.arange(response_BR.shape[1]) < length_B[:, None]
        chance_BR = np.exp(values["log_q"], dtype=float)
        found["eos"] = _mean(chance_BR[(response_BR == rollouts.eos) & inside_BR]) or 0.0
        if self.answer is not None:
            stop_B = answered(response_BR, length_B, self.answer)
            rows = np.flatnonzero(stop_B >= 0)
            found["eos_after_answer"] = _mean(np.exp(values["log_eos"][rows, stop_B[rows]], dtype=float))
        found["ess"] = self._effective_share()
        loop_BR = repetitive(response_BR, length_B)
        found["repetitive_tokens"] = _mean(loop_BR[inside_BR])
        if "rkl" in values:
            found["rkl_large"] = _mean(values["rkl"][inside_BR] > LARGE_KL)
            found["advantage_repetitive"] = _mean(values["advantage"][inside_BR & loop_BR])
            found["advantage_normal"] = _mean(values["advantage"][inside_BR & ~loop_BR])
        place_BR = places(rollouts.verdicts, length_B, response_BR.shape[1])
        has_target_BR = None if self.has_target_BR is None else self.has_target_BR.cpu().numpy()[:, : self.shape[1]]
        found |= localisation(values, place_BR, has_target_BR)
        return {name: value for name, value in found.items() if value is not None}

    def _effective_share(self) -> float | None:
        """(sum rho)^2 / (N sum rho^2) with rho = q(y) / mu(y), over the responses that the student itself wrote."""
        own_B = (self.rollouts.origin_B == ORIGINS.index("student")).cpu().numpy()
        behaviour_BR = self.rollouts.behaviour_BR.cpu().numpy()[:, : self.shape[1]].astype(float)
        rho_N = np.exp(self.values["log_q"] - behaviour_BR)[own_B]
        rho_N = rho_N[np.isfinite(rho_N)]
        return float(rho_N.sum() ** 2 / (len(rho_N) * (rho_N**2).sum())) if len(rho_N) else None


def answered(response_BR: np.ndarray, length_B: np.ndarray, answer: int) -> np.ndarray:
    """The position behind the first answer (its marker and one token), where a right solution ends; -1 where a response
    has no such position."""
    mark_BR = response_BR == answer
    stop_B = mark_BR.argmax(axis=1) + 2
    return np.where(mark_BR.any(axis=1) & (stop_B < length_B), stop_B, -1)


def _mean(values: np.ndarray) -> float | None:
    """The mean of what is defined, None where nothing is."""
    defined = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(defined.mean(dtype=float)) if defined.size else None


def response_measures(rollouts: Rollouts) -> dict[str, Any]:
    """Length, truncation, retries, repetition, accuracy, first mistake of the sampled responses; empty without any."""
    sampled_B = (rollouts.origin_B != ORIGINS.index("gold")).cpu().numpy()
    if not sampled_B.any():
        return {}
    verdicts = type(rollouts.verdicts)(*(field[sampled_B] for field in rollouts.verdicts))
    length_B, ops_B = rollouts.length_B.cpu().numpy()[sampled_B], rollouts.problems.ops[sampled_B]
    response_BR = rollouts.response_BR.cpu().numpy()[sampled_B]
    good_B = (verdicts.kind < MALFORMED).sum(axis=1) - (verdicts.kind < 0).sum(axis=1)
    start_B, _ = first_wrong_span(verdicts)
    median, high = np.percentile(length_B, [50, 95])
    found = {
        "length_mean": float(length_B.mean()),
        "length_median": float(median),
        "length_p95": float(high),
        "length_right": _mean(length_B[verdicts.right]),
        "length_wrong": _mean(length_B[~verdicts.right]),
        "truncation": float(1.0 - rollouts.finished_B.cpu().numpy()[sampled_B].mean()),
        "retries": float(verdicts.retries.mean()),
        "repetition": float((periods(response_BR, length_B) > 0).mean()),
        "repetition_zlib": float(compressible(response_BR, length_B).mean()),
        "accuracy_strict": float(verdicts.right.mean()),
        "accuracy_answer": float(verdicts.answer_right.mean()),
        "accuracy_step": float(good_B.sum() / verdicts.steps.sum()) if verdicts.steps.any() else None,
        "first_mistake_token": _mean(start_B[start_B >= 0]),
        "first_mistake_step": _mean(verdicts.first_mistake[verdicts.first_mistake >= 0]),
        "accuracy_by_ops": by_ops(verdicts, ops_B),
    }
    return {name: value for name, value in found.items() if value is not None}


def by_ops(verdicts: Any, ops_B: np.ndarray) -> list[dict[str, int]]:
    """Counts for each number of operations: n responses, right, answer_right, steps, steps_right."""
    good_B = (verdicts.kind < MALFORMED).sum(axis=1) - (verdicts.kind < 0).sum(axis=1)
    columns = {"right": verdicts.right, "answer_right": verdicts.answer_right}
    columns |= {"steps": verdicts.steps, "steps_right": good_B}
    return [
        {"ops": int(ops), "n": int((ops_B == ops).sum())}
        | {name: int(column[ops_B == ops].sum()) for name, column in columns.items()}
        for ops in np.unique(ops_B)
    ]
