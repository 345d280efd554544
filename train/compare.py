"""A table of runs, read from their folders: what each is, how far it got, what it spent, and how well it does.

usage: python -m train.compare PATTERN ... [--sort COLUMN]

PATTERN is a run folder, or a pattern of them in quotes. An evaluation's row shows the model's accuracy with its 95%
interval. `cpu` is the CPU seconds of all training steps, `kl` the last KL to the oracle on held-out documents.

Example: python -m train.compare 'runs/quickstart/*' --sort full
"""

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from train.runs.results import Run, full_accuracy, is_number, is_run
from train.tables import format_amount, format_interval

COLUMNS = ("run", "kind", "done", "steps", "tokens", "flops", "seconds", "cpu", "loss", "kl", "full", "n")


def row(run: Run) -> dict[str, str]:
    """The run's cells as a person reads them; what it does not have is empty."""
    last = next((line for line in reversed(run.metrics) if is_number(line.get("smooth_loss"))), {})
    cells = {"run": str(run.folder), "kind": run.kind, "done": "yes" if run.complete else "no"}
    cells |= {"steps": str(last.get("step", "")), "loss": f"{last['smooth_loss']:.4f}" if last else ""}
    cells |= {
        unit: format_amount(run.total(unit)) if run.total(unit) else "" for unit in ("tokens", "flops", "seconds")
    }
    cpu, kl = run.total("cpu_seconds"), run.curve("kl_to_oracle")[1]
    kl += [held["kl"]] if "kl" in (held := run.summary.get("held_out", {})) else []
    cells |= {"cpu": format_amount(cpu) if cpu else "", "kl": f"{kl[-1]:.4f}" if kl else ""}
    try:
        rate = full_accuracy(run)
        return cells | {"full": format_interval(rate), "n": str(rate.n)}
    except (KeyError, TypeError):
        return cells | {"full": "", "n": ""}


def table(rows: Sequence[dict[str, str]]) -> str:
    """Aligned text; columns that are empty in every row are left out."""
    columns = [column for column in COLUMNS if any(r[column] for r in rows)]
    width = {column: max(len(column), *(len(r[column]) for r in rows)) for column in columns}
    lines = [{column: column for column in columns}, *rows]
    return "\n".join("  ".join(line[c].ljust(width[c]) for c in columns).rstrip() for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    about, _, rest = (__doc__ or "").partition("\n\nusage: ")
    parser = argparse.ArgumentParser(
        prog="python -m train.compare",
        description=about,
        epilog=rest.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="a run folder, or a pattern of them in quotes")
    parser.add_argument("--sort", choices=COLUMNS, default="run", help="the column to order by (default: run)")
    arguments = parser.parse_args(argv)
    found = {Path(path) for pattern in arguments.patterns for path in glob.glob(pattern)}  # noqa: PTH207  absolute patterns too
    runs = [Run(path) for path in sorted(found) if is_run(path)]
    if not runs:
        print(
            f"error: no run folder matches {' '.join(arguments.patterns)}; accepted: folders with a config.yaml",
            file=sys.stderr,
        )
        return 2
    print(table(sorted((row(run) for run in runs), key=lambda cells: cells[arguments.sort])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
