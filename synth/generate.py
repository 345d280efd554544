"""Look at problems, or write them: `python -m synth.generate --ops 15`.

Without --out it shows problems a person can read. `--out -` writes JSON lines to standard output, `--out x.jsonl` or
`x.parquet` a file, `--out folder/` token shards with a manifest and a data card.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from synth import cli
from synth.exit_codes import run_command

WORTH_SHOWING = 4  # operations of the first problem that is shown, where nothing else was asked for
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
    path, kinds = Path(out), {".parquet": "parquet", ".jsonl": "lines", "": "shards"}
    if out == "-":
        return "lines"
    if path.is_dir() and any((path / name).is_file() for name in ("manifest.json", "manifest.partial.json")):
        return "shards"  # goes on where it was stopped, if the settings are the same
    if path != Path(os.devnull):
        cli.require_new("out", path)
    kind = "shards" if out.endswith("/") and path.suffix not in (".parquet", ".jsonl") else kinds.get(path.suffix)
    if kind == "parquet":
        try:
            import pyarrow  # noqa: F401  (only to see whether it is there)
        except ImportError:
            cli.fail(f"--out {out} needs pyarrow; accepted: .jsonl or a folder, or pip install -e '.[data]'")
    return kind or cli.fail(f"--out {out} is of no known kind; accepted: -, x.jsonl, x.parquet or a folder name")


def check_figure(args: argparse.Namespace) -> None:
    """One line and exit 2 when --figure cannot be drawn."""
    path = Path(args.figure)
    if path.suffix not in FIGURE_SUFFIXES:
        cli.fail(f"--figure {path} is of no known kind; accepted: {', '.join(FIGURE_SUFFIXES)}")
    cli.require_new("figure", path, may_exist=True)
    if args.out:
        cli.fail(f"--figure {path} is not possible with --out; accepted: one of the two")


def main(argv: list[str] | None = None) -> None:
    args = cli.command_parser("generate", __doc__, EXAMPLE).parse_args(argv)
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


def show_problems(args: argparse.Namespace, spec: Any) -> None:
    """Print problems for a person to read, with their figures where these are wanted."""
    from synth.dataset import Source
    from synth.kernel.progress import has_colour
    from synth.view.text import show

    source, start = Source(spec, args.seed, args.split), args.start
    if start is None:  # the first thing that is shown is no problem of one operation
        start = next((i for i in range(50) if source.problems([i]).ops[0] >= min(WORTH_SHOWING, spec.ops)), 0)
    for index in range(start, start + args.count):
        documents = source.documents([index])
        print(show(source, documents, 0, index, has_colour(sys.stdout)), end="\n\n\n", flush=True)
        if args.figure:
            from synth.view.figure import draw_document

            path = Path(args.figure)
            name = path.name if args.count == 1 else f"{path.stem}-{index}{path.suffix}"
            draw_document(source, documents, 0, str(path.with_name(name)))


def write_problems(args: argparse.Namespace, spec: Any, form: str) -> None:
    """Write problems as `check_output` says."""
    from synth.store import writers

    cli.say_when_compiling("problem_source")
    start = args.start or 0
    stream = (spec, args.seed, args.split, start, start + args.count, args.workers, args.out)
    if form == "shards":
        writers.write_shards(*stream, args.tokens, args.shard or writers.SHARD, False if args.no_parquet else None)
    else:
        (writers.write_lines if form == "lines" else writers.write_parquet)(*stream)
    if args.out != "-":
        print(f"{args.count:,} problem{'s' * (args.count > 1)} in {args.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
