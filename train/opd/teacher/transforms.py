"""What is made of a teacher's distribution before the student is compared with it: the transform of a teacher.

Legend: N response positions, V vocabulary. p teacher, r the student at step 0.
"""

from abc import abstractmethod
from math import log, log1p

import torch
from torch import Tensor

from synth.ranges import AboveZero, settings
from train.config.schema import Choice
from train.opd.log_probs import entropy
from train.opd.schedule import OpenShare

HALVINGS = 20  # of the search for a temperature
CERTAIN = 0.03  # nats of entropy, up to which a position only gets the least temperature


class Transform(Choice):
    """A function of the teacher's log-probabilities. needs_reference: and of those of the student at step 0."""

    needs_reference = False

    @abstractmethod
    def __call__(self, p_NV: Tensor, reference_NV: Tensor | None) -> Tensor:
        """The target's log-probabilities, float[N, V]."""


@settings
class Identity(Transform, kind="identity"):
    """The teacher's distribution as it is."""

    def __call__(self, p_NV: Tensor, reference_NV: Tensor | None) -> Tensor:
        return p_NV


@settings
class Power(Transform, kind="power"):
    """Reward extrapolation, G-OPD / ExOPD (2602.12125): p^l r^(1-l), renormalised, r the student at step 0.

    l = 1 is the teacher, l = 0 the reference, l > 1 goes beyond the teacher in the direction away from the reference.
    normalised: false leaves out log Z of the state, as the released code does; for sampled divergences alone, where it
    is a baseline: another value and variance, the same expected gradient.
    """

    exponent: float = 1.25  # l of p^l r^(1-l); above 1 goes beyond the teacher
    normalised: bool = True
    needs_reference = True

    def __call__(self, p_NV: Tensor, reference_NV: Tensor | None) -> Tensor:
        if reference_NV is None:
            raise RuntimeError("teacher.transform=power: the student at step 0 was not scored")
        target_NV = self.exponent * p_NV + (1.0 - self.exponent) * reference_NV
        return torch.log_softmax(target_NV, dim=-1) if self.normalised else target_NV


@settings
class Temper(Transform, kind="temper"):
    """p^(1/temperature), renormalised: above 1 softer, below 1 sharper (Hinton et al., 1503.02531, section 2)."""

    temperature: AboveZero = 2.0  # above 1 softer, below 1 sharper

    def __call__(self, p_NV: Tensor, reference_NV: Tensor | None) -> Tensor:
        return torch.log_softmax(p_NV / self.temperature, dim=-1)


@settings
class RaisedEntropy(Transform, kind="raised"):
    """A temperature per position, from `least` to `most`, that makes its entropy H + rise sigmoid(slope (H - pivot)).

    CurioSFT (2602.02244): uncertain positions are kept open, certain ones nearly as they are. Found by bisection.
    """

    rise: AboveZero = 0.5  # of the entropy, at most, in nats
    slope: AboveZero = 2.0  # of the sigmoid
    pivot: float = 1.2  # entropy in the middle of the sigmoid
    least: AboveZero = 1.1  # temperature
    most: AboveZero = 1.5  # temperature

    def temperature(self, p_NV: Tensor) -> Tensor:
        """The temperature of each position: float[N]."""
        before_N = entropy(p_NV)
        wanted_N = before_N + self.rise * torch.sigmoid(self.slope * (before_N - self.pivot))
        low_N, high_N = torch.full_like(before_N, self.least), torch.full_like(before_N, self.most)
        for _ in range(HALVINGS):
            middle_N = (low_N + high_N) / 2
            short_N = entropy(torch.log_softmax(p_NV / middle_N[:, None], dim=-1)) < wanted_N
            low_N, high_N = torch.where(short_N, middle_N, low_N), torch.where(short_N, high_N, middle_N)
        return torch.where(before_N <= CERTAIN, torch.full_like(before_N, self.least), (low_N + high_N) / 2)

    def __call__(self, p_NV: Tensor, reference_NV: Tensor | None) -> Tensor:
        return torch.log_softmax(p_NV / self.temperature(p_NV)[:, None], dim=-1)


@settings
class MixWithUniform(Transform, kind="mix"):
    """(1 - share) p + share / V: no token is impossible, so that reverse KLs to an exact teacher are finite (ours)."""

    share: OpenShare = 0.01  # of the uniform distribution

    def __call__(self, p_NV: Tensor, reference_NV: Tensor | None) -> Tensor:
        floor = torch.full_like(p_NV, log(self.share) - log(p_NV.shape[-1]))
        return torch.logaddexp(p_NV + log1p(-self.share), floor)
