"""Writes the report of a recipe or of runs: PNG figures and one self-contained page.

RUN is a recipe's folder (all its seeds together) or a run folder; several run folders that point at each other are
read as one experiment. Writes FOLDER/report.html and FOLDER/figures/*.png; FOLDER is RUN where there is only one.

Example: python -m train.report runs/quickstart
"""

import sys
from pathlib import Path

from synth.cli import Parser, fail, print_lines
from synth.exit_codes import run_command
from synth.store.files import naming
from train.report import build


def main(argv: list[str] | None = None) -> int:
    """Writes the report and prints where it is; returns the exit code."""
    parser = Parser("train.report", __doc__, "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a recipe's folder or a run folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write; needed for several runs")
    arguments = parser.parse_args(argv)
    try:
        with naming(Path(", ".join(map(str, arguments.runs)))):
            print_lines([str(build(arguments.runs, arguments.out))])
    except ValueError as error:
        fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
