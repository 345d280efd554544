"""What is made of a teacher's distribution before the student is compared with it: the transform of a teacher.

Legend: N response positions, V vocabulary. p teacher, r the student at step 0.
"""

from math import log, log1p
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from train.opd.teacher.targets import TeacherConfig

HOTTEST = 64.0  # of the search for a temperature; beyond it any distribution is as good as uniform
HALVINGS = 30


def entropy(log_NV: Tensor) -> Tensor:
    """Entropy of each position's distribution, in nats: float[N]."""
    return -(log_NV.exp() * log_NV).sum(dim=-1)


def identity(p_NV: Tensor, reference_NV: Tensor | None, config: "TeacherConfig") -> Tensor:
    """The teacher's distribution as it is."""
    return p_NV


def power(p_NV: Tensor, reference_NV: Tensor | None, config: "TeacherConfig") -> Tensor:
    """Reward extrapolation, G-OPD / ExOPD (2602.12125): p^l r^(1-l), renormalised, r the student at step 0.

    l = 1 is the teacher, l = 0 the reference, l > 1 goes beyond the teacher in the direction away from the reference.
    """
    assert config.power is not None and reference_NV is not None
    return torch.log_softmax(config.power * p_NV + (1.0 - config.power) * reference_NV, dim=-1)


def temper(p_NV: Tensor, reference_NV: Tensor | None, config: "TeacherConfig") -> Tensor:
    """p^(1/temperature), renormalised: above 1 softer, below 1 sharper (Hinton et al., 1503.02531, section 2)."""
    assert config.temperature is not None
    return torch.log_softmax(p_NV / config.temperature, dim=-1)


def raised(p_NV: Tensor, reference_NV: Tensor | None, config: "TeacherConfig") -> Tensor:
    """A temperature for each position that makes its entropy H + rise * sigmoid(H - pivot) (CurioSFT, 2602.02244).

    Uncertain positions are kept open, certain ones nearly as they are. Found by bisection; at most uniform.
    """
    assert config.rise is not None and config.pivot is not None
    before_N = entropy(p_NV)
    wanted_N = (before_N + config.rise * torch.sigmoid(before_N - config.pivot)).clamp(max=log(p_NV.shape[-1]))
    low_N, high_N = torch.ones_like(before_N), torch.full_like(before_N, HOTTEST)
    for _ in range(HALVINGS):
        middle_N = (low_N + high_N) / 2
        short_N = entropy(torch.log_softmax(p_NV / middle_N[:, None], dim=-1)) < wanted_N
        low_N, high_N = torch.where(short_N, middle_N, low_N), torch.where(short_N, high_N, middle_N)
    return torch.log_softmax(p_NV / high_N[:, None], dim=-1)


def mix(p_NV: Tensor, reference_NV: Tensor | None, config: "TeacherConfig") -> Tensor:
    """(1 - share) p + share / V: no token is impossible, so that reverse KLs to an exact teacher are finite (ours)."""
    assert config.share is not None
    floor = torch.full_like(p_NV, log(config.share) - log(p_NV.shape[-1]))
    return torch.logaddexp(p_NV + log1p(-config.share), floor)


TRANSFORMS = {"id": identity, "power": power, "temper": temper, "raised": raised, "mix": mix}
SETTINGS = {"power": ("power",), "temper": ("temperature",), "raised": ("rise", "pivot"), "mix": ("share",)}
