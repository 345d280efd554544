"""Judge solutions in a file: `python -m synth.check FILE.jsonl`.

Each line is a JSON record of a problem (as `python -m synth.generate --out -` writes it) with a solution's text in it.
One line per record says right, or wrong with the first mistake and its kind (`synth.judge.checker` has the table of
kinds); the last line counts. The value of a solution's last step is its answer. If any record is bad, only
the error is printed.
"""

from collections import Counter
from typing import Any

from synth import cli

PLAIN_PYTHON_UP_TO = 100  # below this, starting numba takes longer than the checking

EXAMPLE = """examples:
  python -m synth.check records.jsonl
  python -m synth.check rollouts.jsonl --field completion --strict
  python -m synth.generate --ops 15 --count 50 --out - | python -m synth.check -"""


def judge(record: dict, field: str, world_file: str | None = None) -> tuple:
    """Verdict on one record's text and the text itself; the rest as `problem_and_text`."""
    from synth.judge.check_text import check_text

    problem, world, text = cli.problem_and_text(record, field, world_file)
    return check_text(problem, world, text), text


def describe(verdict: Any, text: str) -> str:
    """The verdict on a batch of one in words."""
    from synth.judge.checker import reason

    why, first = reason(verdict, 0), verdict.first_mistake[0]
    if first >= 0:
        step = " ".join(text[verdict.start[0, first] : verdict.stop[0, first]].split())
        return f"wrong, step {first + 1} {why}: {step}"
    words = ["right" if why == "right" else f"wrong, {why}"]
    counts = {"taken back": verdict.retries[0], "unneeded": verdict.unneeded[0]}
    return ", ".join(words + [f"{n} {name}" for name, n in counts.items() if n])


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser("synth.check", __doc__, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="JSON lines, or - for standard input")
    parser.add_argument("--field", default="solution", help="the key of the text to judge (default: solution)")
    parser.add_argument("--world", metavar="FILE", help="the world file (.json) of records whose world is not shipped")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when any solution is wrong")
    args = parser.parse_args(argv)
    if args.world:
        cli.require_world(args.world)
    records = cli.read_records(args.file)
    cli.use_plain_python(len(records) <= PLAIN_PYTHON_UP_TO)
    from tqdm import tqdm

    from synth.judge.checker import reason

    lines, reasons, published = [], Counter(), 0
    for number, record in tqdm(records, unit="record", delay=2, disable=None, leave=False):
        try:
            verdict, text = judge(record, args.field, args.world)
        except ValueError as error:
            cli.fail(f"{cli.name_of(args.file)} line {number}: {error}")
        name = " ".join(str(record.get("id", f"line {number}")).split())
        lines.append(f"{name}: {describe(verdict, text)}")
        reasons[reason(verdict, 0)] += 1
        published += int(verdict.published[0])
    right = reasons.pop("right", 0)
    first = "; first mistakes: " + ", ".join(f"{kind} {n}" for kind, n in reasons.most_common()) if reasons else ""
    lines.append(f"{len(records)} solutions, {right} right, {published} right as published{first}")
    cli.print_lines(lines)
    raise SystemExit(1 if args.strict and right < len(records) else 0)


if __name__ == "__main__":
    main()
