"""Whose distribution is the target, what that model reads and what is made of it: the teacher part."""

from train.opd.teacher import ema_teacher, external_and_oracle  # noqa: F401  (registers the options)
