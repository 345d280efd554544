"""Every setting of every command, made from its dataclass, is given values of wrong types: one line and exit code 2.

A fixed sample here, all of them in `make torture`.
"""

import dataclasses
import random
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from probes.run import TASKS
from tests.helpers.effort import effort
from tests.unit.train.config.test_entries import ENTRIES
from train.config.compose import CONFIGS, run_entry
from train.config.schema import hints_of, is_choice, split, types_of

COMMANDS = {name: (name, schema) for name, schema in ENTRIES.items()}
COMMANDS |= {f"probe {task}": ("probe", TASKS[task].config) for task in TASKS}
# Text for each kind of setting that it must refuse, and some that any kind but text must.
WRONG = {int: ["x", "1.5", "[1]", "{a: 1}", "true", "null", "1e400", ""], float: ["x", "[1]", "{a: 1}", "true", ""],
         bool: ["x", "2", "[true]", "{a: 1}", "null", ""]}  # fmt: skip
GROUP, LIST, OPEN = ["x", "3", "[1]", "true", "{no_such_name: 1}"], ["x", "3", "{a: 1}", "true"], ["x", "3", "[1]"]
BROKEN = ['"', "[1", "{a", "${no.such}", "${", "'", "[1,,"]


def wrong_words(hint: Any, key: str) -> Iterator[str]:
    """`key=value` for everything below a setting."""
    inner, optional = split(hint)
    kinds = WRONG.get(inner, [])
    if is_choice(inner):
        kinds = ["no_such_kind", "3", "[1]", "{kind: no_such_kind}", "{a: 1}"]
        for kind, chosen in inner.options.items():
            for name, below in hints_of(chosen).items():
                yield from (f"{key}={kind} {word}" for word in wrong_words(below, f"{key}.{name}"))
    elif dataclasses.is_dataclass(inner):
        kinds = GROUP
        for name, below in hints_of(inner).items():
            yield from wrong_words(below, f"{key}.{name}" if key else name)
    elif typing.get_origin(inner) in (list, tuple):
        kinds = LIST
    elif typing.get_origin(inner) is dict:
        kinds = OPEN
        if (named := types_of(hint)) is not None:
            for name, below in hints_of(named).items():
                yield from wrong_words(below, f"{key}.{name}")
    kinds = [text for text in kinds if text != "null" or not optional]
    if key:
        yield from (f"{key}={text}" for text in kinds)
        yield from (f"{key}={text}" for text in BROKEN if inner is not str)


def needless(line: str) -> bool:
    """What is no setting of its own: a whole group of files that Hydra chooses, by name."""
    key, _, _ = line.partition("=")
    return (CONFIGS / key).is_dir()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_value_of_any_setting_is_one_line_and_code_2(command, composed_once, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, schema = COMMANDS[command]
    lines = sorted(line for line in set(wrong_words(schema, "")) if not needless(line))
    assert len(lines) > {"zoo": -1, "export": 10}.get(command, 20)  # these two have hardly anything but text
    chosen = random.Random(command).sample(lines, min(len(lines), effort(12, len(lines))))
    ran: list[Any] = []
    for line in chosen:
        words = line.split(" ", line.count("=") - 1) if "= " not in line and "{" not in line else [line]
        code = run_entry(name, schema, ran.append, "", words)
        said = capsys.readouterr().err
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, (line, code, said)
        assert "Traceback" not in said and not ran, line
    assert list(tmp_path.iterdir()) == []
