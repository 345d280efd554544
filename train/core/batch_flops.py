"""The compute of a batch, so that methods can be compared at equal cost.

Counts two for each multiply-add of matrix products and attention over real tokens (`models.flops.flops_per_token`), and
nothing for padding and element-wise work. A training step costs three forward passes.

Legend: B sequences.
"""

from torch import Tensor

from models.flops import flops_per_token
from models.gpt import GPTConfig


def forward_flops(config: GPTConfig, length_B: Tensor) -> float:
    """Operations of one forward pass over sequences of these lengths; token t attends to t + 1 positions."""
    lengths = length_B.double()
    bare = flops_per_token(config, 0.0)
    slope = flops_per_token(config, 1.0) - bare
    return float((lengths * bare + slope * lengths * (lengths + 1) / 2).sum())


def training_flops(config: GPTConfig, length_B: Tensor) -> float:
    """Operations of a training step: the backward pass costs two forward passes (Kaplan et al. 2020, section 2.1)."""
    return 3 * forward_flops(config, length_B)
