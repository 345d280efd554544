"""What the commands share: argument types that name what they accept, and errors of one line."""

import argparse

import pytest

from synth.cli import Parser, rate, share, whole_number


@pytest.mark.parametrize(
    ("convert", "right", "wrong", "accepted"),
    [
        (whole_number(1, 64), {"1": 1, "64": 64}, ("0", "65", "1.5", "x", ""), "a whole number from 1 to 64"),
        (whole_number(0), {"0": 0, "1000000": 1_000_000}, ("-1", "many"), "a whole number of at least 0"),
        (rate, {"0": 0.0, "0.99": 0.99}, ("1", "-0.1", "nan", "x"), "0 <= rate < 1"),
        (share, {"0": 0.0, "1": 1.0}, ("1.01", "-1", "nan", "half"), "0 <= rate <= 1"),
    ],
)
def test_numbers_are_converted_or_refused_with_what_is_accepted(convert, right, wrong, accepted):
    assert {text: convert(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not possible; accepted: {accepted}$"):
            convert(text)


def test_a_parser_ends_with_one_line_and_code_2(capsys):
    parser = Parser("synth.x", "What it does.", "examples:\n  python -m synth.x")
    parser.add_argument("--ops", type=whole_number(1, 64))
    for arguments in (["--ops", "0"], ["--nothing"], ["--op", "3"]):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(arguments)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and "accepted" in error
