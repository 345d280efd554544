"""Parameters and floating-point operations of a model, from its shape.

The invariant that matters: `n_params` is the number of trainable numbers that the model really has.

Try it:  python -m models.sizes
"""

from models.gpt import GPTConfig


def matmul_params(config: GPTConfig) -> int:
    """Entries of the matrices that multiply every token: L (4 C^2 + m C hidden) + C V; m = 3 for SwiGLU, else 2."""
    c = config
    mlp = (3 if c.mlp == "swiglu" else 2) * c.n_embd * c.hidden
    return c.n_layer * (4 * c.n_embd**2 + mlp) + c.n_embd * c.vocab_size


def n_params(config: GPTConfig) -> int:
    """Number of trainable numbers: `matmul_params`, plus

    C V if not tied (the embedding), token_shift C, 2 L conv C, (2L + 1) C for the norms' weights (twice that for layer
    norm), 2 L D with QK-norm, and L (4 C + hidden + C) biases of the linear maps (2 hidden for SwiGLU).
    """
    c = config
    total = matmul_params(c) + (0 if c.tied else c.n_embd * c.vocab_size)
    total += (c.token_shift + 2 * c.n_layer * c.conv) * c.n_embd
    total += (2 * c.n_layer + 1) * c.n_embd * (2 if c.norm == "layernorm" else 1)
    total += 2 * c.n_layer * c.head_dim if c.qk_norm else 0
    total += c.n_layer * (5 * c.n_embd + c.hidden * (2 if c.mlp == "swiglu" else 1)) if c.bias else 0
    return total


def flops_per_token(config: GPTConfig, context: float) -> float:
    """Multiply-adds count as two. Forward pass of one token: 2 matmul_params + 4 L C context.

    `context` is the mean number of positions that a token attends to, itself included: (T + 1) / 2 for a causal
    sequence of T tokens (`torch.utils.flop_counter` ignores causality and takes T). Training costs three times this.
    Element-wise work and the embedding look-up are left out (Kaplan et al. 2020, section 2.1). Every layer is counted
    at every token, also where `GPT.forward` skips positions.
    """
    return 2.0 * matmul_params(config) + 4.0 * config.n_layer * config.n_embd * context
