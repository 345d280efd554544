"""Look at problems, or write them: `python -m synth.generate --ops 15`.

Without --out it shows problems a person can read. `--out -` writes JSON lines to standard output, `--out x.jsonl` or
`x.parquet` a file, `--out folder/` token shards with a manifest and a data card.
"""

import argparse
import os
import sys
from pathlib import Path

from synth.cli import PLAIN_PYTHON_UP_TO, Parser, fail, rate, require_world, share, whole_number

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")

EXAMPLE = """examples:
  python -m synth.generate --ops 15                                    look at problems
  python -m synth.generate --ops 6 --retry-rate 0.3                    with mistakes that are taken back
  python -m synth.generate --retry-kind slip --retry-rate 0.3 --uncorrected 0.5    wrong numbers, half of them left
  python -m synth.generate --missing-premise                           a needed sentence is missing
  python -m synth.generate --ops 4 --context gold                      told another right solution before
  python -m synth.generate --preset med --count 1000 --out med.jsonl   write records
  python -m synth.generate --preset med --count 100000 --workers 2 --out shards/
  python -m synth.generate --world voyage --ops 12 --figure x.png      another world, and the graph as a picture"""


def perm_level(text: str) -> int | str:
    """An argparse type: 0 to 6, or random."""
    if text in ("0", "1", "2", "3", "4", "5", "6"):
        return int(text)
    if text != "random":
        raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: a whole number from 0 to 6, or random")
    return text


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m synth.generate",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default="med", help="tiny, med or hard: the settings to start from (default med)")
    parser.add_argument("--ops", type=whole_number(1, 64), help="most operations in a solution")
    parser.add_argument(
        "--exact-ops", action="store_true", help="exactly --ops, instead of the minimum of two uniforms"
    )
    parser.add_argument(
        "--edges", type=whole_number(2, 48), help="most instance parameters (default: the preset's; med: 4/3 of --ops)"
    )
    parser.add_argument("--modulus", type=whole_number(2, 997), help="arithmetic modulo this (default 23)")
    parser.add_argument(
        "--world", metavar="NAME", help="english (default), voyage, or a world file (.json) of your own"
    )
    parser.add_argument("--count", type=whole_number(1), help="how many problems (default 3, with --figure 1)")
    parser.add_argument("--start", type=whole_number(0), default=0, help="index of the first problem (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test", "all"), default="all")
    parser.add_argument("--order", choices=("pq", "qp"), help="problem then question (default), or question first")
    parser.add_argument(
        "--retry-rate", type=rate, help="probability of an inserted mistake before each step (default 0)"
    )
    parser.add_argument(
        "--retry-kind", choices=("retry", "weak", "miss", "slip"),
        help="which parameters a mistake may name; slip: a step's result is wrong instead",
    )  # fmt: skip
    parser.add_argument("--uncorrected", type=share, metavar="RATE", help="share of slips not taken back (default 0)")
    parser.add_argument(
        "--mask-mistakes", choices=("none", "name", "step"), help="tokens of a mistake without loss, for token shards"
    )
    parser.add_argument(
        "--missing-premise", type=share, nargs="?", const=1.0, metavar="RATE",
        help="probability that a needed sentence is missing (bare: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--no-shortest", action="store_true", help="solutions with steps that the question does not need"
    )
    parser.add_argument(
        "--solution-order", choices=("uniform", "published"), help="redrawn step by step, or as constructed"
    )
    parser.add_argument(
        "--context",
        metavar="RECIPE",
        help="sections before each problem: gold, success2+failure1 (synth.contexts.sections)",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="- for JSON lines, x.jsonl, x.parquet, or a folder for token shards"
    )
    parser.add_argument(
        "--tokens", default="phrase", metavar="KIND",
        help="of token shards: phrase (default), word, or the folder of a Hugging Face tokenizer",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=whole_number(1), metavar="N", help="documents in each shard of --out folder/ (default 10000)"
    )
    parser.add_argument(
        "--no-parquet", action="store_true", help="token shards alone, without the records for datasets.load_dataset"
    )
    parser.add_argument(
        "--figure", metavar="PATH", help="also draw the dependency graph (.png, .svg, .pdf); --count > 1: PATH-INDEX"
    )
    parser.add_argument("--reask", action="store_true", help="ask another question about each drawn problem")
    parser.add_argument(
        "--perm-level",
        type=perm_level,
        help="order of sentences: 0 to 6 (5, default: shuffled; 6: topological) or random",
    )
    parser.add_argument(
        "--max-length",
        type=whole_number(16, 32768),
        help="drop problems longer than this without mistakes (default: none)",
    )
    parser.add_argument(
        "--length-unit",
        choices=("tokens", "gpt2"),
        help="of --max-length: tokens of this lab, or estimated GPT-2 pieces",
    )
    parser.add_argument(
        "--withheld",
        choices=("none", "differences", "products", "both"),
        help="operations that no solution has; a sum stands in their place",
    )
    parser.add_argument("--workers", type=whole_number(1, 256), default=1, help="processes, for --out (default 1)")
    return parser


