"""One table, four formats."""

import csv
import io

import pytest

from train.statistics import Estimate
from train.tables import Table, format_amount, format_interval, plural

ROWS = [["nano", "1"], ["a | <b>", "23"]]


def test_text_is_aligned():
    table = Table(["size", "n"], ROWS)
    assert table.text("lr") == "size      n\nnano      1\na | <b>  23"
    assert table.text() == "size     n\nnano     1\na | <b>  23"


def test_other_formats_keep_every_cell():
    table = Table(["size", "n"], ROWS)
    assert list(csv.reader(io.StringIO(table.csv()))) == [["size", "n"], *ROWS]
    assert table.markdown().splitlines() == ["| size | n |", "| --- | --- |", "| nano | 1 |", "| a \\| <b> | 23 |"]
    assert "<td>a | &lt;b&gt;</td><td>23</td>" in table.__html__() and "<th>size</th>" in table.__html__()


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row"):
        Table(["size", "n"], [["nano"]])


def test_numbers_are_short():
    assert format_interval(Estimate(0.914, 0.89, float("inf"), 9)) == "91.4% [89.0, ∞]"
    assert format_interval(Estimate(float("nan"), 0, 1, 9)) == "no gap to close"
    assert [format_amount(x) for x in (0, 950, 1234567, 3.1e13)] == ["-", "950", "1.23M", "3.10e13"]
    assert (plural(1, "run"), plural(2, "run")) == ("1 run", "2 runs")
