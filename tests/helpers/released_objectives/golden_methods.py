"""For each released objective: which of our methods it is, and which overrides the settings of its file become.

A method that has the release as a form of its own is taken in that form (`method.faithful=release`); what is left to
the file are settings of the release, as a user could type them, and its further variants.
"""

from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.helpers.released_objectives.golden_files import Difference, File, Variant, batch, difference
from tests.helpers.released_objectives.newer_methods import (
    akl,
    distillm2,
    distillm_adaptive,
    luffy,
    rlcsd,
    sdpg,
    srpo,
    taid,
)
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.log_probs import Signals, entropy, jsd
from train.opd.outcome.outcome import drgrpo_advantage
from train.opd.weight.token_weights import TipDraw

Variants = Callable[[File], list[Variant]]


def teacher_entropy(file: File) -> float:
    """The mean entropy of the teacher: what a released cross-entropy exceeds our KL by."""
    return float(entropy(file.log_probs("teacher")).mean())


def gkd(file: File) -> list[Variant]:
    count = file.setting("num_items_in_batch")
    scale = file.tokens() / count if count else 1.0
    hot, betas = f"divergence.temperature={file.setting('temperature')}", {"fkl": 0.0, "rkl": 1.0}
    betas = {"": file.setting("beta")} | betas
    return [Variant(name, "gkd", [hot, f"divergence.beta={b}"], scale) for name, b in betas.items()]


def kd(file: File) -> list[Variant]:
    return [Variant("", "kd", constant=teacher_entropy(file))]


def opd(file: File) -> list[Variant]:
    return [Variant("", "opd")]


def distillm(file: File) -> list[Variant]:
    alpha, js, lam = (file.setting(name) for name in ("alpha", "js_lam", "symmetric_lam"))
    skew, held = [f"divergence.alpha={alpha}"], teacher_entropy(file)
    both = ["divergence=rkl", f"also=[{{divergence: fkl, coefficient: {(1.0 - lam) / lam}}}]"]
    return [
        Variant("", "distillm", skew),
        Variant("skew_rkl", "distillm", skew),
        Variant("skew_fkl", "distillm", ["divergence=skew_fkl", *skew], constant=held),
        Variant("js", "distillm", ["divergence=jsd", f"divergence.beta={1.0 - js}"]),
        Variant("symmetric", "distillm", both, scale=lam, constant=(1.0 - lam) * held),
    ]


def todi(file: File) -> list[Variant]:
    common, rate = [f"divergence.temperature={file.setting('temperature')}"], file.setting("kd_rate")
    nll = [f"also=[{{divergence: nll, coefficient: {(1.0 - rate) / rate}}}]"] if rate < 1.0 else []
    return [Variant("", "todi", common), Variant("mixed", "todi", [*common, *nll], scale=rate)]


def estimators(file: File) -> list[Variant]:
    """k1 is refused on purpose (its expected gradient is zero), its absolute value is not offered."""
    normaliser = "sequence" if file.setting("sequence_mean") else "token"
    common = ["schedule=null", "outcome=none", f"weight.normaliser={normaliser}"]
    return [
        Variant("", "kdrl", common),
        Variant("k2", "kdrl", common),
        Variant("k3", "kdrl", [*common, "divergence=rkl_k3"]),
    ]


def opsd(file: File) -> list[Variant]:
    hot = f"divergence.temperature={file.setting('temperature')}"
    top = f"{{kind: teacher_topk, k: {int(file.setting('top_k'))}, rest: renorm}}"
    jsd = ["divergence=jsd", "divergence.beta=0.5", "divergence.entry_clip=null", hot]
    return [
        Variant("", "opsd", [hot, f"divergence.entry_clip={file.setting('token_clip')}"]),
        Variant("fkl", "opsd", [hot, "divergence.entry_clip=null"]),
        Variant("jsd", "opsd", jsd),
        Variant("topk", "opsd", [*jsd, f"divergence.support={top}"]),
    ]


def self_distilled(name: str, file: File, has_context: Tensor) -> list[Variant]:
    """The loss that SDPO and MOPD share."""
    k, beta = int(file.setting("k")), f"divergence.beta={file.setting('alpha')}"
    support = "divergence.support={{kind: student_topk, k: {}, rest: {}}}"
    cap, tail = f"weight.token.importance.cap={file.setting('is_clip')}", support.format(k, "tail")
    found = {
        "": [cap, beta, tail],
        "renorm": [cap, beta, support.format(k, "renorm")],
        "full": [cap, beta, "divergence.support=full"],
        "unclipped": ["weight.token=[]", beta, tail],
        "sampled": [cap, "divergence=rkl_pg", "divergence.ratio=false"],
    }
    return [
        Variant(variant, name, overrides, value=variant != "sampled", has_context=has_context)
        for variant, overrides in found.items()
    ]


def siblings(file: File, right: bool) -> Tensor:
    """bool[B]: whether another response to the same prompt is right (or wrong)."""
    group, is_right = file.tensor("in_group").tolist(), (file.tensor("in_reward") >= 0.5).tolist()
    rows = range(len(group))
    return torch.tensor([any(group[i] == group[j] and i != j and is_right[j] == right for j in rows) for i in rows])


