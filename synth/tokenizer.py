"""Save a world's vocabulary as a Hugging Face tokenizer, or measure tokens per document.

What is saved needs no code of this project: `AutoTokenizer.from_pretrained(FOLDER)` (`synth.store.hf_tokenizer`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from synth import cli, spec
from synth.exit_codes import run_command
from synth.store.files import atomic_path
from synth.store.hf_tokenizer import added_markers, fast_tokenizer, train_bpe, word_tokenizer

BPE_MERGES, BPE_DOCUMENTS = 500, 1000

EXAMPLE = """examples:
  python -m synth.tokenizer --preset med --out phrases/                        the vocabulary every model here uses
  python -m synth.tokenizer --preset med --tokens bpe --merges 500 --out bpe/  a byte-level BPE of generated text
  python -m synth.tokenizer --preset med --measure 2000 --tokens phrase word bpe/    tokens per document"""


def main(argv: list[str] | None = None) -> None:
    args = cli.command_parser("tokenizer", __doc__, EXAMPLE).parse_args(argv)
    if bool(args.out) == bool(args.measure):
        cli.fail("one of the arguments --out --measure is required, and only one; accepted: see --help")
    if args.merges and "bpe" not in args.tokens:
        cli.fail(f"--merges {args.merges} has no effect without --tokens bpe; accepted: leave it out")
    merges = args.merges or BPE_MERGES
    if args.out:
        if len(args.tokens) > 1 or args.tokens[0] not in ("phrase", "word", "bpe"):
            cli.fail(f"--tokens {' '.join(args.tokens)} with --out; accepted: one of phrase, word, bpe")
        cli.require_new("out", Path(args.out))
    try:
        if args.out:
            made = make(spec.preset(args.preset), args.tokens[0], merges)
            with atomic_path(Path(args.out)) as temporary:  # nothing half-written is left behind
                made.save_pretrained(temporary)
        else:
            print(measure(args.preset, args.tokens, merges, args.measure))
    except ValueError as error:
        cli.fail(str(error))


def make(chosen: spec.Spec, kind: str, merges: int):
    """The tokenizer of a spec's world: phrase, word, or a bpe learnt from documents of its own stream."""
    if kind != "bpe":
        return {"phrase": fast_tokenizer, "word": word_tokenizer}[kind](chosen.load_world())
    from synth.dataset import Source

    source = Source(chosen, 0, "train", "tokenizer")
    d = source.documents(range(BPE_DOCUMENTS))
    texts = (source.world.decode(part) for i in range(len(d)) for part in (d.prompt_tokens(i), d.response(i)))
    return train_bpe(texts, merges)


def measure(preset: str, kinds: Sequence[str], merges: int, count: int) -> str:
    """A table of the mean tokens of a document and its parts, and the size of the vocabulary, for each tokenizer."""
    from synth.dataset import Source
    from synth.store.encodings import TextEncoding, encoding

    chosen = spec.preset(preset)
    source = Source(chosen, 0, "test", "tokenizer")
    documents = source.documents(range(count))
    lines = [f"{'tokens':24} {'vocabulary':>10} {'document':>9} {'prompt':>7} {'solution':>8} {'longest':>7}"]
    for kind in kinds:
        if kind == "bpe":
            made = make(chosen, kind, merges)
            way = TextEncoding("bpe", source.world, made, added_markers(made))
        else:
            way = encoding(kind, source.world)
        d = way.documents(documents)
        length = d.offsets[1:] - d.offsets[:-1]
        parts = f"{length.mean():9.1f} {d.prompt.mean():7.1f} {(length - d.prompt).mean():8.1f} {length.max():7}"
        lines.append(f"{kind:24} {way.size:10} {parts}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
