"""Whether a record (design section 6) is consistent: every field follows from the layers and the sentences.

    check_record({"id": "x", "modulus": 23, ..., "ops": 7})     ValueError: record x: bad or missing field 'ops': 7 ...

The problem is the layers, the instance parameters' sentences and the query; all the rest is computed again here: what
rests on a missing premise has no value and is not needed. Plain Python on names, which may be of any world.
"""

from graphlib import CycleError, TopologicalSorter
from typing import Any, NoReturn

MODULUS = (2, 997)
BINS, MOST_LAYERS, MOST_ITEMS, MOST_OPERANDS = 23, 4, 4, 4
PARAMETER_KEYS = ("name", "kind", "value", "needed", "constant", "combine_constant", "combine", "terms")


class _Fault(Exception):
    """What is wrong in which field of which parameter."""

    def __init__(self, field: str, text: str, parameter: str | None = None) -> None:
        super().__init__(f"bad or missing field {field!r}" + (f" of {parameter!r}" if parameter else "") + f": {text}")


def refuse(record: Any, why: object) -> NoReturn:
    """Raise the ValueError of a record, with its id."""
    raise ValueError(f"record {record.get('id', '?') if isinstance(record, dict) else '?'}: {why}")


def check_record(record: Any, possessive: str = "'s") -> None:
    """Raise ValueError naming the record, the field and the parameter of the first thing that is inconsistent.
    possessive: what joins an owner to what it has in the names of parameters."""
    try:
        _check(record, possessive)
    except _Fault as fault:
        refuse(record, fault)


def _whole(record: dict, field: str, low: int, high: int | None = None, parameter: str | None = None) -> int:
    value = _field(record, field, parameter)
    if type(value) is not int or value < low or (high is not None and value > high):
        raise _Fault(
            field, f"{value!r}; accepted: a whole number from {low}" + f" to {high}" * (high is not None), parameter
        )
    return value


def _field(record: dict, field: str, parameter: str | None = None) -> Any:
    if field not in record:
        raise _Fault(field, "missing", parameter)
    return record[field]


def _equal(field: str, found: object, wanted: object, parameter: str | None = None) -> None:
    if found != wanted:
        raise _Fault(field, f"{found!r} is inconsistent; accepted: {wanted!r}", parameter)


def _check(record: Any, possessive: str) -> None:
    if not isinstance(record, dict):
        raise _Fault("record", f"{type(record).__name__}; accepted: an object")
    modulus = _whole(record, "modulus", *MODULUS)
    _whole(record, "split_bin", 0, BINS - 1)
    if record.get("order", "pq") not in ("pq", "qp"):
        raise _Fault("order", f"{record['order']!r}; accepted: pq, qp")
    missing = _missing(record)
    layers = _layers(record)
    possible = slot_names(layers, possessive)
    parameters = _parameters(record, possible, modulus)
    wanted = abstract_terms(layers, set(parameters), possessive)
    for name in wanted:
        if name not in parameters:
            raise _Fault("parameters", f"the layers have {name!r}, the parameters do not")
        found = parameters[name]["terms"]
        if sorted(found) != sorted(wanted[name]):
            raise _Fault("terms", f"{found!r} do not follow from the layers; accepted: {wanted[name]!r}", name)
    query = _field(record, "query")
    if not isinstance(query, str) or query not in parameters:
        raise _Fault("query", f"{query!r} is no parameter of the record")
    order = _sorted(parameters)
    for name, value in _values(parameters, order, modulus).items():
        _equal("value", parameters[name]["value"], value, name)
    _equal("answer", _field(record, "answer"), parameters[query]["value"])
    if missing is not None and (missing not in parameters or parameters[query]["value"] is not None):
        raise _Fault("missing", f"{missing!r} is no parameter that the query rests on")
    _check_needed(record, parameters, query)
    instances = [p for p in parameters.values() if p["kind"] == "instance"]
    needed = [p for p in parameters.values() if p["needed"]]
    _equal("edges", _whole(record, "edges", 1), len(instances))
    _equal("ops", _whole(record, "ops", 0), sum(operations(p) for p in needed))


