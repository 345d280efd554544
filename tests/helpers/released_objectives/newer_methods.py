"""The same for the methods that came later: AKL, TAID, SRPO, SDPG, LUFFY, DistiLLM-2, RLCSD, DistiLLM's source."""

import numpy as np
import torch

from tests.helpers.released_objectives.golden_files import Difference, File, Variant, difference
from train.opd.log_probs import entropy
from train.opd.source.replay_buffer import Adaptive


def akl(file: File) -> list[Variant]:
    return [Variant("", "akl", ["divergence.from_least=true", f"divergence.head_share={file.setting('head_share')}"])]


def clipped(file: File, dual: bool) -> list[str]:
    """PPO's clips on a batch that is used again, so that its tokens come from an older student."""
    overrides = ["source.reuse=2", f"outcome.clip={file.setting('clip')}"]
    if "in_clip_high" in file:
        overrides.append(f"outcome.clip_high={file.setting('clip_high')}")
    return [*overrides, "outcome.dual_clip=3.0"] if dual else overrides


def srpo(file: File) -> list[Variant]:
    """A port: rows without a positive advantage are distilled, with JSD or forward KL and a capped ratio."""
    kind = f"jsd, beta: {file.setting('alpha')}" if file.setting("alpha") else "fkl"
    k = int(file.setting("k"))
    support = f"{{kind: student_topk, k: {k}, rest: tail}}" if k else "full"
    confident = f"{{kind: confident, beta: {file.setting('beta')}}}"
    overrides = [
        *clipped(file, True),
        f"divergence={{kind: {kind}, support: {support}}}",
        "weight.sample=[not_above]",
        f"weight.token=[{confident}, {{kind: importance, cap: {file.setting('is_clip')}}}]",
    ]
    return [Variant("", "srpo", overrides)]


def sdpg(file: File) -> list[Variant]:
    """The forward reference term exceeds k3 by one, without gradient."""
    alpha, forward = file.setting("alpha"), bool(file.setting("forward_reference"))
    overrides = [
        *clipped(file, False),
        f"outcome.dual_clip={file.setting('dual')}",
        f"coefficient={file.setting('beta')}",
        f"regularizer={{ref_k2: {0.0 if forward else alpha}, ref_k3: {alpha if forward else 0.0}}}",
    ]
    if file.setting("positive_only"):
        overrides += ["weight.sample=[right, contrast]", "weight.over=batch"]
    return [Variant("", "sdpg", overrides, constant=alpha if forward else 0.0)]


def luffy(file: File) -> list[Variant]:
    """The release divides by the padded width alone, not by the rows, or takes the token mean; its advantage is ours of
    grpo, as the file has it."""
    rows, columns = file.arrays["in_tokens"].shape
    constant = bool(file.setting("sum_over_length"))
    settings = f"kind: grpo, guest_shape: {file.setting('reshape_constant')}"
    settings += f", normaliser: {'constant' if constant else 'token'}"
    if not file.setting("unclipped"):
        high = max(file.setting("clip_upper_bound"), 1.0 + file.setting("clip")) - 1.0
        settings += f", clip: {file.setting('clip')}, clip_high: {high}"
    max_new = file.setting("max_new") if "in_max_new" in file else columns
    return [Variant("", "luffy", [f"outcome={{{settings}}}"], scale=rows * max_new / columns if constant else 1.0)]


def distillm2(file: File) -> list[Variant]:
    alpha, b = file.setting("base_alpha"), 1.0
    if file.setting("gradual_beta"):
        b += 0.5 * min(1.0, 2.0 * file.setting("step") / file.setting("max_steps"))
    anchors = ["null" if np.isnan(x) else x for x in (file.setting("logp_logq"), file.setting("logq_logp"))]
    forward, reverse = (f"alpha: {alpha}, anchor: {anchor}" for anchor in anchors)
    overrides = [
        f"divergence={{kind: skew_fkl, {forward}}}",
        f"coefficient={2.0 - b}",
        f"also.0.coefficient={b}",
        f"also.0.divergence={{kind: skew_rkl, {reverse}, stopped: true}}",
    ]
    return [Variant("", "distillm2", overrides)]


def taid(file: File) -> list[Difference]:
    """The loss at the first t, beyond ours by the entropy of its target; and t behind every step."""
    start, end, steps = file.setting("t_start"), file.setting("t_end"), int(file.setting("total_steps"))
    alpha, momentum = file.setting("alpha"), file.setting("beta")
    target_NV = torch.log_softmax((1.0 - start) * file.log_probs("student") + start * file.log_probs("teacher"), dim=-1)
    settings = f"kind: taid, start: {start}, end: {end}, steps: {steps}, alpha: {alpha}, momentum: {momentum}"
    variant = Variant("", "taid", [f"divergence={{{settings}}}"], constant=float(entropy(target_NV).mean()))
    shares = variant.composed().divergence.shares(file.arrays["in_losses"].tolist())
    off = float(np.abs(np.array(shares) - file.arrays["out_t"]).max())
    return [difference(file, variant), Difference("t", off, None)]


def rlcsd(file: File) -> list[Difference]:
    """The file gives the log-probabilities under the hints, which a run measures before the loss."""
    valid_BK1 = file.tensor("in_wrong_valid").double()[..., None]
    wrong_BR = (file.tensor("in_wrong_logp").exp() * valid_BK1).sum(1) / valid_BK1.sum(1).clamp(min=1.0)
    wrong_BR = torch.where(valid_BK1.sum(1) > 0, wrong_BR.clamp(min=1e-300).log(), 0.0)
    inside_BR = file.tensor("in_mask")
    signals = {"log_p": file.tensor("in_right_logp") * inside_BR, "log_p_contrast": wrong_BR * inside_BR}
    names = ("tau", "delta", "eta")
    settings = {name: file.setting(name) for name in names} | {
        "strength": file.setting("beta") * file.setting("lam"),
        "bound": file.setting("residual_clip"),
    }
    overrides = [*clipped(file, False), *(f"outcome.{name}={value}" for name, value in settings.items())]
    return [difference(file, Variant("", "rlcsd", overrides, signals=signals))]


def distillm_adaptive(file: File) -> list[Difference]:
    """Where the data of each step come from, for given draws and losses."""
    every = (len(file.arrays["in_uniform"]) - 1) // max(1, len(file.arrays["in_validation"]) - 1)
    every = int(file.setting("check_every")) if "in_check_every" in file else every
    sampler = Adaptive(steps=int(file.setting("total_steps")), epsilon=float(file.setting("loss_eps")), every=every)
    losses, names = iter(file.arrays["in_validation"].tolist()), ("gold", "student", "kept")
    threshold, before, rows, wrong, off = 0.0, next(losses), 0, 0, 0.0
    for step, u in enumerate(file.arrays["in_uniform"].tolist(), start=1):
        chosen = sampler.choice(u, threshold, step, rows >= int(file.setting("capacity")))
        wrong += names.index(chosen) != int(file.arrays["out_choice"][step - 1])
        off = max(off, abs(threshold - float(file.arrays["out_threshold"][step - 1])))
        rows += int(file.setting("batch_rows")) * (chosen == "student")
        if step % every == 0 and (loss := next(losses, None)) is not None:
            threshold, before = sampler.risen(threshold, before, loss)
    return [Difference("choices", float(wrong), None), Difference("threshold", off, None)]
