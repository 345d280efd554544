"""Problems as JSON records, written and read.

from_record(to_record(problem, world, "pq") | {"id": "x"})        the same problem, checked on the way
"""

import numpy as np

from synth.problem import arrays as A
from synth.problem import validate_record
from synth.problem.arrays import INSTANCES, SLOTS, Problems
from synth.problem.validate_record import refuse
from synth.world import vocabulary as vocab
from synth.world.vocabulary import World

CONSTANT_OPS, COMBINES = (None, "add", "mul"), (None, "sum", "difference")  # by the numbers of `synth.problem.arrays`


def to_record(problem: Problems, world: World, order: str) -> dict:
    """The JSON record of a batch of one, without the texts, the id and the mistakes."""
    names, scalars = problem.slot_names()[0], problem.scalars[0].tolist()
    text = {s: world.name_of(*names[s]) for s in range(SLOTS) if problem.exists[0, s]}
    missing = scalars[A.MISSING]

    def name(token: int) -> str:
        return world.vocabulary[token].strip()

    def number(value: int) -> int | None:
        return int(value) if value >= 0 else None

    def parameter(s: int) -> dict:
        terms = problem.terms[0, s, : 0 if s == missing else problem.n_terms[0, s]].tolist()
        return {
            "name": text[s],
            "kind": "instance" if s < INSTANCES else "abstract",
            "value": number(problem.value[0, s]),
            "needed": bool(problem.needed[0, s]),
            "constant": number(problem.constant[0, s]),
            "combine_constant": CONSTANT_OPS[problem.constant_op[0, s]],
            "combine": COMBINES[problem.combine[0, s]],
            "terms": [[text[f] for f in term if f >= 0] for term in terms],
        } | ({"given": False} if s == missing else {})

    widths, items, sentences = problem.widths[0], problem.items[0], problem.sentences[0, : scalars[A.N_SENTENCES]]
    layers = [
        {"category": name(problem.categories[0, i]), "items": [name(t) for t in items[i * 4 : i * 4 + widths[i]]]}
        for i in range(scalars[A.DEPTH_])
    ]
    others = [s for s in range(SLOTS) if s == missing or (s >= INSTANCES and s in text)]
    return {
        "answer": number(problem.answer[0]),
        "ops": scalars[A.OPS],
        "edges": scalars[A.EDGES],
        "modulus": world.modulus,
        "split_bin": scalars[A.SPLIT_BIN],
        "order": order,
        "query": text[scalars[A.QUERY]],
        "needed_order": [text[s] for s in problem.topo[0, : scalars[A.N_NEEDED]].tolist()],
        "layers": layers,
        "parameters": [parameter(s) for s in [*sentences.tolist(), *others]],
        "missing": text.get(missing),
    }


def world_of(record: dict, language: str | None = None) -> World:
    """The world that a record can be read in: the one its key `world` names (default english), or `language`.

    Where that world lacks a name of the record, it is a world of the record's own names: the same phrases, an empty
    pool. Raises ValueError when there is no such world, or a name cannot be read back from a text.
    """
    name, modulus, (low, high) = language or _language(record), record.get("modulus"), validate_record.MODULUS
    if type(modulus) is not int or not low <= modulus <= high:
        refuse(record, f"bad or missing field 'modulus': {modulus!r}; accepted: {low} to {high}")
    whole = vocab.load(name, modulus, **vocab.sizes_of(name), letters=104)
    try:
        layers = [(layer["category"], layer["items"]) for layer in record["layers"]]
        if all(whole.is_name(text) for category, items in layers for text in [category, *items]):
            return whole
        return vocab.of_layers(name, whole.modulus, layers)
    except (KeyError, TypeError) as error:
        refuse(record, f"bad or missing field {error}")
    except ValueError as error:
        refuse(record, f"bad or missing field 'layers': {error}")


def _language(record: dict) -> str:
    name = record.get("world", "english")
    try:
        if not isinstance(name, str):
            raise ValueError(f"world={name!r}; accepted: the name of a world")
        vocab.read(name)
    except ValueError as error:
        refuse(record, f"bad or missing field 'world': {error}")
    return name


def from_record(record: dict, world: World | None = None) -> Problems:
    """The problem of a JSON record, as a batch of one; the inverse of `to_record`. Without a world: `world_of(record)`.

    Raises ValueError naming the record, field and parameter of the first thing that is missing or does not follow from
    the layers and the sentences (`synth.problem.validate_record`).
    """
    if not isinstance(record, dict):
        refuse(record, f"{type(record).__name__}; accepted: an object")
    possessive = world.possessive if world else vocab.read(_language(record)).get("possessive", vocab.POSSESSIVE)
    validate_record.check_record(record, possessive)
    return read_record(record, world or world_of(record))


def read_record(record: dict, world: World) -> Problems:
    """The arrays of a record as it stands: values, needed parameters and counts are taken, not checked. Raises
    ValueError naming the first field that is missing or cannot be read."""
    try:
        return _read(record, world)
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError, ValueError) as error:
        refuse(record, f"bad or missing field {error}")


def _read(record: dict, world: World) -> Problems:
    p = A.empty(1)
    tokens = {text.strip(): i for i, text in enumerate(world.vocabulary) if i >= world.first_name}
    layers = record["layers"]
    p.widths[0] = 0
    for i, layer in enumerate(layers):
        p.widths[0, i] = len(layer["items"])
        p.categories[0, i] = tokens[layer["category"]]
        p.items[0, i * 4 : i * 4 + len(layer["items"])] = [tokens[item] for item in layer["items"]]
    p.scalars[0, A.DEPTH_] = len(layers)
    names = p.slot_names()[0]
    slots = {world.name_of(*names[s]): int(s) for s in np.flatnonzero(p.possible()[0])}
    for a in (p.exists, p.n_terms, p.constant_op, p.combine, p.needed):
        a[0] = 0
    for parameter in record["parameters"]:
        s = slots[parameter["name"]]
        p.exists[0, s], p.needed[0, s] = 1, int(parameter["needed"])
        p.value[0, s] = -1 if parameter["value"] is None else parameter["value"]
        p.constant[0, s] = -1 if parameter["constant"] is None else parameter["constant"]
        p.constant_op[0, s] = CONSTANT_OPS.index(parameter["combine_constant"])
        p.combine[0, s] = COMBINES.index(parameter["combine"])
        p.n_terms[0, s] = len(parameter["terms"])
        for t, term in enumerate(parameter["terms"]):
            p.terms[0, s, t, : len(term)] = [slots[name] for name in term]
    missing = -1 if record.get("missing") is None else slots[record["missing"]]
    if missing >= 0:
        p.n_terms[0, missing], p.terms[0, missing, 0, 0] = 1, missing
    sentences = [slots[q["name"]] for q in record["parameters"] if q["kind"] == "instance" and q.get("given", True)]
    topo = [slots[name] for name in record["needed_order"]]
    p.sentences[0, : len(sentences)] = sentences
    p.topo[0, : len(topo)] = topo
    ops, edges, split_bin = record["ops"], record["edges"], record["split_bin"]
    p.scalars[0] = [len(layers), slots[record["query"]], ops, len(sentences), len(topo), edges, split_bin, missing]
    return p
