"""Independent proof of data sets: `python -m synth.audit train.jsonl test.jsonl`.

Every record is proved from its JSON alone (`synth.proof`: exact values, needed parameters, texts, inserted mistakes).
Several files must not share a problem nor, unless they were split by problem, a solution template. Prints a table;
the exit code is 1 if something is wrong.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NoReturn

from synth.proof import CHECKS, audit_record, identity, template

EXAMPLE = """example:
  python -m synth.generate --preset med --split train --count 1000 --out train.jsonl
  python -m synth.generate --preset med --split test --count 1000 --out test.jsonl
  python -m synth.audit train.jsonl test.jsonl"""


def read(path: str) -> Iterator[dict]:
    """Records of a JSON lines file. Raises ValueError where the file or a line cannot be read."""
    number = 0
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in file:
                number += 1
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("no JSON object")
                yield record
    except (OSError, ValueError) as error:
        place = f"{path}, line {number}" if number else path
        raise ValueError(f"{place}: {error}; accepted: JSON lines written by synth.generate") from None
    if number == 0:
        raise ValueError(f"{path} is empty; accepted: JSON lines written by synth.generate")


def audit_file(path: str) -> tuple[dict[str, int], set[tuple], set[str]]:
    """(counts by check, problems, solution templates of the right records) of a file; prints the first errors."""
    from tqdm import tqdm

    counts = dict.fromkeys(("records", *CHECKS), 0)
    problems: set[tuple] = set()
    templates: set[str] = set()
    for record in tqdm(read(path), desc=path, unit="record", delay=2, file=sys.stderr, disable=None):
        counts["records"] += 1
        wrong = dict(audit_record(record))
        for check, text in wrong.items():
            if counts[check] == 0:
                print(f"{path}: {record.get('id')}: {check}: {text}")
            counts[check] += 1
        if not wrong:
            problems.add(identity(record))
            if record["missing"] is None:  # what is left of an incomplete problem's solution is a part of many
                templates.add(template(record))
    return counts, problems, templates


def report(paths: list[str], split_by: str) -> int:
    """Audit files, print the table, return how much is wrong."""
    audits = [audit_file(path) for path in paths]
    names = [Path(path).name for path in paths]
    width = max(max(map(len, names)), 8) + 2

    def row(title: str, cells: list) -> None:
        print(f"{title:22s}" + "".join(f"{cell:>{width}}" for cell in cells))

    row("", names)
    row("records", [counts["records"] for counts, _, _ in audits])
    for check in CHECKS:
        row(f"wrong: {check}", [counts[check] for counts, _, _ in audits])
    row("different problems", [len(problems) for _, problems, _ in audits])
    row("different templates", [len(templates) for _, _, templates in audits])
    wrong = sum(counts[check] for counts, _, _ in audits for check in CHECKS)
    for i, j in combinations(range(len(paths)), 2):
        same, alike = (len(a & b) for a, b in zip(audits[i][1:], audits[j][1:], strict=True))
        print(f"shared by {names[i]} and {names[j]}: {same} problems, {alike} solution templates")
        wrong += same + (alike if split_by == "template" else 0)
    print("something is wrong" if wrong else "proved")
    return wrong


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m synth.audit", description=__doc__, epilog=EXAMPLE, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.error = fail  # type: ignore[method-assign]
    parser.add_argument("files", nargs="+", metavar="FILE.jsonl")
    parser.add_argument(
        "--split-by", choices=("template", "problem"), default="template",
        help="what the files must not share; files of the preset tiny are split by problem (default template)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        wrong = report(args.files, args.split_by)
    except ValueError as error:
        fail(str(error))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
