"""Rows of numbers and intervals as lines for a person and as CSV for a program.

A cell is a word, a number, None, or an interval {value, low, high, n}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from probes.runs import Estimate, Table

Row = Mapping[str, Any]


def cell(rate: Estimate) -> dict[str, float]:
    """An interval as a row holds it."""
    return {"value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}


def rate_of(value: Mapping[str, Any]) -> Estimate:
    """What `cell` made, after JSON, where numbers that are not finite became None."""
    numbers = [float("nan") if value[k] is None else float(value[k]) for k in ("value", "low", "high")]
    return Estimate(*numbers, value["n"])


def lines(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """All tables, one below the other."""
    found = []
    for name, rows in tables.items():
        found += [f"{name} (n = 0)" if not rows else name, *_table(rows), ""]
    return found[:-1]


def _table(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = Table(names, ([_text(row.get(name)) for name in names] for row in rows)).text()
    return [f"  {line}" for line in text.splitlines()] if rows else []


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        rate = rate_of(value)
        if rate.value != rate.value:
            return f"- (n={rate.n})"
        return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] n={rate.n}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV; an interval becomes four columns NAME, NAME_low, NAME_high, NAME_n."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    return Table(names, ([row.get(name, "") for name in names] for row in flat)).csv()


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {name: value["value"], **{f"{name}_{k}": value[k] for k in ("low", "high", "n")}}
        else:
            flat[name] = value
    return flat
