"""Hugging Face folders: write a GPT into one, read one back, and measure how far the logits are apart.

A GPT that is a GPT-NeoX, Llama or Qwen3 (`models.families`) becomes one, which every tool knows. Any GPT can also go
with its own code (`custom_code`), which `transformers` runs on `trust_remote_code=True`.

The invariant that matters: both ways the logits stay the same to float32 rounding, or the setting that makes this
impossible is named.

Try it:  save(GPT(GPTConfig(97, 2, 2, 32, 64, mlp="swiglu")), Path("folder")); load(Path("folder"))

Legend: B batch, T tokens, V vocabulary.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from models.families import by_head, family, names_of, read_config, write_config
from models.gpt import GPT

ROUNDING = 1e-4  # largest difference of two logits, as a share of the largest logit, that counts as float32 rounding


def to_hugging_face(model: GPT, *, eos: int | None = None, pad: int | None = None) -> PreTrainedModel:
    """The same model in `transformers`, on the CPU, in evaluation mode; `eos` ends what it generates."""
    config, kind = model.config, family(model.config)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if kind.model_type == "gpt_neox" and ".qkv." in name:
            tensor = by_head(tensor, (3, config.n_head))
        names = names_of(name, kind)
        state |= dict(zip(names, tensor.cpu().chunk(len(names)), strict=True))
    if config.tied:
        state["lm_head.weight"] = state[names_of("embed.weight", kind)[0]]
    with (
        _quiet(),
        torch.random.fork_rng(devices=[]),
    ):  # its first weights, soon replaced, come from the global generator
        theirs = kind.model(write_config(config, eos, pad))
        theirs.to(model.embed.weight.dtype).load_state_dict(state)
        theirs.generation_config = GenerationConfig(
            max_length=config.context, do_sample=False, eos_token_id=eos, pad_token_id=pad
        )
    return theirs.eval()


def from_hugging_face(theirs: PreTrainedModel) -> GPT:
    """The same model as a GPT, in evaluation mode. Raises ValueError as `read_config` does."""
    config = read_config(theirs.config)
    kind, source = family(config), theirs.state_dict()
    with torch.device("meta"):
        model = GPT(config)
    state = {}
    for name in model.state_dict():
        tensor = torch.cat([source[their] for their in names_of(name, kind)])
        if kind.model_type == "gpt_neox" and ".qkv." in name:
            tensor = by_head(tensor, (config.n_head, 3))
        state[name] = tensor.clone()
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()


@torch.no_grad()
def parity(model: GPT, theirs: torch.nn.Module, rows: int = 4, seed: int = 0) -> tuple[float, float]:
    """Largest difference of two logits, and the largest logit, over random tokens that fill up to 256 positions.

    Raises FloatingPointError where the difference is no rounding (more than `ROUNDING` of the largest logit).
    """
    shape = (rows, min(256, model.config.context))
    tokens_BT = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
    ours_BTV, theirs_BTV = model(tokens_BT), theirs(tokens_BT).logits.float()
    difference, largest = float((ours_BTV - theirs_BTV).abs().max()), float(ours_BTV.abs().max())
    if not difference <= ROUNDING * largest:
        raise FloatingPointError(
            f"the exported model's logits differ by {difference:.1e} where the largest is {largest:.1e}"
        )
    return difference, largest


def save(model: GPT, folder: Path, *, eos: int | None = None, pad: int | None = None) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`, which may exist."""
    theirs = to_hugging_face(model, eos=eos, pad=pad)
    with _quiet():
        theirs.save_pretrained(folder)


def load(folder: Path) -> GPT:
    """The model of a Hugging Face folder. Raises ValueError, naming the folder or the setting that does not fit."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"folder={folder}: holds no config.json; accepted: a Hugging Face model folder")
    with _quiet():
        try:
            read_config(AutoConfig.from_pretrained(folder))
            theirs = AutoModelForCausalLM.from_pretrained(folder)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"folder={folder}: its weights cannot be read ({str(error).splitlines()[0]})") from error
    return from_hugging_face(theirs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices and progress bars of transformers."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
