"""Writing a problem and its solution as tokens, with mistakes and their corrections, and the truth of each token."""
