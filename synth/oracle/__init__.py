"""The exact distribution of the next solution token after any prefix."""
