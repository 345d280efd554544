"""The table and the curves of all benches of a session: printed at its end, and written with
`--table tests/bench/README.md`, pictures beside it.

A row or a curve that was not measured this time keeps its numbers and its date.
"""

import datetime
import json
import os
import platform
import tempfile
from pathlib import Path

import pytest
import torch

from tests.bench.curves import pages

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
TITLES = ("what", "unit", "ours", "peer", "ratio, median [quartiles]", "pairs", "wanted", "measured")
HEAD = f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|"
ROWS = "BENCH_ROWS"
SESSION: dict = {}  # the file of its rows, and the page to rewrite or None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, default=None, help="file whose table to rewrite")


def pytest_configure(config: pytest.Config) -> None:
    SESSION.update(rows=Path(tempfile.mkdtemp()) / "rows.jsonl", table=config.getoption("--table", None))
    os.environ[ROWS] = str(SESSION["rows"])


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Each bench writes what it found: a session that is stopped keeps the rest."""
    path = SESSION.get("table")
    if path is None or not SESSION["rows"].exists():
        return
    lines, curves = found()
    text = rewritten(path.read_text(encoding="utf-8"), lines)
    for curve in curves:
        pages.picture(curve, path.parent / "curves")
    path.write_text(pages.rewritten(text, curves, machine()) if curves else text, encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SESSION["rows"].exists():
        terminalreporter.write_line("\n".join((HEAD, *found()[0].values())))


def found() -> tuple[dict[str, str], list[dict]]:
    """Rows of the table by what they measure, and curves, of this session so far."""
    rows = [json.loads(row) for row in SESSION["rows"].read_text(encoding="utf-8").splitlines()]
    return {row["what"]: cells(row) for row in rows if "what" in row}, [row for row in rows if "curve" in row]


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
