"""Problems as JSON records (design section 6), written and read.

from_record(to_record(problem, world, "pq") | {"id": "x"})        the same problem, checked on the way
"""

import numpy as np

from synth.problem import validate_record
from synth.problem.arrays import (
    DEPTH_,
    EDGES,
    INSTANCES,
    MISSING,
    N_NEEDED,
    N_SENTENCES,
    SLOTS,
    SPLIT_BIN,
    Problems,
    empty,
)
from synth.world import vocabulary as vocab
from synth.world.vocabulary import World

CONSTANT_OPS, COMBINES = (None, "add", "mul"), (None, "sum", "difference")  # by the numbers of `synth.problem.arrays`


def to_record(problem: Problems, world: World, order: str) -> dict:
    """The JSON record of design section 6 for a batch of one, without the texts, the id and the mistakes."""
    names = problem.slot_names()[0]
    text = {s: world.name_of(*names[s]) for s in range(SLOTS) if problem.exists[0, s]}
    depth, widths = int(problem.scalars[0, DEPTH_]), problem.widths[0]
    layers = [
        {
            "category": world.vocabulary[problem.categories[0, i]].strip(),
            "items": [world.vocabulary[problem.items[0, i * 4 + j]].strip() for j in range(widths[i])],
        }
        for i in range(depth)
    ]
    sentences = [int(s) for s in problem.sentences[0, : problem.scalars[0, N_SENTENCES]]]
    missing = int(problem.scalars[0, MISSING])
    parameters = []
    for s in [*sentences, *(s for s in range(SLOTS) if s == missing or (s >= INSTANCES and s in text))]:
        n = int(problem.n_terms[0, s]) if s != missing else 0
        parameters.append(
            {
                "name": text[s],
                "kind": "instance" if s < INSTANCES else "abstract",
                "value": v if (v := int(problem.value[0, s])) >= 0 else None,
                "needed": bool(problem.needed[0, s]),
                "constant": c if (c := int(problem.constant[0, s])) >= 0 else None,
                "combine_constant": CONSTANT_OPS[problem.constant_op[0, s]],
                "combine": COMBINES[problem.combine[0, s]],
                "terms": [[text[int(f)] for f in term if f >= 0] for term in problem.terms[0, s, :n]],
            }
            | ({"given": False} if s == missing else {})
        )
    return {
        "answer": a if (a := int(problem.answer[0])) >= 0 else None,
        "ops": int(problem.ops[0]),
        "edges": int(problem.scalars[0, EDGES]),
        "modulus": world.modulus,
        "split_bin": int(problem.scalars[0, SPLIT_BIN]),
        "order": order,
        "query": text[int(problem.query[0])],
        "needed_order": [text[int(s)] for s in problem.topo[0, : problem.scalars[0, N_NEEDED]]],
        "layers": layers,
        "parameters": parameters,
        "missing": text.get(missing),
    }


def world_of(record: dict, language: str | None = None) -> World:
    """The world that a record can be read in: the one its key `world` names (default english), or `language`. Where
    that world lacks a name of the record, it is a world of the record's own names: the same phrases, an empty pool.
    Raises ValueError when there is no such world, or a name cannot be read back from a text."""
    name = language or _language(record)
    whole = vocab.load(name, _modulus(record), **vocab.sizes_of(name), letters=104)
    try:
        layers = [(layer["category"], layer["items"]) for layer in record["layers"]]
        if all(whole.is_name(text) for category, items in layers for text in [category, *items]):
            return whole
        return vocab.of_layers(name, whole.modulus, layers)
    except (KeyError, TypeError) as error:
        validate_record.refuse(record, f"bad or missing field {error}")
    except ValueError as error:
        validate_record.refuse(record, f"bad or missing field 'layers': {error}")


def _language(record: dict) -> str:
    name = record.get("world", "english")
    try:
        if not isinstance(name, str):
            raise ValueError(f"world={name!r}; accepted: the name of a world")
        vocab.read(name)
    except ValueError as error:
        validate_record.refuse(record, f"bad or missing field 'world': {error}")
    return name


def _modulus(record: dict) -> int:
    low, high = validate_record.MODULUS
    modulus = record.get("modulus")
    if type(modulus) is not int or not low <= modulus <= high:
        validate_record.refuse(record, f"bad or missing field 'modulus': {modulus!r}; accepted: {low} to {high}")
    return modulus


def from_record(record: dict, world: World | None = None) -> Problems:
    """The problem of a JSON record, as a batch of one; the inverse of `to_record`. Without a world: `world_of(record)`.
    Raises ValueError naming the record, field and parameter of the first thing that is missing or does not follow from
    the layers and the sentences (`synth.problem.validate_record`)."""
    if not isinstance(record, dict):
        raise ValueError(f"record ?: {type(record).__name__}; accepted: an object")
    possessive = world.possessive if world else vocab.read(_language(record)).get("possessive", vocab.POSSESSIVE)
    validate_record.check_record(record, possessive)
    return read_record(record, world or world_of(record))


def read_record(record: dict, world: World) -> Problems:
    """The arrays of a record as it stands: values, needed parameters and counts are taken, not checked. Raises
    ValueError naming the first field that is missing or cannot be read."""
    try:
        return _from_record(record, world)
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError, ValueError) as error:
        validate_record.refuse(record, f"bad or missing field {error}")


def _from_record(record: dict, world: World) -> Problems:
    p = empty(1)
    tokens = {text.strip(): i for i, text in enumerate(world.vocabulary) if i >= world.first_name}
    layers = record["layers"]
    p.widths[0] = 0
    for i, layer in enumerate(layers):
        p.widths[0, i] = len(layer["items"])
        p.categories[0, i] = tokens[layer["category"]]
        p.items[0, i * 4 : i * 4 + len(layer["items"])] = [tokens[item] for item in layer["items"]]
    p.scalars[0, DEPTH_] = len(layers)
    names = p.slot_names()[0]
    slots = {world.name_of(*names[s]): int(s) for s in np.flatnonzero(p.possible()[0])}
    for a in (p.exists, p.n_terms, p.constant_op, p.combine, p.needed):
        a[0] = 0
    for parameter in record["parameters"]:
        s = slots[parameter["name"]]
        p.exists[0, s] = 1
        p.value[0, s] = -1 if parameter["value"] is None else parameter["value"]
        p.needed[0, s] = int(parameter["needed"])
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
    p.scalars[0] = [
        len(layers), slots[record["query"]], record["ops"], len(sentences), len(topo), record["edges"],
        record["split_bin"], missing,
    ]  # fmt: skip
    return p
