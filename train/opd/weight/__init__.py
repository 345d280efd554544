"""Which positions and responses count, and the normaliser: the weight part."""

from train.opd.weight import weight  # noqa: F401  (registers the options)