def settings(args: argparse.Namespace) -> dict:
    """The settings named on the command line that differ from the preset."""
    from synth.spec import Spec, presets

    names = ("ops", "edges", "modulus", "order", "retry_rate", "retry_kind", "solution_order", "perm_level")
    names += ("uncorrected", "mask_mistakes", "missing_premise", "max_length", "length_unit", "withheld")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.world:
        from synth.world.vocabulary import offered

        chosen["world"] = args.world
        for name, most in offered(args.world).items():  # a small world is used whole
            chosen[name] = min(most, presets().get(args.preset, {}).get(name, getattr(Spec, name)))
    if args.exact_ops:
        chosen["exact_ops"] = True
    if args.no_shortest:
        chosen["shortest"] = False
    if args.context is not None:
        chosen["contexts"] = {args.context: 1.0}
    if args.reask:
        chosen["reask"] = True
    if args.perm_level == "random":
        chosen["perm_level"] = None
    if args.ops and not args.edges and args.preset == "med":
        chosen["edges"] = min(48, max(20, -(-4 * args.ops // 3)))
    if args.ops and args.ops > presets().get(args.preset, {}).get("letters", 52):
        chosen["letters"] = 52 if args.ops <= 52 else 104  # one letter per operation at least
    return chosen


def check_output(out: str) -> str:
    """How to write `out`: lines, parquet or shards; one line and exit 2 when it cannot be."""
    if out == "-":
        return "lines"
    path = Path(out)
    if path.is_dir() and any((path / name).is_file() for name in ("manifest.json", "manifest.partial.json")):
        return "shards"  # goes on where it was stopped, if the settings are the same
    if path.exists() and path != Path(os.devnull):
        fail(f"--out {out} exists already; accepted: a path that does not exist yet")
    if not path.resolve().parent.is_dir():
        fail(f"--out {out}: the folder {path.parent} does not exist; accepted: a path in an existing folder")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401  (only to see whether it is there)
        except ImportError:
            fail(f"--out {out} needs pyarrow; accepted: .jsonl or a folder, or pip install -e '.[data]'")
        return "parquet"
    if path.suffix == ".jsonl":
        return "lines"
    if path.suffix and not out.endswith("/"):
        fail(f"--out {out} is of no known kind; accepted: -, x.jsonl, x.parquet or a folder name")
    return "shards"


def check_figure(args: argparse.Namespace) -> None:
    """One line and exit 2 when --figure cannot be drawn."""
    path = Path(args.figure)
    if path.suffix not in FIGURE_SUFFIXES:
        fail(f"--figure {path} is of no known kind; accepted: {', '.join(FIGURE_SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        fail(f"--figure {path}: the folder {path.parent} does not exist; accepted: a path in an existing folder")
    if args.out:
        fail(f"--figure {path} is not possible with --out; accepted: one of the two")


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    kind = check_output(args.out) if args.out else "show"
    if args.tokens != "phrase" and kind != "shards":
        fail(f"--tokens {args.tokens} has no effect without --out folder/; accepted: phrase, or a folder to write")
    for name in ("shard", "no_parquet"):
        if getattr(args, name) and kind != "shards":
            fail(f"--{name.replace('_', '-')} has no effect without --out folder/; accepted: a folder to write")
    if args.figure:
        check_figure(args)
    args.count = args.count or (1 if args.figure else 3)
    if args.world:
        require_world(args.world)
    if args.count <= PLAIN_PYTHON_UP_TO and args.workers == 1:
        os.environ.setdefault("GLASSHOUSE_JIT", "0")  # must be set before the kernels are imported
    from synth.spec import preset

    try:
        spec = preset(args.preset, **settings(args))
    except ValueError as error:
        fail(str(error))
    try:
        run(args, spec, kind)
    except ValueError as error:
        fail(str(error))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(args: argparse.Namespace, spec, kind: str) -> None:
    """Show or write the problems."""
    if kind == "show":
        from synth.dataset import Source
        from synth.view.text import show

        source = Source(spec, args.seed, args.split)
        for index in range(args.start, args.start + args.count):
            documents = source.documents([index])
            print(show(source, documents, 0, index, sys.stdout.isatty()), end="\n\n\n", flush=True)
            if args.figure:
                from synth.view.figure import draw_document

                path = Path(args.figure)
                name = path.name if args.count == 1 else f"{path.stem}-{index}{path.suffix}"
                draw_document(source, documents, 0, str(path.with_name(name)))
        return
    from synth.store import writers

    write = {"lines": writers.write_lines, "parquet": writers.write_parquet, "shards": writers.write_shards}[kind]
    how = {}
    if kind == "shards":
        how = {
            "tokens": args.tokens,
            "shard": args.shard or writers.SHARD,
            "parquet": False if args.no_parquet else None,
        }
    write(spec, args.seed, args.split, args.start, args.start + args.count, args.workers, args.out, **how)


if __name__ == "__main__":
    main()
