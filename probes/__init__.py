"""Probes: what can be read from a model's hidden states, beside what the same probe reads without the model's help."""

from synth.exit_codes import quiet_start

quiet_start()
