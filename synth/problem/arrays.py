"""The truth: a problem as small integer arrays over 72 fixed parameter slots.

A structure graph has at most 4 layers of at most 4 items. Instance parameter (i, j, k), "how many of item k of layer
i+1 each item j of layer i has", is slot i*16 + j*4 + k (48 of them); abstract parameter (i, j; K), the total number of
layer-K things in item j of layer i, is slot 48 + pair(i, K)*4 + j (24 of them). Slots make every array rectangular, so
kernels, checker, oracle and labels share one layout; nothing ever re-parses English to know the truth.

value = constant (add or multiply) combine(product of each term), mod `modulus`; no terms and a constant: the constant;
neither: 0. Source of the construction: Part 2.1 (2407.20311), section 2 and appendix.

A problem with a missing premise (2504.06514) lacks the sentence of one instance parameter, MISSING. What is not given
depends on itself, so nothing finds it or what rests on it ready; their values are -1, and `needed` is what can still be
derived of the query's ancestors.
"""

from typing import NamedTuple

import numpy as np

from synth.kernel.jit import jit
from synth.problem import validate_record
from synth.world import vocabulary as worlds
from synth.world.vocabulary import World

DEPTH, WIDTH = 4, 4
INSTANCES, SLOTS, MAX_TERMS = 48, 72, 4
ADD, MULTIPLY = 1, 2  # constant_op
SUM, DIFFERENCE = 1, 2  # combine

_PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
PAIR = np.full((DEPTH, DEPTH), -1, dtype=np.int64)  # (layer, target layer) -> which group of four abstract slots
for _n, (_i, _k) in enumerate(_PAIRS):
    PAIR[_i, _k] = _n
