"""Models: the transformer, its cache, sampling from it, and looking inside it. Knows nothing about the data."""

from models.cache import KVCache
from models.gpt import GPT, GPTConfig, flops_per_token, n_params

__all__ = ["GPT", "GPTConfig", "KVCache", "flops_per_token", "n_params"]