def _missing(record: dict) -> str | None:
    """Name of the one instance parameter without a sentence, or None; its parameter says `given: false`."""
    missing = record.get("missing")
    if missing is not None and not isinstance(missing, str):
        raise _Fault("missing", f"{missing!r}; accepted: null, or the name of a parameter")
    return missing


def _layers(record: dict) -> list[tuple[str, list[str]]]:
    layers = _field(record, "layers")
    if not isinstance(layers, list) or not 2 <= len(layers) <= MOST_LAYERS:
        raise _Fault("layers", f"accepted: a list of 2 to {MOST_LAYERS} layers")
    out = []
    for i, layer in enumerate(layers):
        if not isinstance(layer, dict) or not isinstance(layer.get("category"), str) or not layer["category"].strip():
            raise _Fault("layers", f"layer {i + 1} has no category; accepted: category and items")
        items = layer.get("items")
        texts = isinstance(items, list) and all(isinstance(n, str) and n.strip() for n in items)
        if not texts or not 1 <= len(items) <= MOST_ITEMS:
            raise _Fault("layers", f"items of layer {i + 1} are {items!r}; accepted: 1 to {MOST_ITEMS} names")
        if len(set(items)) < len(items):
            raise _Fault("layers", f"a name of layer {i + 1} is there twice: {items!r}")
        for name in [layer["category"], *items]:
            if name != name.strip():
                raise _Fault("layers", f"name {name!r} begins or ends with space")
        out.append((layer["category"], items))
    return out


def slot_names(layers: list[tuple[str, list[str]]], possessive: str) -> dict[str, str]:
    """Kind of every parameter that the layers make possible, by name. Raises _Fault on a name with two meanings."""
    kinds: dict[str, str] = {}
    for i, (_, items) in enumerate(layers):
        things = [(child, "instance") for child in (layers[i + 1][1] if i + 1 < len(layers) else [])]
        things += [(category, "abstract") for category, _ in layers[i + 1 :]]
        for name, kind in ((f"{item}{possessive} {thing}", kind) for item in items for thing, kind in things):
            if name in kinds:
                raise _Fault("layers", f"{name!r} could be two parameters; accepted: names that tell them apart")
            kinds[name] = kind
    return kinds


def abstract_terms(
    layers: list[tuple[str, list[str]]], exists: set[str], possessive: str
) -> dict[str, list[list[str]]]:
    """Terms of every abstract parameter, from the layers and the instance parameters that exist."""
    out = {}
    for i, (_, items) in enumerate(layers):
        for k in range(i + 1, len(layers)):
            category = layers[k][0]
            for item in items:
                below = [c for c in layers[i + 1][1] if f"{item}{possessive} {c}" in exists]
                out[f"{item}{possessive} {category}"] = [
                    [f"{item}{possessive} {c}"] + [f"{c}{possessive} {category}"] * (k > i + 1) for c in below
                ]
    return out


def _parameters(record: dict, possible: dict[str, str], modulus: int) -> dict[str, dict]:
    """The parameters by name, each checked by itself."""
    listed = _field(record, "parameters")
    if not isinstance(listed, list) or not all(isinstance(p, dict) and isinstance(p.get("name"), str) for p in listed):
        raise _Fault("parameters", "accepted: a list of objects with a name")
    parameters: dict[str, dict] = {}
    missing = _missing(record)
    for p in listed:
        name = p["name"]
        if name in parameters:
            raise _Fault("name", "there twice", name)
        parameters[name] = p
        if name not in possible:
            raise _Fault("name", "no parameter that the layers make possible", name)
        for key in PARAMETER_KEYS:
            _field(p, key, name)
        _equal("kind", p["kind"], possible[name], name)
        if p["value"] is not None or missing is None:
            _whole(p, "value", 0, modulus - 1, name)
        if p.get("given", True) is not (name != missing):
            raise _Fault("given", f"{p.get('given')!r}; accepted: false for what is missing, absent for others", name)
        if name == missing and p["kind"] != "instance":
            raise _Fault("missing", f"{name!r} is abstract; accepted: null, or an instance parameter")
        if type(p["needed"]) is not bool:
            raise _Fault("needed", f"{p['needed']!r}; accepted: true, false", name)
    for p in parameters.values():
        _check_expression(p, parameters, modulus)
    return parameters


