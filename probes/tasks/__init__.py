"""The tasks of `python -m probes.run` on one checkpoint."""
