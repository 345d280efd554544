"""LoRA: low-rank updates of frozen weights (Hu et al. 2021, 2106.09685), by `peft`, which the extra `lora` installs.

W + (alpha / rank) B A with W frozen and B = 0 at the start. Only the updates train; evaluations and checkpoints get
plain weights with the updates added, so every reader of checkpoints works. A resumed run takes W from `init` again and
the updates from the optimiser's file. FLOPs are counted as those of full training, up to a third too many.

    python -m train.pretrain init=RUN lora=paper optim=adamw optim.lr=1e-3 data.overrides.retry_rate=0.2
"""

import warnings
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from models.gpt import GPT
from synth.kernel.rng import key
from synth.ranges import AboveZero, Count, Filled, Positive, settings


@settings
class LoraConfig:
    """Updates of `rank` for the linear `maps` of every block, and of rank `embed` (0: none) for the embedding.

    Part 2.2 updates queries and values with rank r and the embedding with 2r. Here queries, keys and values are one
    map, `qkv`. alpha / rank scales all updates alike. maps: the linear maps that are updated.
    """

    rank: Positive = 16  # of the updates
    alpha: AboveZero = 32.0  # their scale times the rank
    maps: Annotated[list[Literal["qkv", "out", "up", "down"]], Filled] = field(default_factory=lambda: ["qkv"])
    embed: Count = 0  # rank of the embedding's update, 0 for none


def add_lora(model: GPT, config: LoraConfig, seed: int) -> GPT:
    """Freezes the weights of `model` and adds trainable updates to it, in place; A is drawn from `seed`. Raises
    ValueError without peft, and where the embedding to update is also the unembedding."""
    try:
        import peft
    except ImportError as error:
        raise ValueError("lora: the package peft is missing; accepted: pip install 'glasshouse[lora]'") from error
    if config.embed and model.config.tied:
        raise ValueError(f"lora.embed={config.embed}: the embedding is also the unembedding; accepted: 0")
    embedding = {"embed.weight": config.embed} if config.embed else {}
    how = peft.LoraConfig(
        r=config.rank, lora_alpha=cast(Any, config.alpha), target_modules=list(config.maps),
        target_parameters=list(embedding) or None, rank_pattern=embedding,
        alpha_pattern={name: config.alpha / config.rank * rank for name, rank in embedding.items()},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*did not match any targeted module")  # peft looks at modules alone
        torch.manual_seed(key(seed, "lora", 0) % 2**63)
        peft.inject_adapter_in_model(how, model)
    return model


def lora_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name of each updated weight, and the peft module that holds its update."""
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            yield f"{name}.{getattr(module, 'parameter_name', 'weight')}", module


def has_lora(model: nn.Module) -> bool:
    """Whether the model has LoRA adapters."""
    return next(lora_modules(model), None) is not None


@torch.no_grad()
def merge_lora(model: GPT) -> GPT:
    """A model of plain weights with the updates added, in evaluation mode; `model` stays as it is."""
    tensors: dict[str, Tensor] = {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }
    for name, module in lora_modules(model):
        tensors[name] = tensors[name] + module.get_delta_weight("default")
    with torch.device("meta"):
        plain = GPT(model.config)
    plain.load_state_dict(tensors, assign=True)
    return plain.eval()
