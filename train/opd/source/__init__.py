"""Which responses the student learns from: the source part."""

from train.opd.source import mixed_samplers, replay_buffer  # noqa: F401  (registers the options)
