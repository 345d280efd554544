"""Whether a record is consistent: every field follows from the layers and the sentences.

    check_record({"id": "x", "modulus": 23, ..., "ops": 7})     ValueError: record x: bad or missing field 'ops': 7 ...

The problem is the layers, the instance parameters' sentences and the query; all the rest is computed again here: what
rests on a missing premise has no value and is not needed. Plain Python on names, which may be of any world.
"""

import math
from collections.abc import Collection
from typing import Any, NoReturn

MODULUS = (2, 997)
BINS, MOST_LAYERS, MOST_ITEMS, MOST_OPERANDS = 23, 4, 4, 4
PARAMETER_KEYS = ("name", "kind", "value", "needed", "constant", "combine_constant", "combine", "terms")
_KEYS = set(PARAMETER_KEYS)
_WAYS = ((None,), (None,), ("sum", "difference"), ("sum",), ("sum",))  # to combine so many terms
Layers = list[tuple[str, list[str]]]  # category and items


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


def _field(record: dict, field: str, parameter: str | None = None) -> Any:
    if field not in record:
        raise _Fault(field, "missing", parameter)
    return record[field]


def _whole(record: dict, field: str, low: int, high: int | None = None, parameter: str | None = None) -> int:
    value = _field(record, field, parameter)
    if type(value) is not int or value < low or (high is not None and value > high):
        accepted = f"a whole number from {low}" + f" to {high}" * (high is not None)
        raise _Fault(field, f"{value!r}; accepted: {accepted}", parameter)
    return value


def _equal(field: str, found: object, wanted: object, parameter: str | None = None) -> None:
    if found != wanted:
        raise _Fault(field, f"{found!r} is inconsistent; accepted: {wanted!r}", parameter)


def _one_of(field: str, found: object, accepted: Collection, parameter: str | None = None) -> None:
    if found not in accepted:
        raise _Fault(field, f"{found!r}; accepted: {' or '.join(map(str, accepted))}", parameter)


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(v, kind) for v in value)


def _check(record: Any, possessive: str) -> None:
    if not isinstance(record, dict):
        raise _Fault("record", f"{type(record).__name__}; accepted: an object")
    modulus = _whole(record, "modulus", *MODULUS)
    _whole(record, "split_bin", 0, BINS - 1)
    if record.get("order", "pq") not in ("pq", "qp"):
        raise _Fault("order", f"{record['order']!r}; accepted: pq, qp")
    missing = record.get("missing")  # the one instance parameter without a sentence; that says `given: false`
    if missing is not None and not isinstance(missing, str):
        raise _Fault("missing", f"{missing!r}; accepted: null, or the name of a parameter")
    layers = _layers(record)
    parameters = _parameters(record, _kinds(layers, possessive), modulus, missing)
    for name, wanted in abstract_terms(layers, parameters, possessive).items():
        if name not in parameters:
            raise _Fault("parameters", f"the layers have {name!r}, the parameters do not")
        found = parameters[name]["terms"]
        if found != wanted and sorted(found) != sorted(wanted):
            raise _Fault("terms", f"{found!r} do not follow from the layers; accepted: {wanted!r}", name)
    query = _field(record, "query")
    if not isinstance(query, str) or query not in parameters:
        raise _Fault("query", f"{query!r} is no parameter of the record")
    for name, value in _values(parameters, modulus).items():
        if parameters[name]["value"] != value:
            _equal("value", parameters[name]["value"], value, name)
    _equal("answer", _field(record, "answer"), parameters[query]["value"])
    if missing is not None and (missing not in parameters or parameters[query]["value"] is not None):
        raise _Fault("missing", f"{missing!r} is no parameter that the query rests on")
    _check_needed(record, parameters, query)
    _equal("edges", _whole(record, "edges", 1), sum(p["kind"] == "instance" for p in parameters.values()))
    _equal("ops", _whole(record, "ops", 0), sum(operations(p) for p in parameters.values() if p["needed"]))


def _layers(record: dict) -> Layers:
    layers = _field(record, "layers")
    if not isinstance(layers, list) or not 2 <= len(layers) <= MOST_LAYERS:
        raise _Fault("layers", f"accepted: a list of 2 to {MOST_LAYERS} layers")
    out = []
    for i, layer in enumerate(layers, start=1):
        if not isinstance(layer, dict) or not isinstance(layer.get("category"), str) or not layer["category"].strip():
            raise _Fault("layers", f"layer {i} has no category; accepted: category and items")
        category: str = layer["category"]
        items: Any = layer.get("items")
        if not _is_list(items, str) or not all(map(str.strip, items)) or not 1 <= len(items) <= MOST_ITEMS:
            raise _Fault("layers", f"items of layer {i} are {items!r}; accepted: 1 to {MOST_ITEMS} names")
        if len(set(items)) < len(items):
            raise _Fault("layers", f"a name of layer {i} is there twice: {items!r}")
        if padded := [name for name in [category, *items] if name != name.strip()]:
            raise _Fault("layers", f"name {padded[0]!r} begins or ends with space")
        out.append((category, items))
    return out


def _kinds(layers: Layers, possessive: str) -> dict[str, str]:
    """Kind of every parameter that the layers make possible, by name. Raises _Fault on a name with two meanings."""
    kinds: dict[str, str] = {}
    for i, (_, items) in enumerate(layers):
        things = [(child, "instance") for _, below in layers[i + 1 : i + 2] for child in below]
        things += [(category, "abstract") for category, _ in layers[i + 1 :]]
        for name, kind in ((f"{item}{possessive} {thing}", kind) for item in items for thing, kind in things):
            if name in kinds:
                raise _Fault("layers", f"{name!r} could be two parameters; accepted: names that tell them apart")
            kinds[name] = kind
    return kinds


