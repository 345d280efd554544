"""Judge solutions in a file: `python -m synth.check FILE.jsonl`.

Each line is a JSON record of a problem (as `python -m synth.generate --out -` writes it) with a solution's text in it.
One line per record says right, or wrong with the first mistake and its kind (`synth.judge.checker` has the table of
kinds); the last line counts. The value of a solution's last step is its answer. If any record is bad, only
the error is printed.
"""

import sys
from collections import Counter
from typing import Any

from synth import cli
from synth.entry import run_command

PLAIN_PYTHON_UP_TO = 100  # below this, starting numba takes longer than the checking

EXAMPLE = """examples:
  python -m synth.check records.jsonl
  python -m synth.check rollouts.jsonl --field completion --strict
  python -m synth.generate --ops 15 --count 50 --out - | python -m synth.check -"""


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
    args = cli.command_parser("check", __doc__, EXAMPLE).parse_args(argv)
    reasons, published = Counter(), Counter()

    def judge(problem: Any, world: Any, text: str, name: str) -> str:
        from synth.judge.check_text import check_text
        from synth.judge.checker import reason

        verdict = check_text(problem, world, text)
        reasons[reason(verdict, 0)] += 1
        published[bool(verdict.published[0])] += 1
        return f"{name}: {describe(verdict, text)}"

    lines = cli.for_each_record(args, PLAIN_PYTHON_UP_TO, judge)
    right = reasons.pop("right", 0)
    first = "; first mistakes: " + ", ".join(f"{kind} {n}" for kind, n in reasons.most_common()) if reasons else ""
    cli.print_lines([*lines, f"{len(lines)} solutions, {right} right, {published[True]} right as published{first}"])
    raise SystemExit(1 if args.strict and right < len(lines) else 0)


if __name__ == "__main__":
    sys.exit(run_command(main))
