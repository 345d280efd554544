"""Hugging Face folders: write a GPT into one, read one back, and measure how far the logits differ.

A GPT that is a GPT-NeoX, Llama or Qwen3 (`models.huggingface.families`) is written as one, which every tool reads. Any
other GPT is written with its own code (`custom_code`), which `transformers` runs with `trust_remote_code=True`.

The invariant that matters: in both directions the logits stay the same to float32 rounding, or a ValueError names the
setting that makes this impossible.

Legend: B batch, T tokens, V vocabulary.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from models.gpt import GPT
from models.huggingface.families import family, names_of, qkv_from_neox, qkv_to_neox, read_config, write_config
from models.huggingface.modeling_glasshouse import GlasshouseConfig, GlasshouseForCausalLM

# The modules of `models` that a folder with its own code carries, side by side.
CODE = ("huggingface.modeling_glasshouse", "gpt", "ops", "packing", "rope")
MODELS = Path(__file__).resolve().parents[1]
# Largest difference of two logits, as a share of the largest logit, that counts as float32 rounding. Most of it comes
# from the rotary angles, which `transformers` rounds to float32 and we do not; it grows with the position.
ROUNDING = 1e-4


def to_hugging_face(model: GPT, *, eos: int | None = None, pad: int | None = None) -> PreTrainedModel:
    """The same model in `transformers`, on the CPU, in evaluation mode; generation stops at `eos`."""
    config, target = model.config, family(model.config)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if target.model_type == "gpt_neox" and ".qkv." in name:
            tensor = qkv_to_neox(tensor, config.n_head)
        names = names_of(name, target)
        state |= dict(zip(names, tensor.cpu().chunk(len(names)), strict=True))
    if config.tied:
        state["lm_head.weight"] = state[names_of("embed.weight", target)[0]]
    # Its first weights, replaced at once, would be drawn from the global generator.
    with _quiet(), torch.random.fork_rng(devices=[]):
        hf_model = target.model(write_config(config, eos, pad))
    return _ready(hf_model, hf_model, state, model, eos, pad)


def to_custom_code(model: GPT, *, eos: int | None = None, pad: int | None = None) -> PreTrainedModel:
    """Any GPT as a `modeling_glasshouse.GlasshouseForCausalLM`, whose code is written into the folder."""
    names = {"AutoConfig": GlasshouseConfig.__name__, "AutoModelForCausalLM": GlasshouseForCausalLM.__name__}
    with _quiet():
        config = GlasshouseConfig(gpt=asdict(model.config), bos_token_id=None, eos_token_id=eos, pad_token_id=pad)
        config.auto_map = {auto: f"modeling_glasshouse.{name}" for auto, name in names.items()}
        hf_model = GlasshouseForCausalLM(config)
    return _ready(hf_model, hf_model.gpt, model.state_dict(), model, eos, pad)


def _ready(
    hf_model: PreTrainedModel, part: nn.Module, state: dict[str, Tensor], model: GPT, eos: int | None, pad: int | None
) -> PreTrainedModel:
    """`hf_model` with the weights `state` in `part`, the dtype of `model`, and greedy generation as its default."""
    nn.Module.to(hf_model, model.embed.weight.dtype)
    part.load_state_dict(state)
    settings = {"max_length": model.config.context, "eos_token_id": eos, "pad_token_id": pad}
    hf_model.generation_config = GenerationConfig(do_sample=False, **settings)
    return hf_model.eval()


def from_hugging_face(hf_model: PreTrainedModel) -> GPT:
    """The same model as a GPT, in evaluation mode. Raises ValueError as `read_config` does."""
    config = read_config(hf_model.config)
    source, hf_state = family(config), hf_model.state_dict()
    with torch.device("meta"):
        model = GPT(config)
    state = {}
    for name in model.state_dict():
        tensor = torch.cat([hf_state[hf_name] for hf_name in names_of(name, source)])
        if source.model_type == "gpt_neox" and ".qkv." in name:
            tensor = qkv_from_neox(tensor, config.n_head)
        state[name] = tensor.clone()
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()


@torch.no_grad()
def parity(model: GPT, hf_model: nn.Module) -> tuple[float, float]:
    """Largest difference of two logits, and the largest logit, on random tokens at up to 256 positions. Raises
    FloatingPointError if the difference exceeds rounding (`ROUNDING` times the largest logit)."""
    shape = (4, min(256, model.config.context))
    tokens_BT = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    logits_BTV, hf_logits_BTV = model(tokens_BT), hf_model(tokens_BT).logits.float()
    difference, largest = float((logits_BTV - hf_logits_BTV).abs().max()), float(logits_BTV.abs().max())
    if not difference <= ROUNDING * largest:
        found = f"differ by {difference:.1e} where the largest is {largest:.1e}"
        raise FloatingPointError(f"the exported model's logits {found}")
    return difference, largest


def save(
    model: GPT, folder: Path, *, eos: int | None = None, pad: int | None = None, custom_code: bool = False
) -> PreTrainedModel:
    """Write config.json, generation_config.json and model.safetensors into `folder`, and the code if `custom_code`.
    Returns the written model. Without `custom_code` raises ValueError for a model that `transformers` does not have."""
    hf_model = (to_custom_code if custom_code else to_hugging_face)(model, eos=eos, pad=pad)
    with _quiet():
        hf_model.save_pretrained(folder)
    for weights in Path(folder).glob("*.safetensors"):  # written for their owner alone; the other files are as usual
        weights.chmod((Path(folder) / "config.json").stat().st_mode)
    for module in CODE if custom_code else ():
        source = (MODELS / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        flat = re.sub(r"from models\.(?:\w+\.)*(\w+) import", r"from .\1 import", source)
        (Path(folder) / module.rpartition(".")[2]).with_suffix(".py").write_text(flat, encoding="utf-8")
    return hf_model


def read(folder: Path, *, custom_code: bool = False) -> PreTrainedModel:
    """The model of a Hugging Face folder as `transformers` loads it; `custom_code` runs the code in the folder. Raises
    ValueError for another folder, or if the weights are not exactly those of the architecture."""
    return _from_pretrained(AutoModelForCausalLM, Path(folder), trust_remote_code=custom_code)


def load(folder: Path) -> GPT:
    """The model of a Hugging Face folder as a GPT: one written here, or any GPT-NeoX, Llama or Qwen3 that fits. Raises
    ValueError, naming the folder or the setting that does not fit. Never runs code in the folder."""
    if _model_type(Path(folder)) == GlasshouseConfig.model_type:
        return _from_pretrained(GlasshouseForCausalLM, Path(folder)).gpt
    with _quiet():
        read_config(AutoConfig.from_pretrained(folder))  # before the weights, which may be large
    return from_hugging_face(read(folder))


def _model_type(folder: Path) -> str:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError) as error:
        fault = "holds no config.json of a model; accepted: a Hugging Face folder"
        raise ValueError(f"folder={folder}: {fault}") from error


def _from_pretrained(auto_class: Any, folder: Path, **settings: Any) -> Any:
    _model_type(folder)
    with _quiet():
        try:
            settings |= {"dtype": "auto", "output_loading_info": True, "use_safetensors": True}  # nothing is unpickled
            hf_model, info = auto_class.from_pretrained(folder, **settings)
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"folder={folder}: cannot be read ({why[:200]})") from error
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[fault]:
            raise ValueError(f"folder={folder}: {fault.replace('_', ' ')} in its weights: {sorted(info[fault])[0]}")
    for name, tensor in hf_model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"folder={folder}: {name} is not finite; accepted: a model of finite numbers")
    return hf_model.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and progress bars of transformers."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
