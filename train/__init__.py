"""Training: one loop for pretraining and distillation, run folders, checkpoints, evaluation, recipes, reports."""

from synth.entry import quiet_start

quiet_start()
