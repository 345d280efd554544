"""Whose distribution is the target, what that model reads and what is made of it: the teacher part."""

from train.opd.teacher import external_and_oracle, self_teachers  # noqa: F401  (registers the options)
