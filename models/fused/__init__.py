"""The training step on one CPU thread: the model without its modules, with compiled loops between matrix products."""
