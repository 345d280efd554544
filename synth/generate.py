"""Look at problems, or write them: `python -m synth.generate --ops 15`.

Without --out it shows problems a person can read. `--out -` writes JSON lines to standard output, `--out x.jsonl` or
`x.parquet` a file, `--out folder/` token shards with a manifest and a data card.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synth import cli
from synth.cli import rate, share, whole_number

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")

EXAMPLE = """examples:
  python -m synth.generate --ops 15                                    look at problems
  python -m synth.generate --ops 6 --retry-rate 0.3                    with mistakes that are taken back
  python -m synth.generate --retry-kind slip --retry-rate 0.3 --uncorrected 0.5    wrong numbers, half of them left
  python -m synth.generate --missing-premise                           a needed sentence is missing
  python -m synth.generate --ops 4 --context gold                      another right solution before the problem
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


def build_parser() -> cli.Parser:
    parser = cli.Parser("synth.generate", __doc__, EXAMPLE)
    add_problem_options(parser.add_argument_group("which problems").add_argument)
    add_solution_options(parser.add_argument_group("how they are solved and written").add_argument)
    add_output_options(parser.add_argument_group("where they go").add_argument)
    return parser


def add_problem_options(add: Callable) -> None:
    add("--preset", default="med", help="tiny, med or hard: the settings to start from (default med)")
    add("--ops", type=whole_number(1, 64), help="most operations in a solution")
    add("--exact-ops", action="store_true", help="exactly --ops, instead of the minimum of two uniforms")
    add("--edges", type=whole_number(2, 48), help="most instance parameters (default: the preset's; med: 4/3 of --ops)")
    add("--modulus", type=whole_number(2, 997), help="arithmetic modulo this (default 23)")
    add("--world", metavar="NAME", help="english (default), voyage, or a world file (.json) of your own")
    add("--count", type=whole_number(1), help="how many problems (default 3, with --figure 1)")
    add("--start", type=whole_number(0), default=0, help="index of the first problem (default 0)")
    add("--seed", type=int, default=0)
    add("--split", choices=("train", "test", "all"), default="all")
    add("--reask", action="store_true", help="ask another question about each drawn problem")
    add("--missing-premise", type=share, nargs="?", const=1.0, metavar="RATE",
        help="probability that a needed sentence is missing (bare: 1)")  # fmt: skip
    add("--max-length", type=whole_number(16, 32768), help="drop problems that are longer without mistakes")
    add("--length-unit", choices=("tokens", "gpt2"), help="of --max-length: our tokens, or estimated GPT-2 pieces")
    add("--withheld", choices=("none", "differences", "products", "both"),
        help="operations that no solution has; a sum stands in their place")  # fmt: skip


def add_solution_options(add: Callable) -> None:
    add("--order", choices=("pq", "qp"), help="problem then question (default), or question first")
    add(
        "--perm-level",
        type=perm_level,
        help="order of sentences: 0 to 6 (default 5: shuffled, 6: topological) or random",
    )
    add("--retry-rate", type=rate, help="probability of an inserted mistake before each step (default 0)")
    add("--retry-kind", choices=("retry", "weak", "miss", "slip"),
        help="which parameters a mistake may name; slip: a step's result is wrong instead")  # fmt: skip
    add("--uncorrected", type=share, metavar="RATE", help="share of slips not taken back (default 0)")
    add("--mask-mistakes", choices=("none", "name", "step"), help="tokens of a mistake without loss, for token shards")
    add("--no-shortest", action="store_true", help="solutions with steps that the question does not need")
    add("--solution-order", choices=("uniform", "published"), help="redrawn step by step, or as constructed")
    add("--context", metavar="RECIPE", help="sections before each problem: gold, success2+failure1 (synth.contexts)")


def add_output_options(add: Callable) -> None:
    add("--out", metavar="PATH", help="- for JSON lines, x.jsonl, x.parquet, or a folder for token shards")
    add("--tokens", default="phrase", metavar="KIND",
        help="of token shards: phrase (default), word, or the folder of a Hugging Face tokenizer")  # fmt: skip
    add("--shard", type=whole_number(1), metavar="N", help="documents in each shard of --out folder/ (default 10000)")
    add("--no-parquet", action="store_true", help="token shards alone, without records for datasets.load_dataset")
    add("--figure", metavar="PATH", help="also draw the graph (.png, .svg, .pdf); --count > 1: PATH-INDEX")
    add("--workers", type=whole_number(1, 256), default=1, help="processes, for --out (default 1)")


