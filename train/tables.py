"""Tables: the same rows as aligned text, Markdown, CSV or HTML, and numbers as a table prints them.

>>> print(Table(["size", "weights"], [["nano", "0.2M"], ["gpt2-12-12", "124M"]]).text("lr"))
size        weights
nano           0.2M
gpt2-12-12     124M
"""

import csv
import io
from collections.abc import Iterable, Sequence
from html import escape

from train.statistics import Estimate

NONE = "-"  # a cell without a value
BAR = r"\|"  # in Markdown


class Table:
    """A head and rows of texts, all of one length. Templates of jinja2 show it as HTML (`__html__`)."""

    def __init__(self, head: Sequence[str], rows: Iterable[Sequence[str]]):
        self.head, self.rows = list(head), [list(row) for row in rows]
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"row {row}: accepted: {len(self.head)} cells, one for each of {self.head}")

    def text(self, align: str = "l") -> str:
        """Columns two spaces apart; `align` has an l or an r for each column, the last one stands for the rest."""
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [str.rjust if side == "r" else str.ljust for side in align.ljust(len(widths), align[-1])]
        cells = ([side(cell, w) for side, cell, w in zip(sides, line, widths, strict=True)] for line in lines)
        return "\n".join("  ".join(line).rstrip() for line in cells)

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |" for line in lines)

    def csv(self) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()

    def __html__(self) -> str:
        head, *body = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)
                       for tag, lines in (("th", [self.head]), ("td", self.rows)) for line in lines]  # fmt: skip
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def format_interval(estimate: Estimate, unit: str = "%", sign: str = "") -> str:
    """91.4% [89.0, 93.3]; sign="+" shows that of numbers above zero, too."""
    if estimate.value != estimate.value:
        return "no gap to close" if estimate.n else NONE
    ends = [f"{100 * end:{sign}.1f}" if abs(end) != float("inf") else "∞" for end in (estimate.low, estimate.high)]
    return f"{100 * estimate.value:{sign}.1f}{unit} [{', '.join(ends)}]"


def format_amount(value: float) -> str:
    """1234567 -> 1.23M, 3.1e13 -> 3.10e13: short enough for a table."""
    if not value:
        return NONE
    if value >= 1e12:
        return f"{value:.2e}".replace("e+", "e")
    size, letter = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1.0, ""))
    return f"{value / size:.3g}{letter}"


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
