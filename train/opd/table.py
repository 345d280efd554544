"""Prints the methods of configs/method as a Markdown table: what each chooses in the six parts, and its paper.

    python -m train.opd.table            # all methods
    python -m train.opd.table opd gkd    # some of them

A part that a method leaves at its default stays empty: fresh student at temperature 1, external teacher, full
vocabulary, all tokens alike, no regularizer, no reward.
"""

import re
import sys
from dataclasses import fields
from typing import Any

import yaml

from train.config.compose import CONFIGS
from train.opd.outcome import OutcomeConfig
from train.opd.regularizer import RegularizerConfig

FOLDER = CONFIGS / "method"
COLUMNS = ("method", "source", "teacher", "divergence", "weight", "regularizer", "outcome", "paper")
USUAL = {
    "source": {"kind": "student", "samples": 1, "temperature": 1.0},
    "teacher": {"params": "external"},
    "divergence": {"support": "full"},
    "weight": {"normaliser": "token"},
    "regularizer": {f.name: f.default for f in fields(RegularizerConfig)},
    "outcome": {f.name: f.default for f in fields(OutcomeConfig)},
}


def short(value: Any) -> str:
    """A setting's value in few characters."""
    if isinstance(value, dict) and {"start", "end"} <= value.keys():
        return f"{value['start']}→{value['end']} {'at' if value.get('jump') else 'by'} {value['steps']}"
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def part(name: str, settings: dict[str, Any]) -> str:
    """A part's settings that differ from the usual, its kind without a name."""
    kind = {"teacher": "params"}.get(name, "kind")
    words = []
    for key, value in settings.items():
        if USUAL[name].get(key) == value:
            continue
        words.append(short(value) if key in (kind, "token", "sample") else f"{key} {short(value)}")
    return ", ".join(words)


def row(name: str) -> dict[str, str]:
    """The cells of a method's row, by column."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    method = yaml.safe_load(text)
    cells = {column: part(column, method.get(column, {})) for column in USUAL}
    for term in method.get("also", []):
        weight = part("weight", term.get("weight", {}))
        factor = f"{term['coefficient']} " if "coefficient" in term else ""
        cells["divergence"] += f" + {factor}{part('divergence', term['divergence'])}"
        cells["weight"] += f" / {weight}" if weight else ""
    if "fork" in method:
        cells["weight"] += "fork test"
    if "schedule" in method:
        cells["divergence"] += f", times {short(method['schedule'])}"
    title = re.split(r"[:(]", text.lstrip("# "))[0].split(", ")[-1].strip()
    papers = re.findall(r"\b\d{4}\.\d{5}\b", text.split("name:")[0])
    link = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in dict.fromkeys(papers))
    cells |= {
        "method": f"`{name}`",
        "paper": link or ("ours" if "(ours)" in text else title),
    }
    return {column: cells[column].strip(" ,") for column in COLUMNS}


def table(names: list[str]) -> str:
    """The rows of these methods under a heading."""
    rows = [row(name) for name in names]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([cells[c] for c in COLUMNS] for cells in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(words: list[str]) -> int:
    """Prints the table; 2 and one line for a name that is no method."""
    if {"-h", "--help"} & set(words):
        print((__doc__ or "").strip())
        return 0
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    for word in words:
        if word not in known:
            print(f"error: {word}: no such method; accepted: {', '.join(known)}", file=sys.stderr)
            return 2
    print(table(words or known))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
