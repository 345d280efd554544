"""Records of many problems at once, column by column: what JSON lines and parquet are written from.

All that a record says is looked up for a whole chunk of documents by numpy; Python handles one string for each name and
each text. `synth.problem.records.to_record` is the definition, one problem at a time.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from synth.contexts.context_tokens import render
from synth.contexts.privileged import recipes
from synth.dataset import Source
from synth.documents import CONTEXT_SEGMENT, SOLUTION_SEGMENT, Documents
from synth.problem import arrays as A
from synth.problem.arrays import INSTANCES, MAX_TERMS, SLOTS, WIDTH
from synth.spec import Spec
from synth.store.files import sha256
from synth.world.vocabulary import BACK, SPECIALS, World, path_of


class Columns(NamedTuple):
    """N records. A ragged column is flat; how many of its entries belong to each record stands in another."""

    ids: list[str]
    problem: list[str]
    solution: list[str]
    names: np.ndarray  # object[E] name of every parameter there is
    place: np.ndarray  # int[N, 72] where in `names` that of a slot stands
    words: np.ndarray  # object[V] tokens of the world without their space
    layers: np.ndarray  # int[N] how many
    categories: np.ndarray  # int[L] token of each layer
    widths: np.ndarray  # int[L] how many items it has
    items: np.ndarray  # int[I] their tokens
    needed: np.ndarray  # int[N] how many parameters are needed
    needed_order: np.ndarray  # int[K] places of their names
    parameters: np.ndarray  # int[N] how many
    row: np.ndarray  # int[P] problem of each parameter
    slot: np.ndarray  # int[P] its slot
    absent: np.ndarray  # bool[P] whether its sentence is missing
    factors: np.ndarray  # int[P, 8] places of the names in its terms, two for each term, -1 none
    mistakes: list[list[tuple[int, int, bool]]]  # step, place of the name, whether it is taken back
    context: list[str] | None
    recipes: list[str] | None


def spec_hash(spec: Spec) -> str:
    """Ten hex digits that name a spec; a world file counts with what is in it, wherever it lies."""
    settings = dataclasses.asdict(spec)
    if spec.world.endswith(".json"):
        settings["world"] = sha256(path_of(spec.world))
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=5).hexdigest()


def cut(flat: list, counts: np.ndarray) -> list[list]:
    """A flat column in parts of `counts` entries."""
    return [flat[a:b] for a, b in pairwise([0, *np.cumsum(counts).tolist()])]


def columns(source: Source, documents: Documents, first: int, spell: Callable[[str], str] = str) -> Columns:
    """The records of documents that follow each other in a stream from index `first` on. spell: how a text is written,
    character by character (JSON has its escapes)."""
    p, world, spec = documents.problems, source.world, source.spec
    words, pieces = _spelled(world, spell)
    owner, thing = p.slot_names()[p.exists > 0].T
    names = (words + spell(f"{world.possessive} "))[owner] + words[thing]
    place = np.cumsum(p.exists > 0).reshape(p.exists.shape) - 1
    counts, row, slot = _parameters(p)
    absent = slot == p.scalars[row, A.MISSING]
    terms, n_terms = p.terms[row, slot], np.where(absent, 0, p.n_terms[row, slot])
    there = (terms >= 0) & (np.arange(MAX_TERMS)[:, None] < n_terms[:, None, None])
    depth, needed = p.scalars[:, A.DEPTH_], p.scalars[:, A.N_NEEDED]
    widths = _head(p.widths, depth)
    indices = range(first, first + len(documents))
    head = f"{spec_hash(spec)}-{source.seed}-{source.stream}-{source.split}"
    inside = np.arange(len(documents.tokens)) - np.repeat(documents.offsets[:-1], np.diff(documents.offsets))
    prompt = inside < np.repeat(documents.prompt, np.diff(documents.offsets))
    told = documents.segment == CONTEXT_SEGMENT
    contexts = [documents.tokens[a:b][told[a:b]] for a, b in pairwise(documents.offsets)] if spec.contexts else ()
    return Columns(
        ids=[spell(f"{head}-{index}") for index in indices],
        problem=_texts(pieces, world, documents, prompt & ~told),
        solution=_texts(pieces, world, documents, documents.segment == SOLUTION_SEGMENT),
        names=names, place=place, words=words,
        layers=depth, categories=_head(p.categories, depth), widths=widths,
        items=_head(_head(p.items.reshape(len(p.items), -1, WIDTH), depth), widths),
        needed=needed, needed_order=_head(np.take_along_axis(place, np.maximum(p.topo, 0), axis=1), needed),
        parameters=counts, row=row, slot=slot, absent=absent,
        factors=np.where(there, place[row[:, None, None], terms], -1).reshape(len(row), 2 * MAX_TERMS),
        mistakes=_mistakes(documents, place, int(world.phrases[BACK])),
        context=[spell(render(world, tokens)) for tokens in contexts] if spec.contexts else None,
        recipes=recipes(source, indices) if spec.contexts else None,
    )  # fmt: skip


def _head(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first counts[i] entries of each row, end to end."""
    return values[np.arange(values.shape[1]) < counts[:, None]]


