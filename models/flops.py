"""Parameters and floating-point operations of a model, from its config. Try it:  python -m models.sizes"""

import torch

from models.gpt import GPT, GPTConfig


def matmul_params(config: GPTConfig) -> int:
    """Entries of the matrices that multiply every token: L (4 C^2 + m C hidden) + C V; m = 3 for SwiGLU, else 2."""
    c = config
    mlp = (3 if c.mlp == "swiglu" else 2) * c.n_embd * c.hidden
    return c.n_layer * (4 * c.n_embd**2 + mlp) + c.n_embd * c.vocab_size


def n_params(config: GPTConfig) -> int:
    """Number of trainable parameters, counted on a model without memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())


def flops_per_token(config: GPTConfig, context: float) -> float:
    """Multiply-adds count as two.

    Forward pass of one token: 2 matmul_params + 4 L C context. `context` is the mean number of positions that a token
    attends to, itself included: (T + 1) / 2 for a causal sequence of T tokens (`torch.utils.flop_counter` ignores
    causality and takes T). Element-wise work and the embedding look-up are left out (Kaplan et al. 2020, section 2.1).
    Every layer is counted at every token, also where `GPT.forward` skips positions.
    """
    return 2.0 * matmul_params(config) + 4.0 * config.n_layer * config.n_embd * context


def training_flops_per_token(config: GPTConfig, length: int) -> float:
    """Forward and backward of one token, the mean over a causal sequence of `length` tokens: three forward passes."""
    return 3 * flops_per_token(config, (length + 1) / 2)
