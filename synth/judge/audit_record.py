"""Independent proof of one record from its JSON alone; `synth.audit` applies it to files.

Nothing here uses the sampler, the writer or the checker. Values are exact integers, reduced only at the end (the tests
hold them against sympy's); needed parameters are a walk from the query; the problem's text is written again, the
solution's is read with regular expressions and every clause is computed, both in the phrases of the record's world
(`Language`). What rests on a missing premise has no value, and a slip is a clause that would hold with another result.
"""

import hashlib
import json
import operator
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from synth.problem.validate_record import abstract_terms, ancestors, factors, operations

KEYS = {
    "id", "problem", "solution", "answer", "ops", "edges", "modulus", "split_bin", "order", "query", "needed_order",
    "layers", "parameters", "mistakes", "missing",
}  # fmt: skip
# there where the spec has contexts (the problem is proved without them), or where the world is not English
OPTIONAL_KEYS = {"context", "context_recipe", "world"}
CHECKS = ("record", "structure", "values", "needed", "operations", "problem text", "solution text", "mistakes")
PARTS = ("stop", "define", "as", "so", "semicolon", "is", "plus", "minus", "times", "back", "undetermined")
OPEN = object()
LETTERS = re.compile("[A-Za-z]+")
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class Language:
    """How the texts of a world are written, from its data file alone. Raises ValueError when that says too little."""

    def __init__(self, path: Path) -> None:
        data = json.loads(path.read_text(encoding="utf-8"))
        self.name, self.possessive, self.phrases = data["name"], data.get("possessive", "'s"), data["phrases"]
        if silent := [role for role in PARTS if not self.phrases[role]]:
            raise ValueError(
                f"world {self.name} writes no {silent[0]}, so its solutions cannot be proved from the text"
            )
        part = {role: re.escape(self.phrases[role]) for role in PARTS}
        self.end = re.compile(f"{part['stop']}(?={part['define']} |{part['undetermined']}|$)")
        self.step = re.compile(f"{part['define']} (.+?){part['as']}({part['back']}| \\w+)(.*)")
        signs = {"so": "; so", "semicolon": ";", "is": " =", "plus": " +", "minus": " -", "times": " *"}
        self.plain = {self.phrases[role]: sign for role, sign in signs.items()}
        self.parts = re.compile("|".join(re.escape(t) for t in sorted(self.plain, key=len, reverse=True)))


@lru_cache(maxsize=8)
def language(world: str) -> Language:
    """The language of a shipped world, or of a world file (.json). Raises ValueError when there is none."""
    path = Path(world) if world.endswith(".json") else Path(__file__).parents[1] / "world" / "files" / f"{world}.json"
    if not path.is_file():
        raise ValueError(f"world {world!r} is unknown; accepted: a world of synth/world/files, or --world FILE")
    return Language(path)


def language_of(record: dict, own: str | None = None) -> Language:
    """The language of a record's world; `own`: the file of a world that is not shipped."""
    name = record.get("world", "english")
    return language(own) if own and language(own).name == name else language(name)


def total(parameter: dict, value: Callable[[str], int | None]) -> int | None:
    """A parameter's expression with values put in, not reduced; None where one of them is None."""
    terms = []
    for term in parameter["terms"]:
        terms.append(1)
        for factor in term:
            if (found := value(factor)) is None:
                return None
            terms[-1] *= found
    result = terms[0] - terms[1] if parameter["combine"] == "difference" else sum(terms)
    if parameter["constant"] is None:
        return result
    return SIGNS["*" if parameter["combine_constant"] == "mul" else "+"](parameter["constant"], result)


def evaluate(parameters: dict[str, dict], modulus: int) -> dict[str, int | None]:
    """Values of parameters given by name, exact to the last step, None where a premise is missing. Raises ValueError on
    a circular dependency."""
    exact: dict[str, Any] = {}  # an integer, None, or OPEN while its terms are being evaluated

    def visit(name: str) -> Any:
        if name not in exact:
            exact[name] = OPEN
            exact[name] = total(parameters[name], visit) if parameters[name].get("given", True) else None
        if exact[name] is OPEN:
            raise ValueError(f"{name} depends on itself")
        return exact[name]

    for name in parameters:
        visit(name)
    return {name: None if exact[name] is None else exact[name] % modulus for name in parameters}


