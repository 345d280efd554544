"""Documents as files: token shards, parquet, JSON lines, other encodings, the data card."""