LAYER = np.array([s // 16 for s in range(INSTANCES)] + [i for i, _ in _PAIRS for _ in range(WIDTH)])
OWNER = np.array([s // 4 % 4 for s in range(INSTANCES)] + [j for _ in _PAIRS for j in range(WIDTH)])
CHILD = np.array([s % 4 for s in range(INSTANCES)] + [-1] * (SLOTS - INSTANCES))  # instance: k
TARGET = np.array([-1] * INSTANCES + [k for _, k in _PAIRS for _ in range(WIDTH)])  # abstract: K

# columns of `scalars`
DEPTH_, QUERY, OPS, N_SENTENCES, N_NEEDED, EDGES, SPLIT_BIN, MISSING = range(8)


class Problems(NamedTuple):
    """N problems; `take(i)` is a view of one (N = 1). All int32 unless said; -1 means none."""

    scalars: np.ndarray  # [N, 8] depth, query slot, ops, sentences, needed parameters, edges, split bin, missing
    widths: np.ndarray  # [N, 4] items in each layer
    items: np.ndarray  # [N, 16] name token of item (layer, j) at layer*4 + j
    categories: np.ndarray  # [N, 4] name token of each layer's category
    exists: np.ndarray  # [N, 72] instance: the edge exists; abstract: the structure graph has it
    constant: np.ndarray  # [N, 72] the number in the sentence
    constant_op: np.ndarray  # [N, 72] 0 none or constant alone, ADD, MULTIPLY
    combine: np.ndarray  # [N, 72] 0 fewer than two terms, SUM, DIFFERENCE
    n_terms: np.ndarray  # [N, 72]
    terms: np.ndarray  # [N, 72, 4, 2] slots of each term's one or two factors
    value: np.ndarray  # [N, 72]
    needed: np.ndarray  # [N, 72] 1 for the query and its ancestors
    sentences: np.ndarray  # [N, 48] instance slots in the order of their sentences
    topo: np.ndarray  # [N, 72] needed slots in the order of construction, query last

    def take(self, i: int) -> "Problems":
        """View of problem i as a batch of one."""
        return Problems(*(a[i : i + 1] for a in self))

    @property
    def query(self) -> np.ndarray:
        """Slot of the queried parameter, [N]."""
        return self.scalars[:, QUERY]

    @property
    def ops(self) -> np.ndarray:
        """Number of operations of the shortest solution, [N]."""
        return self.scalars[:, OPS]

    @property
    def answer(self) -> np.ndarray:
        """Value of the query, [N]."""
        return self.value[np.arange(len(self.value)), self.query]

    def slot_names(self) -> np.ndarray:
        """Name tokens (owner, thing) of every slot, int32[N, 72, 2]; meaningful where `exists`."""
        owner = self.items[:, LAYER * 4 + OWNER]
        child = self.items[:, np.clip((LAYER + 1) * 4 + CHILD, 0, 15)]
        thing = np.where(TARGET < 0, child, self.categories[:, TARGET])
        return np.stack([owner, thing], axis=-1)


def empty(n: int) -> Problems:
    """Arrays for n problems, filled with -1."""

    def array(*shape: int) -> np.ndarray:
        return np.full((n, *shape), -1, dtype=np.int32)

    return Problems(
        array(8), array(4), array(16), array(4), *(array(SLOTS) for _ in range(5)), array(SLOTS, MAX_TERMS, 2),
        array(SLOTS), array(SLOTS), array(INSTANCES), array(SLOTS),
    )  # fmt: skip


def concatenate(parts: list[Problems]) -> Problems:
    """One batch of several."""
    return Problems(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@jit
def one(p, i):
    """Problem i as a batch of one, for kernels: `Problems.take`."""
    return Problems(
        p.scalars[i : i + 1], p.widths[i : i + 1], p.items[i : i + 1], p.categories[i : i + 1], p.exists[i : i + 1],
        p.constant[i : i + 1], p.constant_op[i : i + 1], p.combine[i : i + 1], p.n_terms[i : i + 1], p.terms[i : i + 1],
        p.value[i : i + 1], p.needed[i : i + 1], p.sentences[i : i + 1], p.topo[i : i + 1],
    )  # fmt: skip


@jit
def ready(n_terms, terms, known, a):
    """Whether every direct dependency of a is known (arrays of one problem)."""
    for t in range(n_terms[a]):
        if not known[terms[a, t, 0]]:
            return False
        if terms[a, t, 1] >= 0 and not known[terms[a, t, 1]]:
            return False
    return True


def dependencies(problem: Problems, slot: int) -> list[int]:
    """Direct dependencies of a slot in a batch of one, in the order of its expression."""
    n = max(int(problem.n_terms[0, slot]), 0)
    return [int(s) for s in problem.terms[0, slot, :n].ravel() if s >= 0]


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
                "combine_constant": (None, "add", "mul")[problem.constant_op[0, s]],
                "combine": (None, "sum", "difference")[problem.combine[0, s]],
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
    """The world that a record can be read in: the one its key `world` names (default english), or `language`.

    Where that world lacks a name of the record, it is a world of the record's own names: the same phrases, an empty
    pool. Raises ValueError when there is no such world, or a name cannot be read back from a text.
    """
    name = language or _language(record)
    whole = worlds.load(name, _modulus(record), **worlds.offered(name), letters=104)
    try:
        layers = [(layer["category"], layer["items"]) for layer in record["layers"]]
        if all(whole.is_name(text) for category, items in layers for text in [category, *items]):
            return whole
        return worlds.of_layers(name, whole.modulus, layers)
    except (KeyError, TypeError) as error:
        validate_record.refuse(record, f"bad or missing field {error}")
    except ValueError as error:
        validate_record.refuse(record, f"bad or missing field 'layers': {error}")


def _language(record: dict) -> str:
    name = record.get("world", "english")
    try:
        if not isinstance(name, str):
            raise ValueError(f"world={name!r}; accepted: the name of a world")
        worlds.read(name)
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
    the layers and the sentences (`synth.problem.validate_record`).
    """
    if not isinstance(record, dict):
        raise ValueError(f"record ?: {type(record).__name__}; accepted: an object")
    possessive = world.possessive if world else worlds.read(_language(record)).get("possessive", worlds.POSSESSIVE)
    validate_record.check_record(record, possessive)
    return read_record(record, world or world_of(record))


def read_record(record: dict, world: World) -> Problems:
    """The arrays of a record as it stands: values, needed parameters and counts are taken, not checked.

    Raises ValueError naming the first field that is missing or cannot be read.
    """
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
    names = p.slot_names()[0]
    depth = len(layers)
    slots = {}
    for s in range(SLOTS):
        inside = LAYER[s] < depth and OWNER[s] < p.widths[0, LAYER[s]]
        inside = inside and (
            TARGET[s] < depth if s >= INSTANCES else LAYER[s] + 1 < depth and CHILD[s] < p.widths[0, LAYER[s] + 1]
        )
        if inside:
            slots[world.name_of(*names[s])] = s
    for a in (p.exists, p.n_terms, p.constant_op, p.combine, p.needed):
        a[0] = 0
    for parameter in record["parameters"]:
        s = slots[parameter["name"]]
        p.exists[0, s] = 1
        p.value[0, s] = -1 if parameter["value"] is None else parameter["value"]
        p.needed[0, s] = int(parameter["needed"])
        p.constant[0, s] = -1 if parameter["constant"] is None else parameter["constant"]
        p.constant_op[0, s] = (None, "add", "mul").index(parameter["combine_constant"])
        p.combine[0, s] = (None, "sum", "difference").index(parameter["combine"])
        p.n_terms[0, s] = len(parameter["terms"])
        for t, term in enumerate(parameter["terms"]):
            p.terms[0, s, t, : len(term)] = [slots[name] for name in term]
    missing = _missing_slot(record, slots)
    if missing >= 0:
        p.n_terms[0, missing], p.terms[0, missing, 0, 0] = 1, missing
    sentences = [slots[q["name"]] for q in record["parameters"] if q["kind"] == "instance" and q.get("given", True)]
    topo = [slots[name] for name in record["needed_order"]]
    p.sentences[0, : len(sentences)] = sentences
    p.topo[0, : len(topo)] = topo
    p.scalars[0] = [
        depth, slots[record["query"]], record["ops"], len(sentences), len(topo), record["edges"], record["split_bin"],
        missing,
    ]  # fmt: skip
    return p


def _missing_slot(record: dict, slots: dict[str, int]) -> int:
    """Slot of the parameter that is not given, or -1; the record must say so alike in all places."""
    values = [q["name"] for q in record["parameters"] if q["value"] is None]
    absent = [q for q in record["parameters"] if not q.get("given", True)]
    name = record.get("missing")
    if name is None:
        if values or absent:
            raise ValueError(f"'missing' (null, but {(values or [absent[0]['name']])[0]} has no value or is not given)")
        return -1
    if [q["name"] for q in absent] != [name] or absent[0]["kind"] != "instance":
        raise ValueError(f"'missing' ({name}, which is not the one instance parameter with given = false)")
    if name not in values or record["query"] not in values or absent[0]["terms"] or absent[0]["constant"] is not None:
        raise ValueError(f"'missing' ({name} or what rests on it has a value or an expression)")
    return slots[name]