def problem_text(record: dict, own: str | None = None) -> str:
    """The text of the problem, from the parameters."""
    spoken = language_of(record, own)
    say, sentences = spoken.phrases, []
    for p in record["parameters"]:
        if p["kind"] == "instance" and p.get("given", True):
            names = [f" {term[0]}" for term in p["terms"]]
            kind = "each" if len(names) < 2 else p["combine"]
            right = "" if p["constant"] is None else f"{say['equals']} {p['constant']}"
            if names:
                link = {None: "equals", "add": "more", "mul": "times"}[p["combine_constant"]]
                right += f"{say[f'{link}_{kind}']}{say['comma_each'].join(names[:-1])}"
                right += f"{say['and_each'] if len(names) > 1 else ''}{names[-1]}"
            sentences.append(f"{say['the_number']} {p['name']}{right}{say['stop']}")
    owner, thing = record["query"].rsplit(f"{spoken.possessive} ", 1)
    question = [f"{say['how_many']} {thing}{say['does']} {owner}{say['have']}"]
    return "".join(question + sentences if record["order"] == "qp" else sentences + question)


Step = tuple[str, str, list[str], bool]


def steps(record: dict, own: str | None = None) -> list[Step]:
    """Sentences of the solution: (name, letter, clauses in plain signs, whether it is taken back). The letter is BACK
    when nothing else is said of the name. Raises ValueError on any other text."""
    return _steps(language_of(record, own), record["solution"], record["missing"] is None)


@lru_cache(maxsize=2)  # a record's sentences are asked for more than once
def _steps(spoken: Language, text: str, complete: bool) -> list[Step]:
    *sentences, rest = spoken.end.split(text)
    if rest:
        raise ValueError("the solution does not end with a full stop")
    if not complete and sentences.pop() != spoken.phrases["undetermined"]:
        raise ValueError("a premise is missing, but the solution does not say that the answer is undetermined")
    back = spoken.phrases["back"]
    out = []
    for sentence in sentences:
        m = spoken.step.fullmatch(sentence)
        if m is None:
            raise ValueError("a sentence of the solution is no step")
        plain = spoken.parts.sub(lambda found: spoken.plain[found[0]], m[3].removesuffix(back))
        before, *clauses = plain.split(";")
        if before or (m[2] == back and clauses):
            raise ValueError("a sentence of the solution is no step")
        out.append((m[1], "BACK" if m[2] == back else m[2].strip(), clauses, sentence.endswith(back)))
    return out


def clause_holds(clause: str, modulus: int, letters: dict[str, int], reached: dict[str, set[str]]) -> bool:
    """Whether ` t = x + y = 3 + 4 = 0` is right, given the values of letters and the names they rest on; adds t."""
    target, *parts = clause.removeprefix(" so").strip().split(" = ")
    reached[target] = {name for x in LETTERS.findall(parts[0]) for name in reached.get(x, ())}
    numbers = LETTERS.sub(lambda m: str(letters.get(m[0], "?")), parts[0])
    a, *rest = numbers.split()
    value = SIGNS[rest[0]](int(a), int(rest[1])) if rest else int(a)
    fresh, letters[target] = target not in letters, int(parts[-1])
    written = parts == [numbers] or parts == [parts[0], numbers] or parts == [parts[0], numbers, parts[-1]]
    return fresh and written and value % modulus == int(parts[-1]) and (len(parts) == 3) == bool(rest)


