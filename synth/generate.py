"""Look at problems, or write them: `python -m synth.generate --ops 15`.

Without --out it shows problems a person can read. `--out -` writes JSON lines to standard output, `--out x.jsonl` or
`x.parquet` a file, `--out folder/` token shards with a manifest and a data card.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

PLAIN_PYTHON_UP_TO = 20  # below this, starting numba takes longer than the problems

EXAMPLE = """examples:
  python -m synth.generate --ops 15                                    look at problems
  python -m synth.generate --ops 6 --retry-rate 0.3                    with mistakes that are taken back
  python -m synth.generate --ops 4 --context gold                      told another right solution before
  python -m synth.generate --preset med --count 1000 --out med.jsonl   write records
  python -m synth.generate --preset med --count 100000 --workers 2 --out shards/"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message.removeprefix("argument ") + ("; accepted: see --help" if "accepted" not in message else ""))


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def whole(low: int, high: int | None = None):
    """An argparse type: a whole number of at least `low` and at most `high`."""
    accepted = f"a whole number from {low} to {high}" if high else f"a whole number of at least {low}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: {accepted}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: {accepted}")
        return value

    return convert


def rate(text: str) -> float:
    """An argparse type: a probability below one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: 0 <= rate < 1")
    return value


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m synth.generate",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default="med", help="tiny, med or hard: the settings to start from (default med)")
    parser.add_argument("--ops", type=whole(1, 64), help="most operations in a solution")
    parser.add_argument(
        "--exact-ops", action="store_true", help="exactly --ops, instead of the minimum of two uniforms"
    )
    parser.add_argument(
        "--edges", type=whole(2, 48), help="most instance parameters (default: the preset's; med: 4/3 of --ops)"
    )
    parser.add_argument("--modulus", type=whole(2, 997), help="arithmetic modulo this (default 23)")
    parser.add_argument("--count", type=whole(1), default=3, help="how many problems (default 3)")
    parser.add_argument("--start", type=whole(0), default=0, help="index of the first problem (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test", "all"), default="all")
    parser.add_argument("--order", choices=("pq", "qp"), help="problem then question (default), or question first")
    parser.add_argument(
        "--retry-rate", type=rate, help="probability of an inserted mistake before each step (default 0)"
    )
    parser.add_argument("--retry-kind", choices=("retry", "weak", "miss"), help="which parameters a mistake may name")
    parser.add_argument(
        "--solution-order", choices=("uniform", "published"), help="redrawn step by step, or as constructed"
    )
    parser.add_argument(
        "--context", metavar="RECIPE", help="sections before each problem: gold, success2+failure1 (synth.sections)"
    )
    parser.add_argument(
        "--out", metavar="PATH", help="- for JSON lines, x.jsonl, x.parquet, or a folder for token shards"
    )
    parser.add_argument("--workers", type=whole(1, 256), default=1, help="processes, for --out (default 1)")
    return parser


def settings(args: argparse.Namespace) -> dict:
    """The settings named on the command line that differ from the preset."""
    from synth.spec import presets

    names = ("ops", "edges", "modulus", "order", "retry_rate", "retry_kind", "solution_order")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.exact_ops:
        chosen["exact_ops"] = True
    if args.context is not None:
        chosen["contexts"] = {args.context: 1.0}
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


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    kind = check_output(args.out) if args.out else "show"
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
        from synth.show import show

        source = Source(spec, args.seed, args.split)
        for index in range(args.start, args.start + args.count):
            print(show(source, source.documents([index]), 0, index, sys.stdout.isatty()), end="\n\n\n", flush=True)
        return
    from synth import export

    write = {"lines": export.write_lines, "parquet": export.write_parquet, "shards": export.write_shards}[kind]
    write(spec, args.seed, args.split, args.start, args.start + args.count, args.workers, args.out)


if __name__ == "__main__":
    main()
