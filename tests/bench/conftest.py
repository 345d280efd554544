"""The table of all benches of a session: printed at its end, and written with `--table tests/bench/README.md`.

A row that was not measured this time keeps its numbers and its date.
"""

import datetime
import json
import os
import platform
import tempfile
from pathlib import Path

import pytest
import torch

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
TITLES = ("what", "unit", "ours", "peer", "ratio, median [quartiles]", "pairs", "wanted", "measured")
HEAD = f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|"
ROWS = "BENCH_ROWS"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, default=None, help="file whose table to rewrite")


def pytest_configure(config: pytest.Config) -> None:
    config.bench_rows = Path(tempfile.mkdtemp()) / "rows.jsonl"
    os.environ[ROWS] = str(config.bench_rows)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.bench_rows.exists():
        return
    found = [json.loads(row) for row in config.bench_rows.read_text(encoding="utf-8").splitlines()]
    lines = {row["what"]: cells(row) for row in found}
    terminalreporter.write_line("\n".join((HEAD, *lines.values())))
    if (path := config.getoption("--table")) is not None:
        path.write_text(rewritten(path.read_text(encoding="utf-8"), lines), encoding="utf-8")


def cells(row: dict) -> str:
    """One line of the table."""
    goal = "" if row["goal"] is None else f"{row['goal']:g}"
    return (
        f"| {row['what']} | {row['unit']} | {row['ours']:,.0f} | {row['theirs']:,.0f} | {row['median']:.2f} "
        f"[{row['low']:.2f}, {row['high']:.2f}] | {row['pairs']} | {goal} | {datetime.date.today()}, {machine()} |"
    )


def rewritten(text: str, lines: dict[str, str]) -> str:
    """`text` with these rows in its table, by what they measure. Raises ValueError where it has no table."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"--table: the file has no lines {BEGIN} and {END}; accepted: tests/bench/README.md")
    before, rest = text.split(BEGIN, 1)
    table, after = rest.split(END, 1)
    old = [row for row in table.splitlines() if row.startswith("| ")][1:]
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in old} | lines
    return f"{before}{BEGIN}\n\n" + "\n".join((HEAD, *rows.values())) + f"\n\n{END}{after}"


def machine() -> str:
    """The processor, or the card where there is one, and the number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [row for row in _cpuinfo() if row.startswith("model name")]
    name = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
