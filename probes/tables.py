"""Measured numbers in `summary.json`, as lines for a person, as CSV for a program, and as lines of a figure.

A table is a list of rows, column -> cell; a cell is a text, a number, None, or an interval {value, low, high, n}. In
summaries of probes the value of an interval is called `accuracy`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from probes.runs import ClusterBootstrap, Estimate, Table, error_bars

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]


def cell(estimate: Estimate, value: str = "value") -> dict[str, float]:
    """An interval as a row holds it."""
    return {value: estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def cells(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Several intervals by column."""
    return {column: cell(estimate) for column, estimate in estimates.items()}


def estimate_of(cell: Row, value: str = "value") -> Estimate:
    """What `cell` made, after JSON, where numbers that are not finite became None."""
    middle, low, high = (float("nan") if cell[k] is None else float(cell[k]) for k in (value, "low", "high"))
    return Estimate(middle, low, high, cell["n"])


def share(right: np.ndarray, cluster: np.ndarray, among: np.ndarray | None = None) -> dict[str, float]:
    """The share of `right` (among some) as an interval over clusters."""
    return cell(ClusterBootstrap(cluster).rate(right, among), "accuracy")


def accuracy_text(found: Row) -> str:
    """`91.4% [89.0%, 93.3%] (n = 512)`"""
    if not found["n"]:
        return "none (n = 0)"
    return f"{found['accuracy']:.1%} [{found['low']:.1%}, {found['high']:.1%}] (n = {found['n']})"


def render(template: str, **values: Any) -> str:
    """A template of probes/tasks with these values, as plain text without a last newline."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "tasks"), autoescape=False)
    environment.filters["accuracy"] = accuracy_text
    return environment.get_template(template).render(values)


def tables_text(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """All tables, one below the other."""
    found: list[str] = []
    for name, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = Table(names, ([_text(row.get(name)) for name in names] for row in rows)).text() if rows else ""
        found += [f"{name} (n = 0)" if not rows else name, *(f"  {line}" for line in lines.splitlines()), ""]
    return found[:-1]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        found = estimate_of(value)
        if found.value != found.value:
            return f"- (n={found.n})"
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] n={found.n}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def tables_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV; an interval becomes four columns NAME, NAME_low, NAME_high, NAME_n."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    return Table(names, (["" if row.get(name) is None else str(row[name]) for name in names] for row in flat)).csv()


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {name: value["value"], **{f"{name}_{k}": value[k] for k in ("low", "high", "n")}}
        else:
            flat[name] = value
    return flat


def plot_intervals(ax: Axes, rows: Sequence[Row], x: str, y: str, **style: Any) -> None:
    """A line through the intervals in column `y` over the numbers in column `x`."""
    value, error = error_bars([estimate_of(row[y]) for row in rows])
    if rows:
        ax.errorbar([row[x] for row in rows], value, error, **style)


def plot_bars(ax: Axes, cells: Sequence[Row], names: Sequence[str], rotation: int = 0, **style: Any) -> None:
    """A bar with its interval for each cell, its name below; nothing measured is a bar of height 0."""
    value, error = error_bars([estimate_of(c) if c["n"] else Estimate(0.0, 0.0, 0.0, 0) for c in cells])
    if cells:
        ax.bar(range(len(cells)), value, yerr=error, ecolor="black", width=0.7, **style)
    ax.set_xticks(range(len(cells)), names, rotation=rotation, fontsize=9)


def percent_axis(*axes: Axes) -> None:
    """Shares on the vertical axis as whole percents."""
    for ax in axes:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
