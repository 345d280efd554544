"""Independent proof of one record (design section 6) from its JSON alone; `synth.audit` applies it to files.

Nothing here uses the sampler, the writer or the checker. Values are exact integers in sympy, reduced only at the end;
needed parameters are a walk from the query; the problem's text is written again, the solution's is read with regular
expressions and every clause is computed.

    >>> from synth.export import record; list(audit_record(record(source, documents, 0, 0)))
    []
"""

import operator
import re
from collections.abc import Iterator

from sympy import Integer, Mod

KEYS = {
    "id", "problem", "solution", "answer", "ops", "edges", "modulus", "split_bin", "order", "query", "needed_order",
    "layers", "parameters", "mistakes",
}  # fmt: skip
CONTEXT_KEYS = {"context", "context_recipe"}  # where the spec has contexts; the problem is proved without them
CHECKS = ("record", "structure", "values", "needed", "operations", "problem text", "solution text", "mistakes")
STEP = re.compile(r" Define (.+?) as (\w+)((?:;[^;]+)*)")
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def factors(parameter: dict) -> list[str]:
    """Names that a parameter depends on directly."""
    return [name for term in parameter["terms"] for name in term]


def evaluate(parameters: dict[str, dict], modulus: int) -> dict[str, int]:
    """Values of parameters given by name, exact to the last step. Raises ValueError on a circular dependency."""
    exact: dict[str, Integer | None] = {}

    def visit(name: str) -> Integer:
        if name not in exact:
            exact[name] = None
            p, terms = parameters[name], []
            for term in p["terms"]:
                terms.append(Integer(1))
                for factor in term:
                    terms[-1] *= visit(factor)
            total = terms[0] - terms[1] if p["combine"] == "difference" else sum(terms, Integer(0))
            if p["constant"] is not None:
                total = SIGNS["*" if p["combine_constant"] == "mul" else "+"](Integer(p["constant"]), total)
            exact[name] = total
        if exact[name] is None:
            raise ValueError(f"{name} depends on itself")
        return exact[name]

    return {name: int(Mod(visit(name), modulus)) for name in parameters}


def ancestors(parameters: dict[str, dict], query: str) -> set[str]:
    """The query and everything it depends on."""
    found, stack = set(), [query]
    while stack:
        if (name := stack.pop()) not in found:
            found.add(name)
            stack += factors(parameters[name])
    return found


def structure_terms(layers: list[dict], parameters: dict[str, dict]) -> dict[str, list[list[str]]]:
    """Sorted terms of every abstract parameter, from the layers and the names of the instance parameters."""
    out = {}
    for i, layer in enumerate(layers):
        for k, category in [(k, layers[k]["category"]) for k in range(i + 1, len(layers))]:
            for item in layer["items"]:
                below = [c for c in layers[i + 1]["items"] if f"{item}'s {c}" in parameters]
                terms = [[f"{item}'s {c}"] + [f"{c}'s {category}"] * (k > i + 1) for c in below]
                out[f"{item}'s {category}"] = sorted(terms)
    return out


def problem_text(record: dict) -> str:
    """The English of the problem, from the parameters."""
    sentences = []
    for p in record["parameters"]:
        if p["kind"] == "instance":
            names = [f"each {term[0]}" for term in p["terms"]]
            many = "".join(names)
            if len(names) > 1:
                many = f"the {p['combine']} of {', '.join(names[:-1])} and {names[-1]}"
            link = {None: "", "add": " more than ", "mul": " times as much as "}[p["combine_constant"]]
            number = "" if p["constant"] is None else p["constant"]
            sentences.append(f" The number of each {p['name']} equals {number}{link}{many}.")
    owner, thing = record["query"].rsplit("'s ", 1)
    question = [f" How many {thing} does {owner} have?"]
    return "".join(question + sentences if record["order"] == "qp" else sentences + question)


def steps(record: dict) -> list[tuple[str, str, list[str]]]:
    """Sentences of the solution: (name, letter or BACK, clauses). Raises ValueError on any other text."""
    matches = [STEP.fullmatch(s) for s in re.split(r"\.(?= Define|$)", record["solution"])[:-1]]
    if not all(matches):
        raise ValueError("a sentence of the solution is no step")
    return [(m[1], m[2], m[3].split(";")[1:]) for m in matches]


def clause_holds(clause: str, modulus: int, letters: dict[str, int]) -> bool:
    """Whether ` t = x + y = 3 + 4 = 0` is right, given the values of letters; adds the new letter."""
    target, *parts = clause.removeprefix(" so").strip().split(" = ")
    numbers = re.sub("[A-Za-z]+", lambda m: str(letters.get(m[0], "?")), parts[0])
    a, *rest = numbers.split()
    value = SIGNS[rest[0]](Integer(int(a)), Integer(int(rest[1]))) if rest else Integer(int(a))
    fresh, letters[target] = target not in letters, int(parts[-1])
    written = parts == [numbers] or parts == [parts[0], numbers] or parts == [parts[0], numbers, parts[-1]]
    return fresh and written and int(Mod(value, modulus)) == int(parts[-1]) and (len(parts) == 3) == bool(rest)