def audit_solution(
    record: dict, parameters: dict[str, dict], needed: set[str], own: str | None
) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) in the solution's text: order, letters, arithmetic, mistakes."""
    text, listed = steps(record, own), {m["step"]: m for m in record["mistakes"]}
    letters: dict[str, int] = {}
    means: dict[str, set[str]] = {}  # the parameter of each letter that stands
    written: dict[str, int] = {}
    found = [(i, name) for i, (name, _, _, back) in enumerate(text) if back]
    named = [(m["step"], m["parameter"]) for m in record["mistakes"]]
    if found != [pair for pair in named if listed[pair[0]]["corrected"]] or len(listed) < len(named):
        yield "mistakes", "the text has other mistakes than the record"
        return
    if any(i not in range(len(text)) or text[i][0] != name for i, name in named):
        yield "mistakes", "a mistake is not where the record has it"
        return
    for i, (name, letter, clauses, back) in enumerate(text):
        unknown = [f for f in factors(parameters[name]) if f not in written]
        kind = listed[i]["kind"] if i in listed else None
        if letter == "BACK":
            coming = next((n for n, x, _, _ in text[i:] if x != "BACK"), None)
            never = bool(unknown) or name == record["missing"]
            fits = kind == "miss" or (kind == "weak" and name in record["needed_order"]) or (kind == "retry" and never)
            if name in written or name == coming or not fits:
                yield "mistakes", f"{name} is not of its kind"
            continue
        if unknown or name in written or not parameters[name].get("given", True):
            yield "solution text", f"{name} comes too early or again"
            return
        expected = total(parameters[name], written.__getitem__) % record["modulus"]
        inside, reached = dict(letters), dict(means)
        *first, last = clauses
        if kind == "slip":
            end = last.rsplit(" ", 1)
            last, slipped = f"{end[0]} {expected}", int(end[1])
            if slipped == expected or slipped not in range(record["modulus"]):
                yield "mistakes", f"the number of {name} is not wrong"
        elif kind is not None:
            yield "mistakes", f"{name} is not of its kind"
        hold = all(clause_holds(c, record["modulus"], inside, reached) for c in [*first, last])
        if not hold or inside.get(letter) != expected:
            yield "solution text", f"the step of {name} does not hold"
        elif reached[letter] != set(factors(parameters[name])):
            yield "solution text", f"the step of {name} uses other parameters than it depends on"
        if [c.startswith(" so ") for c in clauses] != [False] * len(first) + [True]:
            yield "solution text", f"the step of {name} has no `so`, or several"
        if not back:
            written[name] = slipped if kind == "slip" else expected
            letters, means = inside | {letter: written[name]}, reached | {letter: {name}}
    query, complete = record["query"], record["missing"] is None
    if not needed <= set(written) or (complete and (text[-1][0] != query or query not in written)):
        yield "solution text", "the steps are not all that is needed, with the query last"


