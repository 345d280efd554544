"""Training: one loop for pretraining and distillation, run folders, checkpoints, evaluation, recipes, reports."""
