"""Problems as JSON records, written and read.

from_record(to_record(problem, world, "pq") | {"id": "x"})        the same problem, checked on the way
"""

import json
from collections.abc import Sequence
from functools import lru_cache

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


def as_text(record: dict) -> str:
    """A record as one line of JSON, for tables whose columns have one type."""
    return json.dumps(record, ensure_ascii=False)


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
    check_record(record, world)
    return read_record(record, world or world_of(record))


def check_record(record: dict, world: World | None = None) -> None:
    """Raises the ValueError of `from_record`."""
    if not isinstance(record, dict):
        refuse(record, f"{type(record).__name__}; accepted: an object")
    possessive = world.possessive if world else vocab.read(_language(record)).get("possessive", vocab.POSSESSIVE)
    validate_record.check_record(record, possessive)


def read_record(record: dict, world: World) -> Problems:
    """The arrays of a record as it stands: values, needed parameters and counts are taken, not checked. Raises
    ValueError naming the first field that is missing or cannot be read."""
    try:
        return read_records([record], world)
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError, ValueError) as error:
        refuse(record, f"bad or missing field {error}")


@lru_cache(maxsize=64)
def _name_tokens(world: World) -> dict[str, int]:
    return {text.strip(): i for i, text in enumerate(world.vocabulary) if i >= world.first_name}


def _slots(layers: list[dict], possessive: str) -> dict[str, int]:
    """The slot of each parameter that the layers make possible, by name."""
    slots = {}
    for i, layer in enumerate(layers):
        for j, item in enumerate(layer["items"]):
            for k, child in enumerate(layers[i + 1]["items"] if i + 1 < len(layers) else ()):
                slots[f"{item}{possessive} {child}"] = i * 16 + j * 4 + k
            for k in range(i + 1, len(layers)):
                slots[f"{item}{possessive} {layers[k]['category']}"] = INSTANCES + int(A.PAIR[i, k]) * 4 + j
    return slots


def read_records(records: Sequence[dict], world: World) -> Problems:
    """The problems of several records that are known to be consistent (`check_record`)."""
    p, tokens = A.empty(len(records)), _name_tokens(world)
    for a in (p.widths, p.exists, p.n_terms, p.constant_op, p.combine, p.needed):
        a[:] = 0
    cells: list[tuple] = []  # row, slot and what the arrays of slots hold
    factors: list[tuple] = []  # row, slot, term, factor, slot of the factor
    for i, record in enumerate(records):
        layers = record["layers"]
        p.widths[i, : len(layers)] = [len(layer["items"]) for layer in layers]
        p.categories[i, : len(layers)] = [tokens[layer["category"]] for layer in layers]
        p.items[i, : 4 * len(layers)] = [
            tokens[item] if item is not None else -1
            for layer in layers
            for item in (*layer["items"], *[None] * (4 - len(layer["items"])))
        ]
        slots, missing = _slots(layers, world.possessive), record.get("missing")
        sentences = []
        for q in record["parameters"]:
            s, terms, value, constant = slots[q["name"]], q["terms"], q["value"], q["constant"]
            if q["kind"] == "instance" and q.get("given", True):
                sentences.append(s)
            cells.append((
                i, s, 1, int(q["needed"]), -1 if value is None else value, -1 if constant is None else constant,
                CONSTANT_OPS.index(q["combine_constant"]), COMBINES.index(q["combine"]), len(terms),
            ))  # fmt: skip
            factors += [(i, s, t, f, slots[name]) for t, term in enumerate(terms) for f, name in enumerate(term)]
        absent = -1 if missing is None else slots[missing]
        topo = [slots[name] for name in record["needed_order"]]
        p.sentences[i, : len(sentences)] = sentences
        p.topo[i, : len(topo)] = topo
        ops, edges, split_bin = record["ops"], record["edges"], record["split_bin"]
        p.scalars[i] = [len(layers), slots[record["query"]], ops, len(sentences), len(topo), edges, split_bin, absent]
    if cells:
        row, slot, *columns = np.array(cells, dtype=np.int32).T
        for a, column in zip(
            (p.exists, p.needed, p.value, p.constant, p.constant_op, p.combine, p.n_terms), columns, strict=True
        ):
            a[row, slot] = column
    if factors:
        *place, of = np.array(factors, dtype=np.int32).T
        p.terms[tuple(place)] = of
    gone = np.flatnonzero(p.scalars[:, A.MISSING] >= 0)
    slot = p.scalars[gone, A.MISSING]
    p.n_terms[gone, slot], p.terms[gone, slot, 0, 0] = 1, slot
    return p