def sdpo(file: File) -> list[Variant]:
    return self_distilled("sdpo", file, siblings(file, True) | (file.tensor("in_has_feedback") > 0))


def mopd(file: File) -> list[Variant]:
    return self_distilled("mopd", file, siblings(file, True) | siblings(file, False))


def crisp(file: File) -> list[Variant]:
    common = {"micro_batches": tuple(int(n) for n in np.atleast_1d(file.arrays["in_micro_batch_rows"]))}
    jsd = ["divergence=jsd", "divergence.beta=0.5"]
    return [Variant("", "crisp", **common), Variant("jsd", "crisp", jsd, **common)]


def revisiting(file: File) -> list[Variant]:
    k, tokens = int(file.setting("k")), file.arrays["in_special_tokens"].tolist()
    support = f"divergence.support.k={k}"
    return [
        Variant("", "revisiting", [support, f"weight.token.special.tokens={tokens}"]),
        Variant("unmasked", "revisiting", [support, "weight.token=[]"]),
    ]


def exopd(file: File) -> list[Variant]:
    settings = [f"divergence.clip={file.setting('clip')}", f"teacher.transform.exponent={file.setting('lam')}"]
    return [Variant("", "exopd", settings, from_student=not file.off_policy)]


def iw_opd(file: File) -> list[Variant]:
    old, hot = str(file.setting("use_behaviour") == 1).lower(), file.setting("temperature")
    settings = [f"divergence.frozen_advantage={old}", f"weight.token.early.frozen={old}"]
    settings += [f"weight.token.early.gamma={file.setting('gamma')}"]
    return [
        Variant("", "iw_opd", [*settings, f"source.temperature={hot}", f"source.tempered={str(hot != 1.0).lower()}"])
    ]


def lightning(file: File) -> list[Variant]:
    settings = [f"divergence.clip={file.setting('clip')}", f"divergence.clip_high={file.setting('clip_high')}"]
    settings += ["weight.normaliser=token"] * bool(file.setting("per_token"))
    return [Variant("", "lightning", settings), Variant("on_policy", "lightning", settings, from_student=True)]


def clips(file: File) -> list[str]:
    names = [name for name in ("clip", "clip_high") if f"in_{name}" in file]
    return [f"outcome.{name}={file.setting(name)}" for name in names]


def grpo(file: File) -> list[Variant]:
    """verl's and TRL's. trl_kl adds k3 to the reference on the sampled token; regularizer.ref_kl is the exact KL."""
    common, single = {"from_student": not file.off_policy}, [*clips(file), "outcome.dual_clip=null"]
    token = "outcome.normaliser=token"
    return [
        Variant("", "grpo", clips(file), **common),
        Variant("token_mean", "grpo", [*clips(file), token], **common),
        Variant("trl", "grpo", single, **common),
        Variant("trl_dapo", "grpo", [*single, token], **common),
    ]


def drgrpo(file: File) -> list[Variant]:
    """verl divides by the padded width alone, not by the rows."""
    common = {"from_student": not file.off_policy}
    rows, columns = file.arrays["in_tokens"].shape
    scale = rows * file.setting("max_new") / columns
    return [
        Variant("", "drgrpo", clips(file), **common),
        Variant("verl", "drgrpo", [*clips(file), "outcome.dual_clip=3.0"], scale=scale, **common),
    ]


def rlsd(file: File) -> list[Variant]:
    settings = [f"outcome.modulate.mix={file.setting('lam')}", f"outcome.modulate.bound={file.setting('epsilon_w')}"]
    settings += [f"outcome.modulate.anneal={int(file.setting('decay_steps')) or 'null'}", *clips(file)]
    normaliser = f"outcome.normaliser={'sequence' if file.setting('sequence_mean') else 'token'}"
    fresh, step = ["outcome.normaliser=sequence", "outcome.modulate.frozen=false"], int(file.setting("step"))
    return [
        Variant("", "rlsd", [*settings, normaliser], step=step),
        Variant("on_policy_sequence", "rlsd", [*settings, *fresh], from_student=True, step=step),
    ]


def sdft(file: File) -> list[Variant]:
    common = [f"weight.token.first.skip={int(file.setting('skip'))}"]
    common += [f"weight.token.importance.cap={file.setting('is_clip')}"]
    jsd = ["divergence=jsd", f"divergence.beta={file.setting('alpha')}"]
    tail = f"divergence.support={{kind: student_topk, k: {int(file.setting('k'))}, rest: tail}}"
    sampled = ["divergence=rkl_pg", "divergence.ratio=false"]
    return [
        Variant("", "sdft", [*common, *jsd]),
        Variant("topk", "sdft", [*common, *jsd, tail]),
        Variant("sampled", "sdft", [*common, *sampled], value=False),
    ]


def redi(file: File) -> list[Variant]:
    chosen, rejected = file.setting("chosen"), file.setting("rejected")
    return [Variant("", "redi", [f"regularizer.unlikelihood={rejected / chosen}"], scale=chosen)]


