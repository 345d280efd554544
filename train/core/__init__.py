"""The training loop and what it stands on: optimiser, state, checkpoints, processes, logs."""