def audit_record(record: dict, own: str | None = None) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) for one record; nothing when all is proved. own: file of a world that is not shipped."""
    if set(record) - OPTIONAL_KEYS != KEYS:
        yield "record", f"missing or unknown keys {sorted(set(record) - OPTIONAL_KEYS ^ KEYS)}"
        return
    try:
        parameters = {p["name"]: p for p in record["parameters"]}
        yield from _audit_structure(record, parameters, own)
        yield from _audit_numbers(record, parameters, own)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        yield "record", f"inconsistent, {error!r}"


def _audit_structure(record: dict, parameters: dict[str, dict], own: str | None) -> Iterator[tuple[str, str]]:
    sums = {n: p for n, p in parameters.items() if p["kind"] == "abstract"}
    given = [p for p in parameters.values() if p["kind"] == "instance" and p.get("given", True)]
    layers = [(layer["category"], layer["items"]) for layer in record["layers"]]
    wanted = abstract_terms(layers, parameters, language_of(record, own).possessive)
    same = {n: sorted(p["terms"]) for n, p in sums.items()} == {n: sorted(terms) for n, terms in wanted.items()}
    if not same or len(parameters) != len(record["parameters"]):
        yield "structure", "the abstract parameters do not follow from the layers"
    if any((p["constant"], p["combine"]) != (None, "sum" if len(p["terms"]) > 1 else None) for p in sums.values()):
        yield "structure", "an abstract parameter is no plain sum"
    if any(not 1 <= len(p["terms"]) + (p["constant"] is not None) <= 4 for p in given):
        yield "structure", "an instance parameter has no operand, or more than four"
    missing, keys = record["missing"], ("name", "kind", "given", "terms", "constant")
    absent = [[p[key] for key in keys] for p in parameters.values() if "given" in p]
    if absent != [[missing, "instance", False, [], None]] * (missing is not None):
        yield "structure", "another parameter is without a sentence than the one that is missing"
    if missing not in (None, record["query"]) and not any(missing in factors(p) for p in given if p["name"] != missing):
        yield "structure", "no sentence names the parameter that is missing"


def _audit_numbers(record: dict, parameters: dict[str, dict], own: str | None) -> Iterator[tuple[str, str]]:
    query, missing, order = record["query"], record["missing"], record["needed_order"]
    values = evaluate(parameters, record["modulus"])
    if any(p["value"] != values[n] for n, p in parameters.items()) or record["answer"] != values[query]:
        yield "values", "a value is wrong"
    if (values[query] is None) != (missing is not None):
        yield "values", "the query is not undetermined because of what is missing"
    needed = {n for n in ancestors(parameters, query) if values[n] is not None}
    place = {name: i for i, name in enumerate(order)}
    if {n for n, p in parameters.items() if p["needed"]} != needed or sorted(order) != sorted(needed):
        yield "needed", "not exactly the query and what it depends on"
    elif any(place[f] >= place[n] for n in order for f in factors(parameters[n])):
        yield "needed", "needed_order is no order of dependency"
    elif missing is None and order[-1] != query:
        yield "needed", "needed_order has not the query last"
    count = sum(operations(parameters[n]) for n in needed)
    edges = sum(p["kind"] == "instance" for p in record["parameters"])
    written = sum(len(clauses) for name, _, clauses, back in steps(record, own) if name in needed and not back)
    if not record["ops"] == count == written or record["edges"] != edges:
        yield "operations", f"ops={record['ops']}, edges={record['edges']} should be {count} and {edges}"
    if problem_text(record, own) != record["problem"]:
        yield "problem text", "differs from the parameters"
    yield from audit_solution(record, parameters, needed, own)


def template(record: dict, own: str | None = None) -> str:
    """Needed steps with names as kinds, numbers as 0, letters in order of appearance; no step that is taken back."""
    kinds, letters = {p["name"]: p["kind"][0].upper() for p in record["parameters"] if p["needed"]}, {}
    stand = [(n, x, c) for n, x, c, back in steps(record, own) if not back and n in kinds]
    text = ".".join(f"{kinds[n]} {x}{''.join(c).replace(' so', ';')}" for n, x, c in stand)
    renamed = re.sub("(?<=[ ])[A-Za-z]+", lambda m: letters.setdefault(m[0], f"_{len(letters)}"), text)
    return re.sub(r"(?<= )\d+", "0", renamed)


def shape(record: dict) -> str:
    """What all solutions of a problem share, whatever their order: the unfolded expression of the query, hashed.
    Numbers and names are left out, the operands of sums and products are sorted."""
    parameters = {p["name"]: p for p in record["parameters"]}
    known: dict[str, str] = {}

    def visit(name: str) -> str:
        if name not in known:
            p = parameters[name]
            terms = ["*".join(sorted(visit(factor) for factor in term)) for term in p["terms"]]
            operands = terms if p["combine"] == "difference" else sorted(terms)
            text = f"{p['kind']} {p['constant'] is None} {p['combine_constant']} {p['combine']} {operands}"
            known[name] = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        return known[name]

    return visit(record["query"])


def identity(record: dict) -> tuple:
    """What makes two problems the same: sentences and question, whatever the order of sentences or of a sum."""
    rows = []
    for p in [p for p in record["parameters"] if p["kind"] == "instance"]:
        names = factors(p) if p["combine"] == "difference" else sorted(factors(p))
        rows.append((p["name"], str(p["constant"]), str(p["combine_constant"]), str(p["combine"]), *names))
    return (record["query"], *sorted(rows))