def audit_solution(record: dict, parameters: dict[str, dict], values: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) in the solution's text: order, letters, arithmetic, inserted mistakes."""
    text, letters, done, listed = steps(record), {}, set(), {m["step"]: m for m in record["mistakes"]}
    found = [(i, name) for i, (name, letter, _) in enumerate(text) if letter == "BACK"]
    if found != [(m["step"], m["parameter"]) for m in record["mistakes"]]:
        yield "mistakes", "the text has other mistakes than the record"
        return
    for i, (name, letter, clauses) in enumerate(text):
        unknown = [f for f in factors(parameters[name]) if f not in done]
        if letter == "BACK":
            coming = next((n for n, x, _ in text[i:] if x != "BACK"), None)
            fits = {"retry": bool(unknown), "weak": name in record["needed_order"], "miss": True}[listed[i]["kind"]]
            if name in done or name == coming or not fits:
                yield "mistakes", f"{name} is not of its kind"
            continue
        if unknown or name in done:
            yield "solution text", f"{name} comes too early or again"
        if not all(clause_holds(c, record["modulus"], letters) for c in clauses) or letters.get(letter) != values[name]:
            yield "solution text", f"the step of {name} does not hold"
        if [c.startswith(" so ") for c in clauses] != [False] * (len(clauses) - 1) + [True]:
            yield "solution text", f"the step of {name} has no `so`, or several"
        done.add(name)
    if done != ancestors(parameters, record["query"]) or text[-1][0] != record["query"]:
        yield "solution text", "the steps are not the needed parameters with the query last"


def audit_record(record: dict) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) for one record; nothing when all is proved."""
    if set(record) - CONTEXT_KEYS != KEYS:
        yield "record", f"missing or unknown keys {sorted(set(record) - CONTEXT_KEYS ^ KEYS)}"
        return
    try:
        yield from _audit(record)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        yield "record", f"inconsistent, {error!r}"


def _audit(record: dict) -> Iterator[tuple[str, str]]:
    parameters = {p["name"]: p for p in record["parameters"]}
    instances = [p for p in record["parameters"] if p["kind"] == "instance"]
    abstract = {n: sorted(p["terms"]) for n, p in parameters.items() if p["kind"] == "abstract"}
    if abstract != structure_terms(record["layers"], parameters) or len(parameters) != len(record["parameters"]):
        yield "structure", "the abstract parameters do not follow from the layers"
    if any(not 1 <= len(p["terms"]) + (p["constant"] is not None) <= 4 for p in instances):
        yield "structure", "an instance parameter has no operand, or more than four"
    values = evaluate(parameters, record["modulus"])
    if any(p["value"] != values[n] for n, p in parameters.items()) or record["answer"] != values[record["query"]]:
        yield "values", "a value is wrong"
    needed, order = ancestors(parameters, record["query"]), record["needed_order"]
    place = {name: i for i, name in enumerate(order)}
    if {n for n, p in parameters.items() if p["needed"]} != needed or sorted(order) != sorted(needed):
        yield "needed", "not exactly the query and what it depends on"
    elif any(place[f] >= place[n] for n in order for f in factors(parameters[n])) or order[-1] != record["query"]:
        yield "needed", "needed_order is no order of dependency with the query last"
    count = sum(max(1, len(factors(p)) + (p["constant"] is not None) - 1) for n, p in parameters.items() if n in needed)
    if not record["ops"] == count == record["solution"].count(";") or record["edges"] != len(instances):
        yield "operations", f"ops={record['ops']}, edges={record['edges']} should be {count} and {len(instances)}"
    if problem_text(record) != record["problem"]:
        yield "problem text", "differs from the parameters"
    yield from audit_solution(record, parameters, values)


def template(record: dict) -> str:
    """Solution with names as kinds, numbers as 0, letters in order of appearance; inserted mistakes left out."""
    kinds, letters = {p["name"]: p["kind"][0].upper() for p in record["parameters"]}, {}
    text = ".".join(f"{kinds[n]} {x}{''.join(c).replace(' so', ';')}" for n, x, c in steps(record) if x != "BACK")
    renamed = re.sub("(?<=[ ])[A-Za-z]+", lambda m: letters.setdefault(m[0], f"_{len(letters)}"), text)
    return re.sub(r"(?<= )\d+", "0", renamed)


def identity(record: dict) -> tuple:
    """What makes two problems the same: sentences and question, whatever the order of sentences or of a sum."""
    rows = []
    for p in [p for p in record["parameters"] if p["kind"] == "instance"]:
        names = factors(p) if p["combine"] == "difference" else sorted(factors(p))
        rows.append((p["name"], str(p["constant"]), p["combine_constant"], p["combine"], *names))
    return (record["query"], *sorted(rows, key=str))
