"""Models: the transformer, its cache, sampling from it, and looking inside it.

The invariant that matters: nothing in this room knows where tokens come from or what they mean.
"""

from synth.exit_codes import quiet_start

quiet_start()

from models import gpt
from models.decode.cache import KVCache
from models.flops import flops_per_token, n_params
from models.fused.forward import hidden
from models.gpt import GPT, GPTConfig

gpt.shortcut = hidden

__all__ = ["GPT", "GPTConfig", "KVCache", "flops_per_token", "n_params"]
