"""Training: one loop for pretraining and distillation, run folders, checkpoints, evaluation, recipes, reports."""

from synth.exit_codes import quiet_start

quiet_start()
