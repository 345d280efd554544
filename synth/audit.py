"""Independent proof of data sets: `python -m synth.audit train.jsonl test.jsonl`, or folders of token shards.

Every record is proved from its JSON alone (`synth.judge.audit_record`: exact values, needed parameters, texts, inserted
mistakes). The records of a folder are rendered from the tokens of its shards, once their hashes are verified. Several
files must not share a problem nor, unless they were split by problem, a solution template. Prints tables, with the
problems and different templates of each number of operations, and warns of test cells of few templates. The exit code
is 1 if something is wrong.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from synth import cli
from synth.exit_codes import run_command
from synth.judge.audit_record import CHECKS, audit_record, identity, shape, template

FEWEST_TEMPLATES = 20  # of a test cell: below this, its accuracy says little about other templates
FIRST_TEST_BIN = 17

EXAMPLE = """example:
  python -m synth.generate --preset med --split train --count 1000 --out train.jsonl
  python -m synth.generate --preset med --split test --count 1000 --out test/
  python -m synth.audit train.jsonl test/"""
ACCEPTED = "accepted: JSON lines, parquet or a folder of shards written by synth.generate"


@dataclass
class Audit:
    """What was found in one file; problems, templates and cells count its right records."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("records", "repeated ids", *CHECKS), 0))
    problems: set[tuple] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)
    shapes: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))  # by operations
    ops: Counter = field(default_factory=Counter)
    answers: Counter = field(default_factory=Counter)
    sums: Counter = field(default_factory=Counter)  # of words, sentences, needed parameters, mistakes
    bins: set[int] = field(default_factory=set)

    def add(self, record: dict, own: str | None) -> None:
        """Count a record that was proved."""
        self.problems.add(identity(record))
        self.bins.add(record["split_bin"])
        self.ops[record["ops"]] += 1
        self.answers[record["answer"]] += 1
        self.sums["words of the problem"] += len(record["problem"].split())
        self.sums["words of the solution"] += len(record["solution"].split())
        self.sums["sentences"] += record["edges"] - (record["missing"] is not None)
        self.sums["needed parameters"] += len(record["needed_order"])
        self.sums["mistakes"] += len(record["mistakes"])
        if record["missing"] is None:  # what is left of an incomplete problem's solution is a part of many
            self.templates.add(template(record, own))
            self.shapes[record["ops"]].add(shape(record))


def read(path: str) -> Iterator[dict]:
    """Records of a file or folder. Raises ValueError where it cannot be read, naming the line or the shard."""
    if not Path(path).is_dir():
        lines = () if path.endswith(".parquet") else cli.read_lines(path)
        yield from (cli.parsed(line, f"{path} line {number}") for number, line in lines)
        yield from _rows(Path(path)) if path.endswith(".parquet") else ()
        return
    from synth.store.shards import PARQUET, read_shards

    shards = read_shards(path, verify=True)
    if "encoding" not in shards.manifest:
        yield from shards.records()
    elif not shards.manifest["parquet"]:
        raise ValueError(f"{path} holds other tokens than its world's and no records; {ACCEPTED}")
    else:
        yield from (row for entry in shards.manifest["shards"] for row in _rows(Path(path) / entry["name"] / PARQUET))


def _rows(path: Path) -> Iterator[dict]:
    try:
        from synth.store.parquet import read_rows
    except ImportError:
        raise ValueError(f"{path} needs pyarrow; accepted: JSON lines, or pip install -e '.[data]'") from None
    yield from read_rows(path)


def audit_file(path: str, own: str | None = None) -> Audit:
    """Prove every record of a file or folder; prints the first error of each kind. own: file of a world not shipped."""
    from synth.kernel.progress import Progress

    if own is None and (Path(path) / "world.json").is_file():
        own = str(Path(path) / "world.json")
    audit, ids = Audit(), set()
    for record in Progress(read(path), desc=path, unit=" records", delay=2):
        audit.counts["records"] += 1
        wrong = dict(audit_record(record, own))
        if (name := str(record.get("id"))) in ids:
            wrong["repeated ids"] = "the id was there before"
        ids.add(name)
        for check, text in wrong.items():
            if audit.counts[check] == 0:
                print(f"{path}: {record.get('id')}: {check}: {text}")
            audit.counts[check] += 1
        if not wrong:
            audit.add(record, own)
    return audit


def report(paths: list[str], split_by: str, own: str | None = None) -> int:
    """Audit files, print the tables, return how much is wrong."""
    audits = [audit_file(path, own) for path in paths]
    names = [Path(path).name for path in paths]
    width = max(max(map(len, names)), 12) + 2

    def row(title: str, cells: list) -> None:
        print(f"{title:22s}" + "".join(f"{cell:>{width}}" for cell in cells))

    row("", names)
    row("records", [a.counts["records"] for a in audits])
    for check in CHECKS:
        row(f"wrong: {check}", [a.counts[check] for a in audits])
    row("repeated ids", [a.counts["repeated ids"] for a in audits])
    row("different problems", [len(a.problems) for a in audits])
    row("different templates", [len(a.templates) for a in audits])
    print("\nmean per problem")
    for name in audits[0].sums:
        row(name, [f"{a.sums[name] / max(a.ops.total(), 1):.2f}" for a in audits])
    row("answer 0", [f"{a.answers[0] / max(a.ops.total(), 1):.2%}" for a in audits])
    print("\noperations: problems / different templates, whatever the order of steps")
    for ops in sorted({k for a in audits for k in a.ops}):
        row(str(ops), [f"{a.ops[ops]} / {len(a.shapes[ops])}" for a in audits])
    print()
    for name, audit in zip(names, audits, strict=True):
        warn_small_cells(name, audit)
    wrong = sum(a.counts[check] for a in audits for check in ("repeated ids", *CHECKS))
    for i, j in combinations(range(len(paths)), 2):
        same, alike = len(audits[i].problems & audits[j].problems), len(audits[i].templates & audits[j].templates)
        print(f"shared by {names[i]} and {names[j]}: {same} problems, {alike} solution templates")
        wrong += same + (alike if split_by == "template" else 0)
    print("something is wrong" if wrong else "proved")
    return wrong


def warn_small_cells(name: str, audit: Audit) -> None:
    """Print a warning for each number of operations of a test file that has few different templates."""
    if not audit.bins or min(audit.bins) < FIRST_TEST_BIN:
        return
    for ops in sorted(audit.ops):
        if (count := len(audit.shapes[ops])) < FEWEST_TEMPLATES:
            templates = f"{count} different template{'s' * (count != 1)} in {audit.ops[ops]} problems"
            print(f"warning: {name}: {ops} operations: {templates}, at least {FEWEST_TEMPLATES} wanted")


def main(argv: list[str] | None = None) -> None:
    args = cli.command_parser("audit", __doc__, EXAMPLE).parse_args(argv)
    try:
        if args.world:
            cli.require_world(args.world)
        wrong = report(args.files, args.split_by, args.world)
    except ValueError as error:
        cli.fail(str(error))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    sys.exit(run_command(main))
