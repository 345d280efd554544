"""Judging a model: solved problems, pass@k, repetition, evaluation during training."""
