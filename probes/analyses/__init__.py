"""Analyses of distillation: what a teacher's signal is worth, where steps come from, what was gained and lost."""
