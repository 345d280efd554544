"""Uniform numbers by address, for decisions outside compiled code: pure functions of (seed, stream name, index)."""

from synth.kernel.rng import key


def uniform(seed: int, stream: str, index: int) -> float:
    """A number in [0, 1)."""
    return key(seed, stream, index) / 2.0**63  # `key` has 63 bits
