"""What the commands of this package share: the argument parser, one-line errors, argument types, reading records."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

STDIN = "standard input"
PLAIN_PYTHON_UP_TO = 20  # below this, starting numba takes longer than the problems


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message.removeprefix("argument ") + ("; accepted: see --help" if "accepted" not in message else ""))


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def require_world(name: str) -> None:
    """Exit 2 when there is no world `name`, or with one line for each fault when it is a file that has any."""
    from synth.world import validate_world, vocabulary

    try:
        path = vocabulary.path_of(name)
        found = vocabulary.validate(validate_world.read(path)) if name.endswith(".json") else []
    except ValueError as error:
        fail(str(error))
    for fault in found:
        print(f"error: {name}: {' '.join(fault.split())}", file=sys.stderr)
    if found:
        raise SystemExit(2)


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `low` and at most `high`."""
    accepted = f"a whole number from {low} to {high}" if high else f"a whole number of at least {low}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: {accepted}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: {accepted}")
        return value

    return convert


def rate(text: str) -> float:
    """An argparse type: a probability below one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: 0 <= rate < 1")
    return value


def share(text: str) -> float:
    """An argparse type: a probability."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: 0 <= rate <= 1")
    return value


def read_records(file: str) -> list[tuple[int, dict]]:
    """(line number, record) of every line that is not blank; exit 2 naming the first line that is no record."""
    try:
        text = sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{file} cannot be read ({error.strerror}); accepted: a file of JSON lines, or -")
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8 text; accepted: a file of JSON lines")
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            fail(f"{file} line {number} is not JSON ({error}); accepted: one JSON record per line")
        if not isinstance(record, dict):
            fail(f"{file} line {number} is no record; accepted: a JSON object with the keys of synth.generate --out -")
        records.append((number, record))
    if not records:
        fail(f"{file} holds no record; accepted: one JSON record per line")
    return records


def problem_and_text(record: dict, field: str, own: str | None = None):
    """(problem, its world, the text under `field`) of a record. Raises ValueError when the record is bad.

    own: the file of a world that is not shipped; names that no world has make a world of their own.
    """
    from synth.problem.records import from_record, world_of
    from synth.problem.validate_record import MODULUS
    from synth.world import vocabulary

    modulus, (low, high) = record.get("modulus"), MODULUS
    if type(modulus) is not int or not low <= modulus <= high:
        raise ValueError(f"modulus={modulus!r}; accepted: a whole number from {low} to {high}")
    text = record.get(field)
    if not isinstance(text, str):
        raise ValueError(f"no text under the key {field!r}; accepted: --field with one of its text keys")
    mine = own is not None and record.get("world") == vocabulary.read(own)["name"]
    known = world_of(record, own if mine else None)
    return from_record(record, known), known, text
