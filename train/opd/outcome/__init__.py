"""What the verifier, or another judge, adds: the outcome part."""

from train.opd.outcome import outcome  # noqa: F401  (registers the options)
