"""The divergence part: kinds of divergence and their estimators."""
