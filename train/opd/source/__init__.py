"""The source part: which responses the student learns from."""

from train.opd.source.mixed_samplers import Revision, Spliced, TokenMixture
from train.opd.source.prompts import Prompts
from train.opd.source.samplers import (
    CachedSampler,
    GoldDocuments,
    Replay,
    Sampler,
    StudentOrGold,
    StudentSampler,
    TeacherSampler,
)

__all__ = [
    "CachedSampler", "GoldDocuments", "Prompts", "Replay", "Revision", "Sampler", "Spliced", "StudentOrGold",
    "StudentSampler", "TeacherSampler", "TokenMixture",
]  # fmt: skip