def _parameters(p: A.Problems) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many parameters each record has, and the problem and slot of each: first those of the sentences in their
    order, then by slot what has none (a missing premise, sums)."""
    n, missing = len(p.value), p.scalars[:, A.MISSING]
    slots = np.concatenate([p.sentences, np.tile(np.arange(SLOTS), (n, 1))], axis=1)
    listed = np.concatenate([np.arange(INSTANCES) < p.scalars[:, A.N_SENTENCES, None], p.exists > 0], axis=1)
    listed[:, INSTANCES : 2 * INSTANCES] = np.arange(INSTANCES) == missing[:, None]
    return listed.sum(axis=1), np.nonzero(listed)[0], slots[listed]


@lru_cache(maxsize=8)
def _spelled(world: World, spell: Callable[[str], str]) -> tuple[np.ndarray, np.ndarray]:
    """Every token of a world as a word object[V], and as a piece of a text object[2V]: alone, then behind a name."""
    texts = [spell(text) for text in world.vocabulary]
    alone = [""] * len(SPECIALS) + texts[len(SPECIALS) :]
    pieces = [*alone, *(spell(world.possessive) + text for text in alone)]
    return np.array([text.strip() for text in texts], dtype=object), np.array(pieces, dtype=object)


def _texts(pieces: np.ndarray, world: World, documents: Documents, wanted: np.ndarray) -> list[str]:
    """`world.decode` of the wanted tokens of each document, whose parts begin with a special token."""
    is_name = documents.tokens >= world.first_name
    joined = np.concatenate([[False], is_name[1:] & is_name[:-1]])
    flat = pieces[(documents.tokens + world.size * joined)[wanted]].tolist()
    return ["".join(part) for part in cut(flat, np.add.reduceat(wanted, documents.offsets[:-1], dtype=np.int64))]


def _mistakes(documents: Documents, place: np.ndarray, back: int) -> list[list[tuple[int, int, bool]]]:
    """The inserted mistakes of each record, in the order of their steps."""
    found: list[list[tuple[int, int, bool]]] = [[] for _ in range(len(documents))]
    at = np.flatnonzero(documents.mistake)
    rows, steps = np.searchsorted(documents.offsets, at, side="right") - 1, documents.step[at]
    new = np.flatnonzero(np.diff(rows, prepend=-1).astype(bool) | np.diff(steps, prepend=-1).astype(bool))
    if len(new):
        taken_back = np.logical_or.reduceat(documents.tokens[at] == back, new).tolist()
        rows, steps, slots = rows[new], steps[new].tolist(), documents.param[at[new]]
        for row, *entry in zip(rows.tolist(), steps, place[rows, slots].tolist(), taken_back, strict=True):
            found[row].append(tuple(entry))
    return found
