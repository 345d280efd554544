"""Documents byte for byte against English written by hand: the worked examples, every sentence, every kind of step.

The worked examples use a world file of their own, so that the expectations below are the whole truth about the format.
Letters are compared in order of appearance, where the expectation does not depend on a draw.
"""

import json
import re

import numpy as np
import pytest

from synth.kernel.rng import generators
from synth.problem.arrays import Problems
from synth.problem.records import read_record
from synth.world import vocabulary as worlds
from synth.world.vocabulary import ANSWER, EOS, FOLDER, PROBLEM, SOLUTION
from synth.write.mistakes import MASK_NONE, WriteSettings
from synth.write.prompt import write_prompt
from synth.write.solution import MAX_DOCUMENT, write_solution

ITEMS = [
    ["Oak Park", "Pine Park", "Maple Hall", "Jar"],
    ["Robin", "Finch", "Chess Room", "Robot Lab", "Bead", "Coin", "Pin", "Tack"],
    ["Red Sack", "Blue Sack", "Wing", "Tail"],
    ["Pen", "Ink", "Feather", "Claw"],
]
LAYER_NAMES = ["School", "Classroom", "Backpack", "Stationery"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A world file with the names of the worked examples; category names are replaced by what the test wants."""
    data = json.loads((FOLDER / "english.json").read_text(encoding="utf-8"))
    data["categorisations"] = [{"categories": LAYER_NAMES, "items": [[layer * 2] for layer in ITEMS]}]
    name = f"examples{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(worlds, "FOLDER", tmp_path)
    return worlds.load(name, 23, 1, 1, 8, 52)


def instance(name, constant=None, op=None, combine=None, terms=()):
    return {
        "name": name, "kind": "instance", "value": 0, "needed": True, "constant": constant, "combine_constant": op,
        "combine": combine, "terms": [[t] for t in terms],
    }  # fmt: skip


def abstract(name, *terms):
    combine = "sum" if len(terms) > 1 else None
    return instance(name, combine=combine) | {"kind": "abstract", "terms": [list(t) for t in terms]}


def record(layers, parameters, order, query, values):
    """A record of the wanted shape; values are given by the test, never computed here."""
    for p in parameters:
        p["value"] = values.get(p["name"], 0)
        p["needed"] = p["name"] in order
    return {
        "layers": [{"category": c, "items": list(items)} for c, items in layers], "parameters": parameters,
        "needed_order": order, "query": query, "ops": 0, "edges": 0, "split_bin": 0, "modulus": 23,
    }  # fmt: skip


def write(problem: Problems, world, *, question_first=False, published=True, seed=0):
    """(prompt tokens, response tokens) in the order of construction, letters in order of use."""
    out, logp = np.zeros((6, MAX_DOCUMENT), dtype=np.int32), np.zeros(MAX_DOCUMENT)
    n = int(write_prompt(problem, question_first, world.ids, out))
    settings = WriteSettings(question_first, published, False, True, 0, 0.0, 0.0, MASK_NONE)
    end = int(write_solution(generators(seed, "test", [0])[0], problem, settings, world.ids, out, logp, n))
    return out[0, :n].copy(), out[0, n:end].copy()


def renamed(text: str) -> str:
    """The text with its variable letters renamed in order of appearance."""
    seen: dict[str, str] = {}
    return re.sub(r"(?<![\w'])[A-Za-z](?![\w'])", lambda m: seen.setdefault(m[0], f"<{len(seen)}>"), text)


def texts(world, given_record, **how):
    prompt, response = write(read_record(given_record, world), world, **how)
    assert prompt[0] == PROBLEM
    assert prompt[-1] == SOLUTION
    assert response[-1] == EOS
    assert response[-3] == ANSWER
    return world.decode(prompt), world.decode(response[:-3]), world.decode(response[-2:-1])


PARKS = [("School", ["Oak Park", "Pine Park"]), ("Classroom", ["Robin", "Finch"])]


def example_a():
    parameters = [
        instance("Oak Park's Robin", 9),
        instance("Pine Park's Finch", 11, "mul", terms=["Pine Park's Robin"]),
        instance("Pine Park's Robin", 4, "add", terms=["Oak Park's Robin"]),
    ]
    values = {"Oak Park's Robin": 9, "Pine Park's Robin": 13, "Pine Park's Finch": 5}
    return record(PARKS, parameters, ["Oak Park's Robin", "Pine Park's Robin"], "Pine Park's Robin", values)


PROBLEM_A = (
    " The number of each Oak Park's Robin equals 9. The number of each Pine Park's Finch equals 11 times as much as"
    " each Pine Park's Robin. The number of each Pine Park's Robin equals 4 more than each Oak Park's Robin."
)
SOLUTION_A = " Define Oak Park's Robin as k; so k = 9. Define Pine Park's Robin as T; so T = 4 + k = 4 + 9 = 13."


def test_worked_example_a(world):
    problem, solution, answer = texts(world, example_a())
    assert problem == PROBLEM_A + " How many Robin does Pine Park have?"
    assert renamed(solution) == renamed(SOLUTION_A)
    assert answer == " 13"


def test_worked_example_e_question_first(world):
    problem, solution, _ = texts(world, example_a(), question_first=True)
    assert problem == " How many Robin does Pine Park have?" + PROBLEM_A
    assert renamed(solution) == renamed(SOLUTION_A)


def test_worked_example_b(world):
    layers = [("School", ["Jar"]), ("Classroom", ["Bead", "Coin", "Pin"])]
    bead, coin, pin = "Jar's Bead", "Jar's Coin", "Jar's Pin"
    parameters = [
        instance(bead, 20),
        instance(coin, terms=[bead]),
        instance(pin, 14, "add", "sum", [bead, coin]),
        abstract("Jar's Classroom", [bead], [coin], [pin]),
    ]
    values = {bead: 20, coin: 20, pin: 8, "Jar's Classroom": 2}
    problem, solution, answer = texts(world, record(layers, parameters, [*values], "Jar's Classroom", values))
    wanted = (
        " Define Jar's Bead as c; so c = 20. Define Jar's Coin as V; so V = c = 20. Define Jar's Pin as n;"
        " y = c + V = 20 + 20 = 17; so n = 14 + y = 14 + 17 = 8. Define Jar's Classroom as A; g = c + V = 20 + 20 = 17;"
        " so A = g + n = 17 + 8 = 2."
    )
    assert renamed(solution) == renamed(wanted)
    assert problem.endswith(" How many Classroom does Jar have?")
    assert answer == " 2"


def test_worked_example_c(world):
    hall, chess, robot = "Maple Hall", "Chess Room", "Robot Lab"
    layers = [("School", [hall]), ("Classroom", [chess, robot]), ("Backpack", ["Red Sack", "Blue Sack"])]
    values = {
        f"{hall}'s {chess}": 6, f"{hall}'s {robot}": 9, f"{chess}'s Red Sack": 8, f"{robot}'s Red Sack": 21,
        f"{robot}'s Blue Sack": 7, f"{chess}'s Backpack": 8, f"{robot}'s Backpack": 5, f"{hall}'s Backpack": 1,
    }  # fmt: skip
    parameters = [
        instance(f"{robot}'s Blue Sack", 5, "mul", "sum", [f"{chess}'s Red Sack", f"{robot}'s Red Sack"]),
        instance(f"{hall}'s {chess}", 6),
        instance(f"{robot}'s Red Sack", None, None, "difference", [f"{hall}'s {chess}", f"{chess}'s Red Sack"]),
        instance(f"{chess}'s Red Sack", 8),
        instance(f"{hall}'s {robot}", 3, "add", terms=[f"{hall}'s {chess}"]),
        abstract(f"{chess}'s Backpack", [f"{chess}'s Red Sack"]),
        abstract(f"{robot}'s Backpack", [f"{robot}'s Red Sack"], [f"{robot}'s Blue Sack"]),
        abstract(
            f"{hall}'s Backpack",
            [f"{hall}'s {chess}", f"{chess}'s Backpack"],
            [f"{hall}'s {robot}", f"{robot}'s Backpack"],
        ),
    ]
    problem, solution, answer = texts(world, record(layers, parameters, [*values], f"{hall}'s Backpack", values))
    assert problem == (
        " The number of each Robot Lab's Blue Sack equals 5 times as much as the sum of each Chess Room's Red Sack and"
        " each Robot Lab's Red Sack. The number of each Maple Hall's Chess Room equals 6. The number of each Robot"
        " Lab's Red Sack equals the difference of each Maple Hall's Chess Room and each Chess Room's Red Sack. The"
        " number of each Chess Room's Red Sack equals 8. The number of each Maple Hall's Robot Lab equals 3 more than"
        " each Maple Hall's Chess Room. How many Backpack does Maple Hall have?"
    )
    assert renamed(solution) == renamed(
        " Define Maple Hall's Chess Room as r; so r = 6. Define Maple Hall's Robot Lab as H; so H = 3 + r = 3 + 6 = 9."
        " Define Chess Room's Red Sack as b; so b = 8. Define Robot Lab's Red Sack as M; so M = r - b = 6 - 8 = 21."
        " Define Robot Lab's Blue Sack as e; u = b + M = 8 + 21 = 6; so e = 5 * u = 5 * 6 = 7. Define Chess Room's"
        " Backpack as q; so q = b = 8. Define Robot Lab's Backpack as D; so D = M + e = 21 + 7 = 5. Define Maple Hall's"
        " Backpack as z; J = r * q = 6 * 8 = 2; x = H * D = 9 * 5 = 22; so z = J + x = 2 + 22 = 1."
    )
    assert answer == " 1"


SENTENCES = [  # constant, its operation, combination, number of terms, the sentence's end, the step's clauses
    (7, None, None, 0, " equals 7.", "; so e = 7."),
    (None, None, None, 1, " equals each W.", "; so e = a = 3."),
    (None, None, "sum", 2, " equals the sum of each W and each X.", "; so e = a + b = 3 + 5 = 8."),
    (None, None, "difference", 2, " equals the difference of each W and each X.", "; so e = a - b = 3 - 5 = 21."),
    (None, None, "sum", 3, " equals the sum of each W, each X and each Y.",
     "; f = a + b = 3 + 5 = 8; so e = f + c = 8 + 7 = 15."),
    (None, None, "sum", 4, " equals the sum of each W, each X, each Y and each Z.",
     "; f = a + b = 3 + 5 = 8; g = f + c = 8 + 7 = 15; so e = g + d = 15 + 11 = 3."),
    (12, "add", None, 1, " equals 12 more than each W.", "; so e = 12 + a = 12 + 3 = 15."),
    (9, "mul", None, 1, " equals 9 times as much as each W.", "; so e = 9 * a = 9 * 3 = 4."),
    (0, "add", "sum", 2, " equals 0 more than the sum of each W and each X.",
     "; f = a + b = 3 + 5 = 8; so e = 0 + f = 0 + 8 = 8."),
    (13, "add", "difference", 2, " equals 13 more than the difference of each W and each X.",
     "; f = a - b = 3 - 5 = 21; so e = 13 + f = 13 + 21 = 11."),
    (2, "mul", "sum", 2, " equals 2 times as much as the sum of each W and each X.",
     "; f = a + b = 3 + 5 = 8; so e = 2 * f = 2 * 8 = 16."),
    (22, "mul", "difference", 2, " equals 22 times as much as the difference of each W and each X.",
     "; f = a - b = 3 - 5 = 21; so e = 22 * f = 22 * 21 = 2."),
    (4, "add", "sum", 3, " equals 4 more than the sum of each W, each X and each Y.",
     "; f = a + b = 3 + 5 = 8; g = f + c = 8 + 7 = 15; so e = 4 + g = 4 + 15 = 19."),
    (4, "mul", "sum", 3, " equals 4 times as much as the sum of each W, each X and each Y.",
     "; f = a + b = 3 + 5 = 8; g = f + c = 8 + 7 = 15; so e = 4 * g = 4 * 15 = 14."),
]  # fmt: skip


def last_value(clauses: str) -> int:
    return int(clauses.rstrip(".").rsplit(" ", 1)[1])


@pytest.mark.parametrize(("constant", "op", "combine", "count", "sentence", "clauses"), SENTENCES)
def test_every_kind_of_sentence_and_step(world, constant, op, combine, count, sentence, clauses):
    layers = [("School", ["Jar", "Oak Park"]), ("Classroom", ["Bead", "Coin", "Pin", "Tack"])]
    children = zip(("Bead", "Coin", "Pin", "Tack"), (3, 5, 7, 11), strict=True)
    operands = {short: (f"Oak Park's {n}", v) for short, (n, v) in zip("WXYZ", children, strict=True)}
    parameters = [instance(name, value) for name, value in operands.values()]
    parameters.append(instance("Jar's Pin", constant, op, combine, [n for n, _ in list(operands.values())[:count]]))
    values = dict(operands.values()) | {"Jar's Pin": last_value(clauses)}
    problem, solution, answer = texts(world, record(layers, parameters, [*values], "Jar's Pin", values))
    for short, (name, _) in operands.items():
        sentence = re.sub(rf"each {short}\b", f"each {name}", sentence)
    assert f". The number of each Jar's Pin{sentence} How many Pin does Jar have?" in problem
    before = "".join(f" Define {n} as {x}; so {x} = {v}." for x, (n, v) in zip("abcd", operands.values(), strict=True))
    assert solution == f"{before} Define Jar's Pin as e{clauses}"
    assert answer == f" {last_value(clauses)}"


ABSTRACT_ONE = [  # level one, by the number of children; values of the children are 3, 5, 7, 11
    (0, "Define Jar's Classroom as a; so a = 0."),
    (1, "Define Jar's Classroom as b; so b = a = 3."),
    (2, "Define Jar's Classroom as c; so c = a + b = 3 + 5 = 8."),
    (3, "Define Jar's Classroom as d; e = a + b = 3 + 5 = 8; so d = e + c = 8 + 7 = 15."),
    (4, "Define Jar's Classroom as e; f = a + b = 3 + 5 = 8; g = f + c = 8 + 7 = 15; so e = g + d = 15 + 11 = 3."),
]


@pytest.mark.parametrize(("count", "wanted"), ABSTRACT_ONE)
def test_abstract_of_level_one(world, count, wanted):
    names = ["Jar's Bead", "Jar's Coin", "Jar's Pin", "Jar's Tack"][:count]
    layers = [("School", ["Jar", "Oak Park"]), ("Classroom", ["Bead", "Coin", "Pin", "Tack"])]
    values = dict(zip(names, (3, 5, 7, 11), strict=False)) | {"Jar's Classroom": last_value(wanted)}
    parameters = [instance(n, values[n]) for n in names]
    parameters += [instance("Oak Park's Bead", 1), abstract("Jar's Classroom", *([n] for n in names))]
    _, solution, answer = texts(world, record(layers, parameters, [*values], "Jar's Classroom", values))
    assert solution.endswith(wanted)
    assert answer == f" {last_value(wanted)}"


ABSTRACT_TWO = [  # level two: each child has one grandchild; instances 3 5 7 11 times abstracts 2 4 6 8
    (0, "Define Jar's Backpack as a; so a = 0."),
    (1, "Define Jar's Backpack as c; so c = a * b = 3 * 2 = 6."),
    (2, "Define Jar's Backpack as e; f = a * b = 3 * 2 = 6; g = c * d = 5 * 4 = 20; so e = f + g = 6 + 20 = 3."),
    (3, "Define Jar's Backpack as g; h = a * b = 3 * 2 = 6; i = c * d = 5 * 4 = 20; j = h + i = 6 + 20 = 3;"
        " k = e * f = 7 * 6 = 19; so g = j + k = 3 + 19 = 22."),
    (4, "Define Jar's Backpack as i; j = a * b = 3 * 2 = 6; k = c * d = 5 * 4 = 20; l = j + k = 6 + 20 = 3;"
        " m = e * f = 7 * 6 = 19; n = l + m = 3 + 19 = 22; o = g * h = 11 * 8 = 19; so i = n + o = 22 + 19 = 18."),
]  # fmt: skip


@pytest.mark.parametrize(("count", "wanted"), ABSTRACT_TWO)
def test_abstract_of_level_two(world, count, wanted):
    rooms = ["Bead", "Coin", "Pin", "Tack"]
    layers = [("School", ["Jar"]), ("Classroom", rooms), ("Backpack", ["Wing", "Tail"])]
    parameters, values = [], {}
    for room, times, inside in zip(rooms[:count], (3, 5, 7, 11), (2, 4, 6, 8), strict=False):
        parameters += [instance(f"Jar's {room}", times), abstract(f"{room}'s Backpack")]
        values |= {f"Jar's {room}": times, f"{room}'s Backpack": inside}
    terms = [(f"Jar's {room}", f"{room}'s Backpack") for room in rooms[:count]]
    parameters.append(abstract("Jar's Backpack", *terms))
    values["Jar's Backpack"] = last_value(wanted)
    built = read_record(record(layers, parameters, [*values], "Jar's Backpack", values), world)
    solution = world.decode(write(built, world)[1][:-3])
    assert solution.endswith(wanted)


def test_abstract_of_level_three(world):
    layers = [("School", ["Jar"]), ("Classroom", ["Bead"]), ("Backpack", ["Wing"]), ("Stationery", ["Pen", "Ink"])]
    values = {
        "Jar's Bead": 2, "Bead's Wing": 5, "Wing's Pen": 7, "Wing's Ink": 4, "Wing's Stationery": 11,
        "Bead's Stationery": 9, "Jar's Stationery": 18,
    }  # fmt: skip
    parameters = [
        *(instance(n, values[n]) for n in ("Wing's Ink", "Jar's Bead", "Bead's Wing", "Wing's Pen")),
        abstract("Wing's Stationery", ["Wing's Pen"], ["Wing's Ink"]),
        abstract("Bead's Stationery", ["Bead's Wing", "Wing's Stationery"]),
        abstract("Jar's Stationery", ["Jar's Bead", "Bead's Stationery"]),
    ]
    _, solution, answer = texts(world, record(layers, parameters, [*values], "Jar's Stationery", values))
    assert solution.endswith(
        " Define Wing's Stationery as e; so e = c + d = 7 + 4 = 11. Define Bead's Stationery as f; so f = b * e"
        " = 5 * 11 = 9. Define Jar's Stationery as g; so g = a * f = 2 * 9 = 18."
    )
    assert answer == " 18"
