"""What the commands of this package share: the argument parser, one-line errors, argument types, reading records."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from synth.exit_codes import fail, say

FIELDS = ("solution", "completion", "response")  # keys of a text to judge, in records, and in rollouts of a run
OPTIONS = Path(__file__).with_name("options.json")
PLAIN_PYTHON_UP_TO = 20  # problems; for fewer, starting numba takes longer than plain Python


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2."""

    def __init__(self, module: str, description: str | None, examples: str) -> None:
        looks = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(prog=f"python -m {module}", description=description, epilog=examples, **looks)

    def error(self, message: str) -> NoReturn:
        fail(message.removeprefix("argument ") + ("; accepted: see --help" if "accepted" not in message else ""))


def command_parser(command: str, description: str | None, examples: str) -> Parser:
    """The parser of a command of this package; its options, with what they mean, stand in `options.json`."""
    parser = Parser(f"synth.{command}", description, examples)
    for title, options in json.loads(OPTIONS.read_text(encoding="utf-8"))[command].items():
        group = parser.add_argument_group(title) if title else parser
        for name, settings in options.items():
            group.add_argument(name, **settings | ({"type": _type(settings["type"])} if "type" in settings else {}))
    return parser


def print_lines(lines: Sequence[str]) -> None:
    """Print a report."""
    print("\n".join(lines))


def use_plain_python(few: bool) -> None:
    """Where there is little to do, leave the kernels uncompiled; call before they are imported."""
    if few:
        os.environ.setdefault("GLASSHOUSE_JIT", "0")


def say_when_compiling(*modules: str) -> None:
    """Say so where the kernels of these modules of synth, soon needed, are not compiled yet."""
    from synth.kernel import jit

    cold = [module for module in modules if jit.ENABLED and not any(Path(jit._cache_folder(module)).rglob("*.nbc"))]
    if cold:
        say(f"compiling {', '.join(f'synth.{module}' for module in cold)}, once: some minutes")


def require_new(option: str, path: Path, may_exist: bool = False) -> None:
    """One line and exit 2 when `path` exists already, or its folder does not."""
    if path.exists() and not may_exist:
        fail(f"--{option} {path} exists already; accepted: a path that does not exist yet")
    if not path.resolve().parent.is_dir():
        fail(f"--{option} {path}: the folder {path.parent} does not exist; accepted: a path in an existing folder")


def require_world(name: str) -> None:
    """Exit 2 when there is no world `name`, or with one line for each fault when it is a file that has any."""
    from synth.world import validate_world, vocabulary

    try:
        path = vocabulary.path_of(name)
        faults = vocabulary.validate(validate_world.read(path)) if name.endswith(".json") else []
    except ValueError as error:
        fail(str(error))
    for fault in faults:
        print(f"error: {name}: {' '.join(fault.split())}", file=sys.stderr)
    if faults:
        raise SystemExit(2)


def _number(kind: Callable[[str], float], accepts: Callable[[float], bool], accepted: str) -> Callable[[str], float]:
    """An argparse type: a number of a kind that a test accepts; `accepted` says which, in an error."""

    def convert(text: str) -> float:
        try:
            if accepts(value := kind(text)):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: {accepted}")

    return convert


def whole_number(low: int, high: int | None = None) -> Callable[[str], float]:
    """An argparse type: a whole number of at least `low` and at most `high`."""
    accepted = f"a whole number from {low} to {high}" if high else f"a whole number of at least {low}"
    return _number(int, lambda value: low <= value and (high is None or value <= high), accepted)


rate = _number(float, lambda value: 0.0 <= value < 1.0, "0 <= rate < 1")
share = _number(float, lambda value: 0.0 <= value <= 1.0, "0 <= rate <= 1")


def perm_level(text: str) -> int | str:
    """An argparse type: 0 to 6, or random."""
    if text not in ("0", "1", "2", "3", "4", "5", "6", "random"):
        raise argparse.ArgumentTypeError(f"{text} is not possible; accepted: a whole number from 0 to 6, or random")
    return text if text == "random" else int(text)


def _type(name: str) -> Callable[[str], Any]:
    """The argparse type that `options.json` calls `name`: rate, share, perm_level, int, or a range as 1..64, 0.."""
    low, is_range, high = name.partition("..")
    if is_range:
        return whole_number(int(low), int(high) if high else None)
    return {"rate": rate, "share": share, "perm_level": perm_level, "int": int}[name]


def read_lines(file: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of every line of a path, or of standard input for `-`, that is not blank; exit 2 where there
    is none. UTF-8, with or without a byte order mark, lines ended in any way."""
    name, found = name_of(file), False
    try:
        with contextlib.nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                line = line.removeprefix("\ufeff") if number == 1 else line
                if line.strip():
                    found = True
                    yield number, line
    except OSError as error:
        fail(f"{name} cannot be read ({error.strerror}); accepted: a file of JSON lines, or -")
    except UnicodeDecodeError:
        fail(f"{name} is not UTF-8 text; accepted: a file of JSON lines")
    if not found:
        fail(f"{name} holds no record; accepted: one JSON record per line")


def parsed(line: str, place: str) -> dict:
    """The record of a line; exit 2 naming the place when it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        fail(f"{place} is not JSON ({error}); accepted: one JSON record per line")
    if not isinstance(record, dict):
        fail(f"{place} is no record; accepted: a JSON object with the keys of synth.generate --out -")
    return record


def name_of(file: str) -> str:
    """How errors name a file of records."""
    return "standard input" if file == "-" else file


def records_and_texts(args: argparse.Namespace, few: int, module: str) -> Iterator[tuple[str, dict, Any, str]]:
    """(name, record, its world, the text under --field) of every record that the command line names; exit 2 with the
    line of the first that is bad. few: so many are worked on in plain Python, more by the kernels of `module`."""
    if args.world:
        require_world(args.world)
    lines = list(read_lines(args.file))
    use_plain_python(len(lines) <= few)
    say_when_compiling(module)
    from synth.kernel.progress import Progress

    for number, line in Progress(lines, desc=name_of(args.file), unit=" records", delay=2, leave=False):
        place = f"{name_of(args.file)} line {number}"
        record = parsed(line, place)
        try:
            problem, world, text = problem_and_text(record, args.field, args.world)
        except ValueError as error:
            fail(f"{place}: {error}")
        yield " ".join(str(record.get("id", f"line {number}")).split()), problem, world, text


def problem_and_text(record: dict, field: str | None, world_file: str | None = None) -> tuple[dict, Any, str]:
    """(the problem's record, its world, the text under `field`) of a record, or of a rollout with its problem under
    `record`; ValueError when it is bad. field: None for the first of `FIELDS` that is there. world_file: of a world
    that is not shipped; names that no world has make a world of their own."""
    from synth.judge.check_text import after_prompt
    from synth.problem.records import check_record, world_of
    from synth.world import vocabulary

    text = record.get(field or next((name for name in FIELDS if isinstance(record.get(name), str)), FIELDS[0]))
    if not isinstance(text, str):
        raise ValueError(f"no text under the key {field or FIELDS[0]!r}; accepted: --field with one of its text keys")
    inner = record.get("record")
    problem = inner if isinstance(inner, dict) else record
    if "steps" in problem and "layers" not in problem:  # of a run of an earlier version
        raise ValueError("a rollout without its problem; accepted: records of synth.generate, or samples of a new run")
    in_file = world_file is not None and problem.get("world") == vocabulary.read(world_file)["name"]
    world = world_of(problem, world_file if in_file else None)
    check_record(problem, world)
    return problem, world, after_prompt(text, problem.get("problem", record.get("prompt")))
