"""The model sizes of configs/model: parameters and compute of every file, as a table and as the comment in the file,
which is the line that `size_comment` computes.

Try it:  python -m models.sizes
         python -m models.sizes --vocab 1751 --context 768 gpt2-12-12 llama-12-12
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml

from models.flops import flops_per_token, n_params
from models.gpt import GPTConfig
from synth.exit_codes import run_command

_HOME = Path(__file__).resolve().parents[1]
FOLDER = next(home / "configs" / "model" for home in (_HOME / "train", _HOME) if (home / "configs").is_dir())
GPT2_VOCAB = 50257  # tokens of GPT-2's tokenizer, which the papers use


def read_sizes(vocab: int = GPT2_VOCAB, names: Collection[str] = ()) -> dict[str, GPTConfig]:
    """The models of configs/model (all, or `names`) with a vocabulary of `vocab` tokens, smallest first."""
    paths = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    for name in names:
        if name not in paths:
            raise ValueError(f"size={name}: accepted: {', '.join(paths)}")
    sizes = {name: read_size(paths[name], vocab) for name in names or paths}
    return dict(sorted(sizes.items(), key=lambda size: non_embedding_params(size[1])))


def read_size(path: Path, vocab: int = GPT2_VOCAB) -> GPTConfig:
    """The model of one file with a vocabulary of `vocab` tokens."""
    return GPTConfig(vocab_size=vocab, **yaml.safe_load(path.read_text(encoding="utf-8")))


def non_embedding_params(config: GPTConfig) -> int:
    """Parameters that do not depend on the vocabulary."""
    return n_params(config) - (1 if config.tied else 2) * config.n_embd * config.vocab_size


def size_comment(config: GPTConfig) -> str:
    """The comment on its size in a file of configs/model; FLOPs of a token, forward, in sequences of full length."""
    c, embeds = config, 1 if config.tied else 2
    flops, each = flops_per_token(c, (c.context + 1) / 2), 2 * c.n_embd
    return (
        f"# With a vocabulary of V: {_short(non_embedding_params(c))} + {embeds * c.n_embd} V parameters, "
        f"{_short(flops - each * c.vocab_size)} + {each} V FLOPs per token ({_short(n_params(c))}, {_short(flops)} at "
        f"GPT-2's V = {c.vocab_size})."
    )


def table(sizes: Mapping[str, GPTConfig], context: int | None) -> str:
    """One line per model: parameters without ("body") and with the vocabulary; FLOPs of one token, forward, in a
    sequence of `context` tokens (None: of the model's longest)."""
    lines = [f"{'size':<12} layers heads width context    body  in all FLOPs/token"]
    for name, c in sizes.items():
        length = context or c.context
        body, total, flops = map(_short, (non_embedding_params(c), n_params(c), flops_per_token(c, (length + 1) / 2)))
        shape = f"{c.n_layer:>6} {c.n_head:>5} {c.n_embd:>5} {length:>7}"
        lines.append(f"{name:<12} {shape} {body:>7} {total:>7} {flops:>11}")
    return "\n".join(lines)


def _short(number: float) -> str:
    """Three significant digits: 85.1M, 1.24G."""
    unit, scale = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= 0.9995 * s), ("", 1))
    value = number / scale
    return f"{value:.{2 if unit and value < 9.995 else 1 if unit and value < 99.95 else 0}f}{unit}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. One line and exit code 2 for an unknown size or a number out of range."""
    parser = argparse.ArgumentParser(
        "python -m models.sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="*", help="names in configs/model (default: all)")
    parser.add_argument("--vocab", type=int, default=GPT2_VOCAB, help="tokens in the vocabulary (default: GPT-2's)")
    parser.add_argument("--context", type=int, help="length of the sequences (default: each model's context)")
    given = parser.parse_args(argv)
    try:
        if given.context is not None and given.context < 1:
            raise ValueError(f"context={given.context}: expected at least 1")
        print(table(read_sizes(given.vocab, given.size), given.context))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
