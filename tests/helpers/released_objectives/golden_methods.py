"""For each released objective: which of our methods it is, and which overrides the settings of its file become.

Where a convention of the release is not the method's own (a mean over tokens in place of responses, a ratio that is one
on fresh samples), the override says so; a user can type it.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.helpers.released_objectives.golden_files import Difference, File, Variant, batch
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.log_probs import entropy
from train.opd.outcome import drgrpo_advantage

SAME_BATCH = "source.reuse=2"  # the batch is used again, so that its tokens come from an older student
Variants = Callable[[File], list[Variant]]


def teacher_entropy(file: File) -> float:
    """The mean entropy of the teacher: what a released cross-entropy exceeds our KL by."""
    return float(entropy(file.log_probs("teacher")).mean())


def gkd(file: File) -> list[Variant]:
    """TRL's GKD; the mean over tokens is a release's choice beside the paper's mean per sequence (gkd.yaml)."""
    count = file.setting("num_items_in_batch")
    scale = file.tokens() / count if count else 1.0
    common = ["weight.normaliser=token", f"divergence.temperature={file.setting('temperature')}"]
    betas = {"": file.setting("beta"), "fkl": 0.0, "rkl": 1.0}
    return [Variant(name, "gkd", [*common, f"divergence.beta={b}"], scale) for name, b in betas.items()]


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
    mixed = [*common, f"also=[{{divergence: nll, coefficient: {(1.0 - rate) / rate}}}]"]
    return [Variant("", "todi", common), Variant("mixed", "todi", mixed, scale=rate)]


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
    """The loss that SDPO and MOPD share. The released ratio to the sampling distribution is the weight `importance`,
    which acts where a batch is used again."""
    ratio = [SAME_BATCH, f"weight.token=[{{kind: importance, cap: {file.setting('is_clip')}}}]"]
    k, beta = int(file.setting("k")), f"divergence.beta={file.setting('alpha')}"
    jsd = ["divergence=jsd", beta]
    tail, renorm = (f"divergence.support={{kind: student_topk, k: {k}, rest: {rest}}}" for rest in ("tail", "renorm"))
    sampled = ["divergence=rkl_pg", "divergence.ratio=false"]
    found = {
        "": [*ratio, *jsd, tail],
        "renorm": [*ratio, *jsd, renorm],
        "full": [*ratio, *jsd, "divergence.support=full"],
        "unclipped": [*jsd, tail],
        "sampled": [*ratio, *sampled],
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
    """The release's mean over the tokens of a micro-batch; the paper's, per response, is crisp.yaml's."""
    rows = tuple(int(n) for n in np.atleast_1d(file.arrays["in_micro_batch_rows"]))
    common = {"micro_batches": rows}
    overrides = ["weight.normaliser=token"]
    jsd = [*overrides, "divergence=jsd", "divergence.beta=0.5"]
    return [Variant("", "crisp", overrides, **common), Variant("jsd", "crisp", jsd, **common)]


def revisiting(file: File) -> list[Variant]:
    k, tokens = int(file.setting("k")), file.arrays["in_special_tokens"].tolist()
    support = f"divergence.support={{kind: teacher_topk, k: {k}, rest: renorm}}"
    mask = f"weight.token=[{{kind: special, tokens: {tokens}, first_only: true}}]"
    return [
        Variant("", "revisiting", [support, mask]),
        Variant("unmasked", "revisiting", [support, "weight.token=[]"]),
    ]


def exopd(file: File) -> list[Variant]:
    sampled = [
        f"divergence={{kind: rkl_pg, clip: {file.setting('clip')}, dual_clip: 3.0, frozen_advantage: true}}",
        f"teacher.transform={{kind: power, exponent: {file.setting('lam')}, normalised: false}}",
        SAME_BATCH,
    ]
    return [Variant("", "exopd", sampled, from_student=not file.off_policy)]


def iw_opd(file: File) -> list[Variant]:
    old = file.setting("use_behaviour") == 1
    overrides = [
        SAME_BATCH,
        f"divergence={{kind: rkl_pg, ratio: false, frozen_advantage: {str(old).lower()}}}",
        f"weight.token=[{{kind: early, gamma: {file.setting('gamma')}, frozen: {str(old).lower()}}}]",
    ]
    return [Variant("", "iw_opd", overrides)]


def lightning(file: File) -> list[Variant]:
    """The release has PPO's ratio and clip, no clip of the advantage, and a mean per response (lightning.yaml)."""
    clips = f"clip: {file.setting('clip')}, clip_high: {file.setting('clip_high')}"
    overrides = [
        f"divergence={{kind: rkl_pg, {clips}, frozen_advantage: true}}",
        f"weight.normaliser={'token' if file.setting('per_token') else 'sequence'}",
    ]
    return [Variant("", "lightning", overrides), Variant("on_policy", "lightning", overrides, from_student=True)]


def clipped(file: File, dual: bool) -> list[str]:
    overrides = [SAME_BATCH, f"outcome.clip={file.setting('clip')}"]
    if "in_clip_high" in file:
        overrides.append(f"outcome.clip_high={file.setting('clip_high')}")
    return [*overrides, "outcome.dual_clip=3.0"] if dual else overrides


def grpo(file: File) -> list[Variant]:
    """verl's and TRL's. trl_kl adds k3 to the reference on the sampled token; regularizer.ref_kl is the exact KL."""
    common = {"from_student": not file.off_policy}
    token = "outcome.normaliser=token"
    return [
        Variant("", "grpo", clipped(file, True), **common),
        Variant("token_mean", "grpo", [*clipped(file, True), token], **common),
        Variant("trl", "grpo", clipped(file, False), **common),
        Variant("trl_dapo", "grpo", [*clipped(file, False), token], **common),
    ]


def drgrpo(file: File) -> list[Variant]:
    """verl divides by the padded width alone, not by the rows."""
    common = {"from_student": not file.off_policy}
    rows, columns = file.arrays["in_tokens"].shape
    scale = rows * file.setting("max_new") / columns
    return [
        Variant("", "drgrpo", clipped(file, False), **common),
        Variant("verl", "drgrpo", clipped(file, True), scale=scale, **common),
    ]


def rlsd(file: File) -> list[Variant]:
    decay = file.setting("decay_steps")
    share = file.setting("lam") * (max(0.0, 1.0 - file.setting("step") / decay) if decay else 1.0)
    modulate = f"kind: rlsd, mix: {share}, bound: {file.setting('epsilon_w')}"
    sequence = "outcome.normaliser=sequence"
    normaliser = sequence if file.setting("sequence_mean") else "outcome.normaliser=token"
    clips = clipped(file, True)
    return [
        Variant("", "rlsd", [*clips, normaliser, f"outcome.modulate={{{modulate}, frozen: true}}"]),
        Variant(
            "on_policy_sequence", "rlsd", [*clips, sequence, f"outcome.modulate={{{modulate}}}"], from_student=True
        ),
    ]


def sdft(file: File) -> list[Variant]:
    """TRL's port: ratio to the sampling distribution, mean per response."""
    skip, beta = int(file.setting("skip")), file.setting("alpha")
    first = f"{{kind: first, skip: {skip}}}, " if skip else ""
    common = [
        SAME_BATCH,
        f"weight.token=[{first}{{kind: importance, cap: {file.setting('is_clip')}}}]",
        "weight.normaliser=sequence",
    ]
    jsd = ["divergence=jsd", f"divergence.beta={beta}"]
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
    """Its repository weighs by the reward; the pass rate of the paper (paced.yaml) is in no released file."""
    overrides = [
        f"weight.sample=[{{kind: reward, beta: {file.setting('reward_beta')}}}]",
        "weight.normaliser=sequence",
        f"divergence={'fkl' if file.setting('forward') else 'rkl'}",
    ]
    return [Variant("", "paced", overrides)]


def rethinking(file: File) -> list[Variant]:
    """The policy gradient of fresh samples; the ratio to an older student would need its whole distribution."""
    if file.off_policy:
        raise ValueError("in_on_policy=0: topk_pg is offered on fresh samples alone, where its ratio is one")
    k = int(file.setting("k"))
    student, teacher = (f"{{kind: {side}_topk, k: {k}, rest: renorm}}" for side in ("student", "teacher"))
    return [
        Variant("", "rethinking", [f"divergence={{kind: topk_pg, support: {student}}}"]),
        Variant("teacher_p", "rethinking", [f"divergence={{kind: topk_pg, support: {student}, weigh: teacher}}"]),
        Variant("only_tch", "rethinking", [f"divergence={{kind: topk_pg, support: {teacher}}}"]),
    ]


def akl(file: File) -> list[Variant]:
    """A divergence without a method file: reverse KL's configuration with another divergence."""
    return [Variant("", "opd", ["divergence=akl", f"divergence.head_share={file.setting('head_share')}"])]


def taid(file: File) -> list[Variant]:
    """The loss at one t, without the entropy of its target; the steps of t (out_t) are not compared."""
    share = file.setting("t_start")
    target_NV = torch.log_softmax((1.0 - share) * file.log_probs("student") + share * file.log_probs("teacher"), dim=-1)
    overrides = ["divergence=taid", f"divergence.share={share}"]
    return [Variant("", "opd", overrides, constant=float(entropy(target_NV).mean()))]


def as_configured(name: str, *overrides: str) -> Variants:
    """The main loss of a method whose own rule cannot be set to the release's yet."""

    def variants(file: File) -> list[Variant]:
        return [Variant("", name, overrides)]

    return variants


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


REGISTRY: dict[str, Variants] = {
    f.__name__: f
    for f in (
        gkd, kd, opd, distillm, todi, estimators, opsd, sdpo, mopd, crisp, revisiting, exopd, iw_opd, lightning, grpo,
        drgrpo, rlsd, sdft, redi, paced, rethinking, akl, taid,
    )
}  # fmt: skip
REGISTRY |= {name: as_configured(name) for name in ("tip", "scope", "tsd_kd", "curio_sft")}
REGISTRY["minillm"] = as_configured("minillm", SAME_BATCH)
OTHER: dict[str, Callable[[File], list[Difference]]] = {"tm_opd": tm_opd}
