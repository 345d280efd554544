"""The teacher part: parameters x context x transform."""
