"""Prints the methods of configs/method as a Markdown table: what each chooses in the six parts, and its paper.

    python -m train.opd.table            # all methods
    python -m train.opd.table opd gkd    # some of them; gkd@release: the other form of one
    python -m train.opd.table --parts    # the options of each part, their settings and defaults

A part that a method leaves at its default stays empty: fresh student at temperature 1, external teacher, full
vocabulary, all tokens alike, no regularizer, no reward. The column `deviates` says how a method differs from its paper
or from its authors' code. Where these differ from each other it begins with the one that the method follows by default,
paper or release; `method.faithful=` chooses.
"""

import re
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import yaml

from synth.exit_codes import run_command
from train.config.compose import CONFIGS
from train.config.schema import Choice, assign, build, defaults, merge, plain
from train.opd.method import Method
from train.opd.outcome.outcome import Modulation
from train.opd.outcome.rewards import Reward
from train.opd.teacher.teacher import Route
from train.tables import Table

FOLDER = CONFIGS / "method"
PARTS = ("source", "teacher", "divergence", "weight", "regularizer", "outcome")
COLUMNS = ("method", *PARTS, "paper", "deviates")
NESTED = {
    "teacher.route": Route,
    "outcome.modulate": Modulation,
    "outcome.reward": Reward,
}  # choices that are null by default


def names() -> list[str]:
    """All methods."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Method:
    """The method of a file, NAME@release or NAME@paper in that form. Raises ValueError for a name that is none."""
    name, _, form = name.partition("@")
    if name not in names():
        raise ValueError(f"{name}: no such method; accepted: {', '.join(names())}")
    values = merge(Method, None, yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")), "method")
    return build(Method, assign(Method, values, ["faithful"], form, "method.faithful") if form else values)


def short(value: Any) -> str:
    """A setting's value in few characters."""
    if isinstance(value, dict) and {"start", "end"} <= value.keys():
        return f"{value['start']}→{value['end']} {'at' if value.get('jump') else 'by'} {value['steps']}"
    if isinstance(value, dict):
        inside = ", ".join(f"{name} {short(item)}" for name, item in value.items() if name != "kind")
        return f"{value['kind']} ({inside})" if inside else str(value["kind"])
    if isinstance(value, list):
        return "+".join(map(short, value)) if value else "none"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def cell(value: Any, usual: Any) -> str:
    """A part's settings, its option's name first; left out is what the usual choice has too, and what is no number and
    the option's default anyway."""
    settings, own, same = plain(value), defaults(type(value)), plain(usual) | {"weight": 1.0}
    if settings == plain(usual):
        return ""
    said = [settings["kind"]] if "kind" in settings else []
    for name, item in settings.items():
        number = isinstance(item, int | float) and not isinstance(item, bool)
        if name != "kind" and item != same.get(name) and (number or item != own[name]):
            said.append(short(item) if name in ("token", "sample") else f"{name} {short(item)}")
    return ", ".join(said)


def row(name: str) -> dict[str, str]:
    """The cells of a method's row, by column."""
    method, usual = read(name), Method("usual")
    cells = {part: cell(getattr(method, part), getattr(usual, part)) for part in PARTS}
    cells["divergence"] = cells["divergence"] or method.divergence.kind
    if method.coefficient != 1.0:
        cells["divergence"] = f"{method.coefficient} {cells['divergence']}"
    for term in method.also:
        weight = cell(term.weight, usual.weight)
        factor = f"{term.coefficient} " if term.coefficient != 1.0 else ""
        factor += f"({short(plain(term.schedule))}) " if term.schedule is not None else ""
        cells["divergence"] += f" + {factor}{cell(term.divergence, usual.divergence) or term.divergence.kind}"
        cells["weight"] += f" / {weight}" if weight else ""
    if method.fork is not None:
        cells["weight"] += "fork test"
    if method.schedule is not None:
        cells["divergence"] += f", times {short(plain(method.schedule))}"
    text = (FOLDER / f"{name.partition('@')[0]}.yaml").read_text(encoding="utf-8")
    title = re.split(r"[:(]", text.lstrip("# "))[0].split(", ")[-1].strip()
    papers = re.findall(r"\b\d{4}\.\d{5}\b", text.split("name:")[0])
    link = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in dict.fromkeys(papers))
    form = f"**{method.faithful}**: " if method.faithful else ""
    cells |= {"method": f"`{name}`", "paper": link or ("ours" if "(ours)" in text else title)}
    cells["deviates"] = form + " ".join(method.deviates.split())
    return {column: cells[column].strip(" ,") for column in COLUMNS}


def options(schema: type, where: str = "") -> Iterator[tuple[str, type[Choice]]]:
    """Every choice among the settings of a dataclass, with those inside its options: its dotted name and its class."""
    hints = typing.get_type_hints(schema)
    for f in fields(schema):
        name = f"{where}.{f.name}" if where else f.name
        found = NESTED.get(name, (typing.get_args(hints[f.name]) or (hints[f.name],))[0])
        if not isinstance(found, type):
            continue
        if issubclass(found, Choice):
            yield name, found
            inside = {n: c for chosen in found.options.values() for n, c in options(chosen, name)}
            yield from inside.items()
        elif name == "weight":
            yield from options(found, name)


def parts() -> str:
    """The options of each part, with their settings and defaults, as Markdown."""
    rows = []
    for name, choice in options(Method):
        for kind, chosen in choice.options.items():
            settings = ", ".join(f"{n} {short(v)}" for n, v in defaults(chosen).items() if n != "kind")
            rows.append([f"`method.{name}`", f"`{kind}`", settings, (chosen.__doc__ or "").split("\n")[0]])
    return Table(["setting", "option", "settings and defaults", "what it is"], rows).markdown()


def main(argv: list[str]) -> int:
    """Prints a table; 2 and one line for a name that is no method."""
    if {"-h", "--help"} & set(argv):
        print((__doc__ or "").strip())
        return 0
    if argv == ["--parts"]:
        print(parts())
        return 0
    try:
        rows = [row(name) for name in argv or names()]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(Table(COLUMNS, ([cells[c] for c in COLUMNS] for cells in rows)).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
