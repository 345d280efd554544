"""Judge solutions in a file: `python -m synth.check FILE.jsonl`.

Each line is a JSON record of a problem (as `python -m synth.generate --out -` writes it) with a solution's text in it:
a whole response, special tokens kept or left out, with its answer or without. The first line counts; the others name
the wrong ones with their first mistake and its kind (`synth.judge.checker` has the table of kinds), or with --all every
record. Layout, prose around the sentences and other letters are forgiven; with `--reading strict` only white space and
special tokens are (`synth.judge.free_text`). Where no answer is stated, the value of the last step is. If any record is
bad, only the error is printed.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from synth import cli
from synth.exit_codes import run_command

PLAIN_PYTHON_UP_TO = 100  # below this, starting numba takes longer than the checking
TOGETHER, SHOWN = 500, 20  # solutions judged at once; wrong ones that are named where not all are asked for

EXAMPLE = """examples:
  python -m synth.check records.jsonl
  python -m synth.check rollouts.jsonl --field completion --reading strict --all
  python -m synth.generate --ops 15 --count 50 --out - | python -m synth.check -"""


def describe(verdicts: Any, i: int, text: str) -> str:
    """The verdict on solution i of a batch in words."""
    from synth.judge.checker import reason

    why, first = reason(verdicts, i), verdicts.first_mistake[i]
    if first >= 0:
        step = " ".join(text[verdicts.start[i, first] : verdicts.stop[i, first]].split())
        return f"wrong, step {first + 1} {why}: {step}"
    words = ["right" if why == "right" else f"wrong, {why}"]
    counts = {"taken back": verdicts.retries[i], "unneeded": verdicts.unneeded[i]}
    return ", ".join(words + [f"{n} {name}" for name, n in counts.items() if n])


def judged(args: Any) -> Iterator[tuple[str, bool, bool, str]]:
    """(why it is right or wrong, whether it is right as published, and strictly, what to print) of every record."""
    for _, batch in groupby(cli.records_and_texts(args, PLAIN_PYTHON_UP_TO, "judge.checker"), key=itemgetter(2)):
        while some := list(islice(batch, TOGETHER)):
            from synth.judge.check_text import check_text, check_texts
            from synth.judge.checker import reason
            from synth.judge.free_text import read_free_text
            from synth.problem.records import read_records

            names, records, worlds, texts = zip(*some, strict=True)
            problems, world = read_records(records, worlds[0]), worlds[0]
            strictly = check_texts(problems, world, texts)
            for i, name in enumerate(names):
                verdicts, row, text = strictly, i, texts[i]
                if args.reading == "tolerant" and not strictly.right[i]:
                    text, answer = read_free_text(problems.take(i), world, text)
                    verdicts, row = check_text(problems.take(i), world, text, answer), 0
                line = f"{name}: {describe(verdicts, row, text)}"
                yield reason(verdicts, row), bool(verdicts.published[row]), bool(strictly.right[i]), line


def main(argv: list[str] | None = None) -> None:
    args = cli.command_parser("check", __doc__, EXAMPLE).parse_args(argv)
    whys, published, strictly, lines = zip(*judged(args), strict=True)
    kinds = Counter(whys)
    right = kinds.pop("right", 0)
    first = "; first mistakes: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()) if kinds else ""
    wrong = [line for line, why in zip(lines, whys, strict=True) if why != "right"]
    more = [f"and {len(wrong) - SHOWN} more that are wrong; --all names every record"] if len(wrong) > SHOWN else []
    detail = lines if args.all else [*wrong[:SHOWN], *more]
    strict = f" ({sum(strictly)} in the strict reading)" if sum(strictly) < right else ""
    count = f"{len(lines)} solutions, {right} right{strict}, {sum(published)} right as published{first}"
    cli.print_lines([count, *detail])
    raise SystemExit(1 if args.strict and right < len(lines) else 0)


if __name__ == "__main__":
    sys.exit(run_command(main))
