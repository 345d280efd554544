"""The divergence part: how the student is compared with its target at one position."""

from train.opd.divergence.divergence import NLL, Divergence, NoDivergence, Ranking
from train.opd.divergence.kl import (
    JSD,
    AdaptiveKL,
    ForwardKL,
    InterpolatedKL,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    ToDi,
)
from train.opd.divergence.sampled_kl import K2, K3, PolicyGradient, TopKPolicyGradient
from train.opd.divergence.topk_support import Full, StudentTopK, Support, TeacherTopK

__all__ = [
    "JSD",
    "K2",
    "K3",
    "NLL",
    "AdaptiveKL",
    "Divergence",
    "ForwardKL",
    "Full",
    "InterpolatedKL",
    "NoDivergence",
    "PolicyGradient",
    "Ranking",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "StudentTopK",
    "Support",
    "TeacherTopK",
    "ToDi",
    "TopKPolicyGradient",
]  # fmt: skip
