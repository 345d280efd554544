"""Export: a checkpoint as a Hugging Face folder with its tokenizer, for `transformers`, vLLM, lm-eval, TransformerLens.

    python -m train.export checkpoint=runs/pretrain/pretrain-1a2b3c4d out=exported

`checkpoint` is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder; `out` is a new folder. A
model that is a GPT-NeoX, Llama or Qwen3 becomes one. Others (the quickstart's, with their convolutions) need
custom_code=true, which adds the code to the folder, for `trust_remote_code=True`. Prints the largest difference of
logits between the checkpoint and the folder, read back.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("export")

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from models.huggingface.export import parity, read, save
from models.huggingface.families import family
from synth.store.files import atomic_path
from train.config.compose import REQUIRED, run_entry
from train.core import checkpoint
from train.core.extend_vocabulary import checkpoint_encoding


@dataclass(frozen=True)
class ExportConfig:
    """Settings of the command."""

    checkpoint: str = REQUIRED
    out: str = REQUIRED
    custom_code: bool = False


def main(config: ExportConfig) -> None:
    """Writes the folder, or nothing."""
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"out={out}: exists; accepted: a folder that does not")
    model = checkpoint.load_model(config.checkpoint)
    if not config.custom_code:
        try:
            family(model.config)
        except ValueError as error:
            raise ValueError(f"{error}; or custom_code=true, which takes any model") from None
    encoding = checkpoint_encoding(checkpoint.notes(config.checkpoint), config.checkpoint)
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        save(model, temporary, eos=encoding.eos, pad=encoding.pad, custom_code=config.custom_code)
        for_generating(encoding.tokenizer, model.config.context).save_pretrained(temporary)
        difference, largest = parity(model, read(temporary, custom_code=config.custom_code))
    print(f"logits differ by at most {difference:.1e} (largest logit {largest:.1f})")
    print(out)


def for_generating(tokenizer: PreTrainedTokenizerFast, context: int) -> PreTrainedTokenizerFast:
    """A copy for `model.generate(**tokenizer(texts, padding=True, return_tensors="pt"))`. Unknown text, an error in
    this project, becomes padding: tools try a tokenizer on words of their own."""
    tokenizer = copy.deepcopy(tokenizer)
    model = tokenizer.backend_tokenizer.model
    if isinstance(model, WordLevel):
        model.unk_token = tokenizer.pad_token
    settings = {"padding_side": "left", "model_max_length": context}
    for name, value in (settings | {"model_input_names": ["input_ids", "attention_mask"]}).items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value  # only what is in here is saved
    return tokenizer


if __name__ == "__main__":
    sys.exit(run_entry("export", ExportConfig, main, __doc__ or ""))
