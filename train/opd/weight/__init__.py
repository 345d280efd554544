"""The weight part: which positions and responses count, and the normaliser."""

from train.opd.weight.sample_weights import SampleWeight
from train.opd.weight.token_weights import TokenWeight
from train.opd.weight.weight import WeightConfig, coefficients

__all__ = ["SampleWeight", "TokenWeight", "WeightConfig", "coefficients"]
