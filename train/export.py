"""Export: a checkpoint as a Hugging Face folder with its tokenizer, for `transformers`, vLLM, lm-eval, TransformerLens.

    python -m train.export checkpoint=runs/pretrain/pretrain-1a2b3c4d out=exported
    python -m train.export checkpoint=zoo/tiny-teacher-0 out=exported custom_code=true

`checkpoint` is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder; `out` is a new folder. A
model that is a GPT-NeoX, Llama or Qwen3 becomes one. Others (the quickstart's, with their convolutions) need
custom_code=true, which adds the code to the folder, for `trust_remote_code=True`. README.md is a model card with what
is known of its accuracy. Prints the largest difference of logits between the checkpoint and the folder, read back.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("export")

import copy
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCardData
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from models.flops import n_params
from models.gpt import GPT
from models.huggingface.export import parity, read, save
from models.huggingface.families import family
from synth.store.encodings import PHRASE
from synth.store.files import atomic_path, atomic_write, read_json, write_json
from synth.world.vocabulary import EOS, PROBLEM, SOLUTION, SPECIALS
from train.config.compose import REQUIRED, plain, run_entry
from train.config.schema import build
from train.core import checkpoint
from train.core.extend_vocabulary import checkpoint_encoding
from train.data.batches import DataConfig
from train.runs.results import Run, described
from train.statistics import wilson
from train.tables import format_interval

MANIFEST, CARD = "manifest.json", "card.json"
# A user's message is a problem, an assistant's its solution with `<answer>` and the number; others are left out.
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<problem>{{ ' ' + m['content'] | trim }}<solution>"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim }}<eos>{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class ExportConfig:
    """Settings of the command."""

    checkpoint: str = REQUIRED  # what to export
    out: str = REQUIRED  # the folder to write
    custom_code: bool = False  # write code of this lab where no family of transformers has the model


def main(config: ExportConfig) -> None:
    """Writes the folder, or nothing."""
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"out={out}: exists; accepted: a folder that does not")
    checkpoint.find(config.checkpoint)
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
        write_json(temporary / checkpoint.ORIGIN, checkpoint.notes(config.checkpoint))
        atomic_write(temporary / "README.md", model_card(config, model))
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
    if {SPECIALS[mark] for mark in (PROBLEM, SOLUTION, EOS)} <= tokenizer.get_vocab().keys():
        tokenizer.chat_template = CHAT
    return tokenizer


def model_card(config: ExportConfig, model: GPT) -> str:
    """README.md in Hugging Face form: metadata with the accuracy that is known, use, commands, licence."""
    folder, name = checkpoint.find(config.checkpoint).parent.parent, Path(config.out).name
    data = build(DataConfig, checkpoint.notes(config.checkpoint)["data"])
    known, results = accuracy(folder), None
    if known is not None:
        result = EvalResult(
            task_type="text-generation", dataset_type="synthetic", dataset_name=described(plain(data)),
            metric_type="accuracy", metric_name=f"fully correct, greedy, n={known.n}",
            metric_value=round(known.right / known.n, 4), verified=False,
        )  # fmt: skip
        results = [result]
    head = ModelCardData(
        license="mit", library_name="transformers", pipeline_tag="text-generation", model_name=name, language="en",
        tags=["synthetic", "mathematics", "reasoning", "glasshouse"], eval_results=results,
    )  # fmt: skip
    documents = data.source("test", "evaluation").documents([0])
    prompt = data.encoding().decode(documents.prompt_tokens(0)) if data.tokens == PHRASE else "..."
    template = Path(__file__).with_name("templates").joinpath("model_card.md").read_text(encoding="utf-8")
    return template.format(
        head=head.to_yaml(), name=name, parameters=n_params(model.config), config=model.config, prompt=prompt,
        data=described(plain(data)), rate="not measured" if known is None else known.text,
        command=" ".join(read_json(folder / MANIFEST)["command"]) if (folder / MANIFEST).is_file() else "not noted",
        words=" ".join(f"{k}={v}".lower() if k == "custom_code" else f"{k}={v}" for k, v in asdict(config).items()),
        checkpoint=config.checkpoint, remote=", trust_remote_code=True" if config.custom_code else "",
    )  # fmt: skip


class Accuracy(NamedTuple):
    """Fully correct solutions of n problems, and how that was found."""

    right: int
    n: int
    text: str


def accuracy(folder: Path) -> Accuracy | None:
    """What a run folder says of its model: the zoo's card, or the last evaluation while it was trained."""
    if (folder / CARD).is_file():
        card = read_json(folder / CARD)
        right, n, how = (
            card["right"],
            card["n"],
            "greedy, fresh problems of the test split; " + " ".join(card["evaluation"]),
        )
    else:
        rows = [row for row in Run(folder).metrics if row.get("eval_full") is not None and row.get("eval_n")]
        if not rows:
            return None
        right, n = round(rows[-1]["eval_full"] * rows[-1]["eval_n"]), rows[-1]["eval_n"]
        how = "greedy, the held-out problems that were followed in training"
    return Accuracy(right, n, f"{format_interval(wilson(right, n))} (n = {n}, {how})")


if __name__ == "__main__":
    sys.exit(run_entry("export", ExportConfig, main, __doc__ or ""))
