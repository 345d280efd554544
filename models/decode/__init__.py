"""Generating tokens: key-value cache, sampling, beam search, and a compiled CPU step."""
