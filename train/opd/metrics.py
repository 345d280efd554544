"""What `metrics.jsonl` of a distillation holds: every number with its unit, definition and source.

    python -m train.opd.metrics            # as a Markdown table

A number that a step has nothing for is absent from its line, never NaN: the teacher's without teacher, that of loops
where none is, lengths of right responses where none is. p is the teacher's target after its transform, q the
student, y the response's token, d = log p(y) - log q(y).
"""

import re
import sys
from typing import NamedTuple

from train.tables import Table


class Metric(NamedTuple):
    """One number of the log. `when`: step (every logged step), evaluation (every `evaluate.every` steps)."""

    unit: str
    meaning: str
    source: str = "ours"
    when: str = "step"


STABLE, RETHINKING, LAB = "2604.08527", "2604.13016", "ours, with the checker"
METRICS = {
    # the loop
    "step": Metric("steps", "updates done", when="both"),
    "tokens": Metric("tokens", "read by updates so far", when="both"),
    "flops": Metric("FLOPs", "spent so far: generation, teacher, update and all else of `ledger.json`", when="both"),
    "seconds": Metric("s", "wall time so far", when="both"),
    "loss": Metric("nats", "the method's loss; terms of different methods do not compare"),
    "smooth_loss": Metric("nats", "its exponential mean, decay 0.98"),
    "loss_NAME": Metric("nats", "one term of the loss: divergence, also_1_fkl, ref_kl, gold_nll, outcome, future, ..."),
    "lr_scale": Metric("share", "of the peak learning rate"),
    "grad_norm": Metric("L2 norm", "of the gradient before it is clipped"),
    "update_norm": Metric("L2 norm", "of what the step changed in the weights"),
    "tokens_per_second": Metric("tokens/s", "of the step"),
    # how the sampled responses do
    "accuracy_strict": Metric("share", "of sampled responses whose every step and answer are right"),
    "accuracy_answer": Metric("share", "of sampled responses whose final answer is right, whatever the steps"),
    "accuracy_step": Metric("share", "of written steps that are no mistake (right, unneeded or taken back)", LAB),
    "accuracy_by_ops": Metric(
        "counts", "for each number of operations: n responses, right, answer_right, steps, steps_right", LAB
    ),
    "first_mistake_token": Metric("tokens", "mean position of the first wrong step, of responses that have one", LAB),
    "first_mistake_step": Metric("steps", "mean number of steps before the first wrong one", LAB),
    # length and repetition
    "length_mean": Metric("tokens", "mean length of sampled responses, the end counted"),
    "length_median": Metric("tokens", "its median"),
    "length_p95": Metric("tokens", "its 95th percentile"),
    "length_right": Metric("tokens", "mean length of strictly right responses"),
    "length_wrong": Metric("tokens", "mean length of all others"),
    "truncation": Metric("share", "TruncRate: of sampled responses cut at the budget before they ended", STABLE),
    "repetition": Metric(
        "share", "of sampled responses that end in a loop: some period up to 32 explains 90% of the tail"
    ),
    "repetition_zlib": Metric(
        "share",
        "RepRate: of sampled responses longer than 128 tokens whose last 128, a byte each, zlib makes over 1.5 times "
        "smaller (published: 10,000 characters, 10 times)",
        STABLE,
    ),
    "repetitive_tokens": Metric(
        "share", "of response tokens that are in such a loop (`train/evaluation/repetition.py`)", STABLE
    ),
    "eos": Metric("probability", "q(end) where the responses end by themselves; 0 where none does"),
    "eos_after_answer": Metric(
        "probability", "q(end) right behind a response's first answer, where a solution stops", LAB
    ),
    # teacher and student on the responses' positions, full vocabulary
    "student_entropy": Metric("nats/token", "H(q)"),
    "teacher_entropy": Metric("nats/token", "H(p)"),
    "entropy_gap": Metric("nats/token", "|H(q) - H(p)|", RETHINKING),
    "rkl": Metric("nats/token", "KL(q, p), exact"),
    "fkl": Metric("nats/token", "KL(p, q), exact"),
    "rkl_large": Metric("share", "of positions whose KL(q, p) is above 0.1 nats"),
    "advantage": Metric("nats/token", "d: what the teacher gives the response's token above the student"),
    "advantage_repetitive": Metric("nats/token", "d over repetitive tokens", STABLE),
    "advantage_normal": Metric("nats/token", "d over all others", STABLE),
    "overlap": Metric("share", "of the 8 likeliest tokens of p and q that are common", RETHINKING),
    "overlap_mass": Metric("probability", "what q gives to the common ones", RETHINKING),
    "overlap_advantage": Metric(
        "nats/token", "sum p' log(q'/p') over the common ones, p' and q' renormalised there; at most 0", RETHINKING
    ),
    "told": Metric("share", "of response tokens whose teacher read a context"),
    "known": Metric("share", "of response tokens where the oracle has a law"),
    # what only a step verifier gives
    "auroc_advantage": Metric(
        "AUROC", "of -d for `this token is in the first wrong step`, in responses that have one", LAB
    ),
    "auroc_rkl": Metric("AUROC", "of KL(q, p) for the same", LAB),
    "rkl_before": Metric("nats/token", "KL(q, p) before the first wrong step", LAB),
    "rkl_at": Metric("nats/token", "in it", LAB),
    "rkl_after": Metric("nats/token", "after it", LAB),
    "mass_before": Metric("share", "of these responses' summed KL(q, p) that lies before the first wrong step", LAB),
    "mass_at": Metric("share", "in it", LAB),
    "mass_after": Metric("share", "after it", LAB),
    # the update
    "ess": Metric(
        "share", "effective sample size (sum rho)^2 / (N sum rho^2), rho = q(y) / mu(y), of sampled rows", "IS"
    ),
    "clip_divergence": Metric("share", "of positions where a clip of a distillation term acts"),
    "clip_share": Metric("share", "of positions where the outcome's ratio is clipped", "PPO, 1707.06347"),
    "sign_conflict": Metric("share", "of positions where d and the outcome's advantage have opposite signs"),
    "forks": Metric("share", "of high-loss tokens looked at that are real forks", "2606.00305"),
    # held-out problems
    "held_out_loss": Metric("nats/token", "of held-out gold solutions", when="evaluation"),
    "held_out_floor": Metric("nats/token", "the generator's entropy of the same tokens", when="evaluation"),
    "kl_to_oracle": Metric("nats/token", "KL(generator, q) over its whole law", when="evaluation"),
    "eos_gold": Metric("probability", "q(end) where held-out gold solutions stop", when="evaluation"),
    "eval_full": Metric("share", "of greedy solutions whose every step and answer are right", when="evaluation"),
    "eval_published": Metric("share", "right by the published criterion (`synth/judge/checker.py`)", when="evaluation"),
    "eval_answer": Metric("share", "whose final answer is right", when="evaluation"),
    "eval_step": Metric("share", "of their steps that are no mistake", LAB, "evaluation"),
    "eval_floor": Metric("share", "that the best constant answer would get right", when="evaluation"),
    "eval_n": Metric("problems", "asked", when="evaluation"),
    "eval_length_mean": Metric("tokens", "of greedy solutions", when="evaluation"),
    "eval_truncation": Metric("share", "of greedy solutions cut off", STABLE, "evaluation"),
    "eval_repetition": Metric("share", "of greedy solutions that end in a loop", when="evaluation"),
    "eval_by_ops": Metric(
        "counts", "n, right, published, answer_right, steps, steps_right by operations", when="evaluation"
    ),
    "eval_pass_K": Metric(
        "share", "pass@K, 1 - C(n-c, K) / C(n, K), of solutions at temperature 1", "2107.03374", "evaluation"
    ),
    "eval_pass_n": Metric("samples", "n of each problem for pass@K", when="evaluation"),
    "eval_pass_by_ops": Metric("shares", "pass@K by operations", when="evaluation"),
    "eval_ood": Metric("share", "fully right on problems of more operations (`evaluate.ood`)", when="evaluation"),
    "eval_ood_answer": Metric("share", "answer right on the same", when="evaluation"),
    "teacher_prefixes": Metric(
        "responses", "sampled solutions with a wrong step that the teacher went on from", LAB, "evaluation"
    ),
    "teacher_full_before": Metric(
        "share", "fully right when the teacher goes on before the first wrong step", LAB, "evaluation"
    ),
    "teacher_answer_before": Metric("share", "answer right, from the same place", LAB, "evaluation"),
    "teacher_answer_after": Metric(
        "share", "answer right when it goes on behind the first wrong step", LAB, "evaluation"
    ),
}


def definition(key: str) -> Metric | None:
    """What a key of the log means; None for an unknown one."""
    key = re.sub(r"^loss_.+", "loss_NAME", key)
    return METRICS.get(re.sub(r"^eval_pass_\d+$", "eval_pass_K", key))


def table() -> str:
    """The definitions as Markdown."""
    rows = ([f"`{key}`", m.unit, m.meaning, m.when, m.source] for key, m in METRICS.items())
    return Table(["name", "unit", "what it is", "when", "source"], rows).markdown()


def main(words: list[str]) -> int:
    """Prints the table; 2 and one line for anything else."""
    if {"-h", "--help"} & set(words):
        print((__doc__ or "").strip())
        return 0
    if words:
        print(f"error: {words[0]}: this command takes no arguments", file=sys.stderr)
        return 2
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
