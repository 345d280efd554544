"""What `metrics.jsonl` of a training run holds: every number with its unit, definition and source.

    python -m train.opd.metrics            # as a Markdown table

A number that is undefined at a step is left out of that step's line, and never NaN: without a teacher all that is about
teachers, in a batch without right responses their mean length. p is the teacher's target after its transform, q the
student, y the response's token, d = log p(y) - log q(y).
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from synth.exit_codes import run_command
from train.tables import Table


class Metric(NamedTuple):
    """One number of the log. `when`: step (every logged step), evaluation (every `evaluate.every` steps)."""

    unit: str
    meaning: str
    source: str = "ours"
    when: str = "step"


_TABLE = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
METRICS = {name: Metric(*values) for name, values in yaml.safe_load(_TABLE).items()}


def definition(key: str) -> Metric | None:
    """What a key of the log means; None for an unknown one."""
    key = re.sub(r"^loss_.+", "loss_NAME", key)
    return METRICS.get(re.sub(r"^eval_pass_\d+$", "eval_pass_K", key))


def described(key: str) -> str:
    """Unit and meaning of a key of the log in one line; empty for an unknown one."""
    found = definition(key)
    return f"{found.unit}: {found.meaning} ({found.source})" if found else ""


def table() -> str:
    """The definitions as Markdown."""
    rows = ([f"`{key}`", m.unit, m.meaning, m.when, m.source] for key, m in METRICS.items())
    return Table(["name", "unit", "what it is", "when", "source"], rows).markdown()


def main(words: list[str]) -> int:
    """Prints the table; 2 and one line for anything else."""
    if {"-h", "--help"} & set(words):
        print((__doc__ or "").strip())
        return 0
    if words:
        print(f"error: {words[0]}: this command takes no arguments", file=sys.stderr)
        return 2
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