def settings(args: argparse.Namespace) -> dict:
    """The settings of a `Spec` that the command line changes from the preset."""
    from synth.spec import Spec, presets

    names = ("ops", "edges", "modulus", "order", "retry_rate", "retry_kind", "solution_order", "perm_level", "world")
    names += ("uncorrected", "mask_mistakes", "missing_premise", "max_length", "length_unit", "withheld")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    preset = presets().get(args.preset, {})
    if args.world:
        from synth.world.vocabulary import sizes_of

        for name, most in sizes_of(args.world).items():  # a small world is used whole
            chosen[name] = min(most, preset.get(name, getattr(Spec, name)))
    chosen |= {name: True for name in ("exact_ops", "reask") if getattr(args, name)}
    if args.no_shortest:
        chosen["shortest"] = False
    if args.context is not None:
        chosen["contexts"] = {args.context: 1.0}
    if args.perm_level == "random":
        chosen["perm_level"] = None
    if args.ops and not args.edges and args.preset == "med":
        chosen["edges"] = min(48, max(20, -(-4 * args.ops // 3)))
    if args.ops and args.ops > preset.get("letters", 52):
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
        cli.fail(f"--out {out} exists already; accepted: a path that does not exist yet")
    if not path.resolve().parent.is_dir():
        cli.fail(f"--out {out}: the folder {path.parent} does not exist; accepted: a path in an existing folder")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401  (only to see whether it is there)
        except ImportError:
            cli.fail(f"--out {out} needs pyarrow; accepted: .jsonl or a folder, or pip install -e '.[data]'")
        return "parquet"
    if path.suffix == ".jsonl":
        return "lines"
    if path.suffix and not out.endswith("/"):
        cli.fail(f"--out {out} is of no known kind; accepted: -, x.jsonl, x.parquet or a folder name")
    return "shards"


def check_figure(args: argparse.Namespace) -> None:
    """One line and exit 2 when --figure cannot be drawn."""
    path = Path(args.figure)
    if path.suffix not in FIGURE_SUFFIXES:
        cli.fail(f"--figure {path} is of no known kind; accepted: {', '.join(FIGURE_SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        cli.fail(f"--figure {path}: the folder {path.parent} does not exist; accepted: a path in an existing folder")
    if args.out:
        cli.fail(f"--figure {path} is not possible with --out; accepted: one of the two")


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    form = check_output(args.out) if args.out else "show"
    if args.tokens != "phrase" and form != "shards":
        cli.fail(f"--tokens {args.tokens} has no effect without --out folder/; accepted: phrase, or a folder to write")
    for name in ("shard", "no_parquet"):
        if getattr(args, name) and form != "shards":
            cli.fail(f"--{name.replace('_', '-')} has no effect without --out folder/; accepted: a folder to write")
    if args.figure:
        check_figure(args)
    args.count = args.count or (1 if args.figure else 3)
    if args.world:
        cli.require_world(args.world)
    cli.use_plain_python(args.count <= cli.PLAIN_PYTHON_UP_TO and args.workers == 1)
    from synth.spec import preset

    try:
        spec = preset(args.preset, **settings(args))
        show_problems(args, spec) if form == "show" else write_problems(args, spec, form)
    except ValueError as error:
        cli.fail(str(error))
    except BrokenPipeError:
        cli.ignore_closed_pipe()


def show_problems(args: argparse.Namespace, spec: Any) -> None:
    """Print problems for a person to read, with their figures where these are wanted."""
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


def write_problems(args: argparse.Namespace, spec: Any, form: str) -> None:
    """Write problems as `check_output` says."""
    from synth.store import writers

    stream = (spec, args.seed, args.split, args.start, args.start + args.count, args.workers, args.out)
    if form == "shards":
        writers.write_shards(*stream, args.tokens, args.shard or writers.SHARD, False if args.no_parquet else None)
    else:
        (writers.write_lines if form == "lines" else writers.write_parquet)(*stream)


if __name__ == "__main__":
    main()