def _check_expression(p: dict, parameters: dict[str, dict], modulus: int) -> None:
    name, terms = p["name"], p["terms"]
    if not isinstance(terms, list) or not all(isinstance(term, list) for term in terms) or len(terms) > MOST_OPERANDS:
        raise _Fault("terms", f"{terms!r}; accepted: a list of up to {MOST_OPERANDS} lists of names", name)
    for factor in factors(p):
        if not isinstance(factor, str) or factor not in parameters:
            raise _Fault("terms", f"{factor!r} is no parameter of the record", name)
    if any(not 1 <= len(term) <= (2 if p["kind"] == "abstract" else 1) for term in terms):
        raise _Fault("terms", f"{terms!r} has a product of the wrong length", name)
    if p["constant"] is not None:
        _whole(p, "constant", 0, modulus - 1, name)
    links = ("add", "mul") if p["constant"] is not None and terms else (None,)
    if p["combine_constant"] not in links:
        raise _Fault("combine_constant", f"{p['combine_constant']!r}; accepted: {' or '.join(map(str, links))}", name)
    ways = {0: (None,), 1: (None,), 2: ("sum", "difference")}.get(len(terms), ("sum",))
    if p["kind"] == "abstract":
        ways = ways[:1]
        _equal("constant", p["constant"], None, name)
    elif not p.get("given", True):
        _equal("terms", (terms, p["constant"]), ([], None), name)
    elif not 1 <= len(terms) + (p["constant"] is not None) <= MOST_OPERANDS:
        raise _Fault("terms", f"a sentence of no operand, or of more than {MOST_OPERANDS}", name)
    if p["combine"] not in ways:
        raise _Fault("combine", f"{p['combine']!r}; accepted: {' or '.join(map(str, ways))}", name)


def factors(p: dict) -> list[str]:
    """Names that a parameter depends on directly."""
    return [name for term in p["terms"] for name in term]


def operations(p: dict) -> int:
    """Operations of a parameter's step: one less than its operands and factors, at least one."""
    return max(1, len(factors(p)) + (p["constant"] is not None) - 1)


def _sorted(parameters: dict[str, dict]) -> list[str]:
    """The names, each after what it depends on. Raises _Fault on a circle."""
    try:
        return list(TopologicalSorter({name: factors(p) for name, p in parameters.items()}).static_order())
    except CycleError as error:
        raise _Fault("terms", "it depends on itself", error.args[1][0]) from None


def _values(parameters: dict[str, dict], order: list[str], modulus: int) -> dict[str, int | None]:
    """Value of every parameter by name; None where it rests on a missing premise."""
    value: dict[str, int | None] = {}
    for name in order:
        p = parameters[name]
        if not p.get("given", True) or None in [value[f] for f in factors(p)]:
            value[name] = None
            continue
        products = [value[t[0]] * (value[t[1]] if len(t) > 1 else 1) for t in p["terms"]]
        total = products[0] - products[1] if p["combine"] == "difference" else sum(products)
        if p["constant"] is not None:
            total = p["constant"] * total if p["combine_constant"] == "mul" else p["constant"] + total
        value[name] = total % modulus
    return value


def _ancestors(parameters: dict[str, dict], query: str) -> set[str]:
    """The query and everything it depends on."""
    found, stack = set(), [query]
    while stack:
        if (name := stack.pop()) not in found:
            found.add(name)
            stack += factors(parameters[name])
    return found


def _check_needed(record: dict, parameters: dict[str, dict], query: str) -> None:
    needed = {name for name in _ancestors(parameters, query) if parameters[name]["value"] is not None}
    for name, p in parameters.items():
        _equal("needed", p["needed"], name in needed, name)
    order = _field(record, "needed_order")
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise _Fault("needed_order", f"{order!r}; accepted: a list of names")
    if len(order) != len(set(order)) or set(order) != needed:
        wrong = sorted(set(order) ^ needed) or sorted({n for n in order if order.count(n) > 1})
        raise _Fault("needed_order", "not each needed parameter once", wrong[0])
    done: set[str] = set()
    for name in order:
        if missing := [f for f in factors(parameters[name]) if f not in done]:
            raise _Fault("needed_order", f"comes before {missing[0]!r}, which it depends on", name)
        done.add(name)
    if query in needed and order[-1] != query:
        raise _Fault("needed_order", "the last is not the query", order[-1])