def paced(file: File) -> list[Variant]:
    forward = ["divergence=fkl"] * bool(file.setting("forward"))
    return [Variant("", "paced", [f"weight.sample.reward.beta={file.setting('reward_beta')}", *forward])]


def rethinking(file: File) -> list[Variant]:
    common = [f"divergence.{name}={file.setting(name)}" for name in ("clip", "clip_high")]
    common += [f"divergence.support.k={int(file.setting('k'))}"]
    variants = {"": [], "teacher_p": ["divergence.weigh=teacher"], "only_tch": ["divergence.support.kind=teacher_topk"]}
    fresh = not file.off_policy
    return [Variant(name, "rethinking", [*common, *more], from_student=fresh) for name, more in variants.items()]


def minillm(file: File) -> list[Variant]:
    """Whitening cancels the scale of the rewards; the language-model term was not executed."""
    clip = file.setting("reward_clip") * file.setting("reward_scaling")
    settings = [f"divergence.gamma={file.setting('gamma')}", f"divergence.clip={file.setting('clip')}"]
    return [Variant("", "minillm", [*settings, f"divergence.adv_clip={clip}"])]


def scope(file: File) -> list[Variant]:
    """With signal_in_loss the reverse KL on the teacher's top k, as the paper's form has it, over wrong rows."""
    right, wrong = (file.setting("tau") * file.setting(f"{side}_sign") for side in ("student", "teacher"))
    settings = [f"source.temperature={file.setting('student_temperature')}", f"weight.sample.teacher_ppl.tau={wrong}"]
    settings += [f"also.0.weight.sample.student_ppl.tau={-right}"]
    top = f"divergence={{kind: rkl, support: {{kind: teacher_topk, k: {int(file.setting('k'))}, rest: renorm}}}}"
    exact = [top, "weight.over=kept"]
    loss = exact if file.setting("signal_in_loss") else [f"divergence.clip={file.setting('clip')}"]
    return [Variant("", "scope", [*settings, *loss])]


def tsd_kd(file: File) -> list[Variant]:
    share, alpha = file.setting("share"), file.setting("alpha")
    common = [f"divergence.beta={file.setting('beta')}", f"regularizer.entropy_top={1.0 - share}"]
    ranking = [f"also.0.weight.token.opener.share={share}", f"also.0.divergence.k={int(file.setting('k'))}"]
    return [
        Variant("", "tsd_kd", [*common, *ranking, f"also.0.coefficient={alpha}"], padded=True),
        Variant("without_ranking", "tsd_kd", [*common, "also=[]"], padded=True),
    ]


def curio_sft(file: File) -> list[Variant]:
    return [Variant("", "curio_sft")]


@torch.no_grad()
def tm_opd(file: File) -> list[Difference]:
    """Advantages only: the loss of the release runs on a server."""
    student_NV = file.log_probs("student")
    rollouts, scored = batch(file, student_NV, from_student=False)
    gamma = file.setting("kl_discount_factor") or None
    advantage_N, _ = PolicyGradient(frozen_advantage=True, gamma=gamma).advantage(scored)
    advantage_N = file.setting("kl_penalty_coef") * advantage_N
    if file.setting("use_reward"):
        advantage_N = advantage_N + drgrpo_advantage(file.tensor("in_reward").float(), rollouts.group_B)[scored.row_N]
    released_N = file.tensor("out_advantages")[scored.row_N, scored.time_N]
    off = float((advantage_N - released_N).abs().max() / released_N.abs().max())
    return [Difference("advantages", off, None)]


def tip(file: File) -> list[Difference]:
    """The loss over the drawn tokens that the file gives, since a draw is random; and the weights of the draw."""
    drawn_N = file.tensor("in_drawn_positions")
    with mock.patch.object(TipDraw, "draw", lambda *_: drawn_N):
        main = difference(file, Variant("", "tip"))
    names, (student_NV, teacher_NV) = ("norm_entropy", "norm_jsd"), map(file.log_probs, ("student", "teacher"))
    signals = Signals(
        {"student_entropy": entropy(student_NV), "jsd": jsd(student_NV, teacher_NV)}, student_NV.shape[-1]
    )
    found = {name: TipDraw(alpha=1.0 - i, gamma=float(i)).chances(signals) for i, name in enumerate(names)}
    if file.setting("jsd_topk"):  # on the teacher's top k the draw is not offered
        del found["norm_jsd"]
    off = {name: float((chance_N - file.tensor(f"out_{name}")).abs().max()) for name, chance_N in found.items()}
    return [main, *(Difference(name, value, None) for name, value in off.items())]


REGISTRY: dict[str, Variants] = {
    f.__name__: f
    for f in (
        gkd, kd, opd, distillm, todi, estimators, opsd, sdpo, mopd, crisp, revisiting, exopd, iw_opd, lightning, grpo,
        drgrpo, rlsd, sdft, redi, paced, rethinking, minillm, scope, tsd_kd, curio_sft, akl, srpo, sdpg, luffy,
        distillm2,
    )
}  # fmt: skip
OTHER: dict[str, Callable[[File], list[Difference]]] = {
    f.__name__: f for f in (tm_opd, tip, taid, rlcsd, distillm_adaptive)
}
