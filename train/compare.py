"""A table of runs, read from their folders: what each is, how far it got, what it spent, and how well it does.

PATTERN is a run folder, or a pattern of them in quotes. An evaluation's row shows the model's accuracy with its 95%
interval. `cpu` is the CPU seconds of all training steps, `kl` the last KL to the oracle on held-out documents, and
`differs` settings in which runs of one kind differ.

Example: python -m train.compare 'runs/quickstart/*' --sort full
"""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from synth.cli import Parser, fail, print_lines
from synth.exit_codes import run_command
from synth.store.files import naming
from train.runs.results import Run, differences, full_accuracy, is_number, is_run
from train.tables import Table, format_amount, format_interval

COLUMNS = (
    "run",
    "kind",
    "method",
    "done",
    "steps",
    "tokens",
    "flops",
    "seconds",
    "cpu",
    "loss",
    "kl",
    "full",
    "n",
    "differs",
)


def row(run: Run) -> dict[str, str]:
    """The run's cells as a person reads them; what it does not have is empty."""
    last = next((line for line in reversed(run.metrics) if is_number(line.get("smooth_loss"))), {})
    cells = {
        "run": str(run.folder),
        "kind": run.kind,
        "method": run.method or "",
        "done": "yes" if run.complete else "no",
    }
    cells |= {"steps": str(last.get("step", "")), "loss": f"{last['smooth_loss']:.4f}" if last else ""}
    spent = {unit: run.total(unit) for unit in ("tokens", "flops", "seconds")}
    cells |= {unit: format_amount(amount) if amount else "" for unit, amount in spent.items()}
    cpu, kl = run.total("cpu_seconds"), run.curve("kl_to_oracle")[1]
    kl += [held["kl"]] if "kl" in (held := run.summary.get("held_out", {})) else []
    cells |= {"cpu": format_amount(cpu) if cpu else "", "kl": f"{kl[-1]:.4f}" if kl else ""}
    rate = full_accuracy(run) if run.kind == "evaluation" and run.complete else None
    return cells | {"full": format_interval(rate) if rate else "", "n": str(rate.n) if rate else ""}


def rows_of(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The rows of all runs; `differs` has the settings in which runs of one kind differ."""
    rows = []
    for kind in dict.fromkeys(run.kind for run in runs):
        alike = [run for run in runs if run.kind == kind]
        found = zip(alike, differences(alike, seeds=True), strict=True)
        for run, settings in found:
            with naming(run.folder):
                rows.append(row(run) | {"differs": " ".join(settings)})
    return rows


def table(rows: Sequence[dict[str, str]]) -> Table:
    """Columns that are empty in every row are left out."""
    columns = [column for column in COLUMNS if any(row[column] for row in rows)]
    return Table(columns, ([row[column] for column in columns] for row in rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = Parser("train.compare", __doc__, "")
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="a run folder, or a pattern of them in quotes")
    parser.add_argument("--sort", choices=COLUMNS, default="run", help="the column to order by (default: run)")
    arguments = parser.parse_args(argv)
    # the path itself where there is one, also with signs of a pattern in its name; else what the pattern matches
    found = {p for text in arguments.patterns for p in ([text] if Path(text).exists() else glob.glob(text))}  # noqa: PTH207
    runs = [Run(path) for path in sorted(map(Path, found)) if is_run(path)]
    if not runs:
        fail(f"no run folder matches {' '.join(arguments.patterns)}; accepted: folders with a config.yaml")
    try:
        rows = sorted(rows_of(runs), key=lambda cells: cells[arguments.sort])
    except ValueError as error:
        fail(str(error))
    print_lines([table(rows).text()])
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