def abstract_terms(layers: Layers, exists: Collection[str], possessive: str) -> dict[str, list[list[str]]]:
    """Terms of every abstract parameter, from the layers and the names of the instance parameters that exist."""
    out = {}
    for i, (_, items) in enumerate(layers):
        for k, (category, _) in enumerate(layers[i + 1 :]):
            for item in items:
                below = [c for c in layers[i + 1][1] if f"{item}{possessive} {c}" in exists]
                terms = [[f"{item}{possessive} {c}"] + [f"{c}{possessive} {category}"] * (k > 0) for c in below]
                out[f"{item}{possessive} {category}"] = terms
    return out


def _parameters(record: dict, possible: dict[str, str], modulus: int, missing: str | None) -> dict[str, dict]:
    """The parameters by name, each checked by itself."""
    listed = _field(record, "parameters")
    if not _is_list(listed, dict) or not all(isinstance(p.get("name"), str) for p in listed):
        raise _Fault("parameters", "accepted: a list of objects with a name")
    parameters: dict[str, dict] = {}
    for p in listed:
        name = p["name"]
        if name in parameters:
            raise _Fault("name", "there twice", name)
        parameters[name] = p
        if name not in possible:
            raise _Fault("name", "no parameter that the layers make possible", name)
        for key in PARAMETER_KEYS if not p.keys() >= _KEYS else ():
            _field(p, key, name)
        if p["kind"] != possible[name]:
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
    name, terms, has_constant = p["name"], p["terms"], p["constant"] is not None
    if not _is_list(terms, list) or len(terms) > MOST_OPERANDS:
        raise _Fault("terms", f"{terms!r}; accepted: a list of up to {MOST_OPERANDS} lists of names", name)
    for factor in factors(p):
        if not isinstance(factor, str) or factor not in parameters:
            raise _Fault("terms", f"{factor!r} is no parameter of the record", name)
    if any(not 1 <= len(term) <= (2 if p["kind"] == "abstract" else 1) for term in terms):
        raise _Fault("terms", f"{terms!r} has a product of the wrong length", name)
    if has_constant:
        _whole(p, "constant", 0, modulus - 1, name)
    _one_of("combine_constant", p["combine_constant"], ("add", "mul") if has_constant and terms else (None,), name)
    ways = _WAYS[len(terms)]
    if p["kind"] == "abstract":
        ways = ways[:1]
        _equal("constant", p["constant"], None, name)
    elif not p.get("given", True):
        _equal("terms", (terms, p["constant"]), ([], None), name)
    elif not 1 <= len(terms) + has_constant <= MOST_OPERANDS:
        raise _Fault("terms", f"a sentence of no operand, or of more than {MOST_OPERANDS}", name)
    _one_of("combine", p["combine"], ways, name)


def factors(p: dict) -> list[str]:
    """Names that a parameter depends on directly."""
    return [name for term in p["terms"] for name in term]


def operations(p: dict) -> int:
    """Operations of a parameter's step: one less than its operands and factors, at least one."""
    return max(1, len(factors(p)) + (p["constant"] is not None) - 1)


def ancestors(parameters: dict[str, dict], query: str) -> set[str]:
    """The query and everything it depends on."""
    found, stack = set(), [query]
    while stack:
        if (name := stack.pop()) not in found:
            found.add(name)
            stack += factors(parameters[name])
    return found


def _values(parameters: dict[str, dict], modulus: int) -> dict[str, int | None]:
    """Value of every parameter by name; None where it rests on a missing premise. Raises _Fault on a circle."""
    value: dict[str, Any] = {}
    open_names: set[str] = set()  # those on the way from the parameter at hand

    def visit(name: str) -> Any:
        if name in open_names:
            raise _Fault("terms", "it depends on itself", name)
        open_names.add(name)
        p = parameters[name]
        products = []
        for term in p["terms"]:
            found = [value[factor] if factor in value else visit(factor) for factor in term]
            products.append(None if None in found else math.prod(found))
        total = None
        if p.get("given", True) and None not in products:
            total = products[0] - products[1] if p["combine"] == "difference" else sum(products)
            if p["constant"] is not None:
                total = p["constant"] * total if p["combine_constant"] == "mul" else p["constant"] + total
            total %= modulus
        open_names.discard(name)
        value[name] = total
        return total

    for name in parameters:
        if name not in value:
            visit(name)
    return value


def _check_needed(record: dict, parameters: dict[str, dict], query: str) -> None:
    needed = {name for name in ancestors(parameters, query) if parameters[name]["value"] is not None}
    for name, p in parameters.items():
        if p["needed"] is not (name in needed):
            _equal("needed", p["needed"], name in needed, name)
    order = _field(record, "needed_order")
    if not _is_list(order, str):
        raise _Fault("needed_order", f"{order!r}; accepted: a list of names")
    if sorted(order) != sorted(needed):
        wrong = sorted(set(order) ^ needed) or sorted(n for n in order if order.count(n) > 1)
        raise _Fault("needed_order", "not each needed parameter once", wrong[0])
    before: set[str] = set()
    for name in order:
        if late := [f for f in factors(parameters[name]) if f not in before]:
            raise _Fault("needed_order", f"comes before {late[0]!r}, which it depends on", name)
        before.add(name)
    if query in needed and order[-1] != query:
        raise _Fault("needed_order", "the last is not the query", order[-1])
