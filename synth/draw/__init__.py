"""Drawing problems: structure, dependencies, expressions, length, another query, train/test split."""
