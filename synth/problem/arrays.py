"""The truth: a problem as small integer arrays over 72 fixed parameter slots.

A structure graph has at most 4 layers of at most 4 items. Instance parameter (i, j, k), "how many of item k of layer
i+1 each item j of layer i has", is slot i*16 + j*4 + k (48 of them); abstract parameter (i, j; K), the total number of
layer-K things in item j of layer i, is slot 48 + pair(i, K)*4 + j (24 of them). Slots make every array rectangular, so
kernels, checker, oracle and labels share one layout; nothing ever re-parses English to know the truth.

value = constant (add or multiply) combine(product of each term), mod `modulus`; no terms and a constant: the constant;
neither: 0. Source of the construction: Part 2.1 (2407.20311), section 2 and appendix.

A problem with a missing premise (2504.06514) lacks the sentence of one instance parameter, MISSING. Its only term is
itself, so neither it nor what rests on it is ever ready; their values are -1. `needed` then marks those ancestors of
the query that can still be computed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synth.kernel.jit import jit

Integers = Sequence[int] | np.ndarray  # indices or token ids, one axis

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

    def take(self, which: int | slice | Integers) -> "Problems":
        """The problems at some rows; a single row gives a batch of one (a view)."""
        rows = slice(which, which + 1) if isinstance(which, int | np.integer) else which
        return Problems(*(a[rows] for a in self))

    def repeat(self, times: int | np.ndarray) -> "Problems":
        """Every problem `times` times, one after the other."""
        return Problems(*(np.repeat(a, times, axis=0) for a in self))

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

    def possible(self) -> np.ndarray:
        """Whether the layers and their items make a parameter of each slot possible, bool[N, 72]."""
        depth, widths = self.scalars[:, DEPTH_, None], self.widths
        child = (depth > LAYER + 1) & (widths[:, np.minimum(LAYER + 1, DEPTH - 1)] > CHILD)
        return (depth > LAYER) & (widths[:, LAYER] > OWNER) & np.where(TARGET < 0, child, depth > TARGET)

    def slot_names(self) -> np.ndarray:
        """Name tokens (owner, thing) of every slot, int32[N, 72, 2]; meaningful where `exists`."""
        owner = self.items[:, LAYER * 4 + OWNER]
        child = self.items[:, np.clip((LAYER + 1) * 4 + CHILD, 0, 15)]
        thing = np.where(TARGET < 0, child, self.categories[:, TARGET])
        return np.stack([owner, thing], axis=-1)


def empty(n: int) -> Problems:
    """Arrays for n problems, filled with -1."""
    of_slots = [(SLOTS,)] * 5
    shapes = [(8,), (4,), (16,), (4,), *of_slots, (SLOTS, MAX_TERMS, 2), (SLOTS,), (SLOTS,), (INSTANCES,), (SLOTS,)]
    return Problems(*(np.full((n, *shape), -1, dtype=np.int32) for shape in shapes))


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
def ready(n_terms, terms, done, a):
    """Whether every direct dependency of slot a is done (arrays of one problem)."""
    for t in range(n_terms[a]):
        if not done[terms[a, t, 0]]:
            return False
        if terms[a, t, 1] >= 0 and not done[terms[a, t, 1]]:
            return False
    return True


def dependencies(problem: Problems, slot: int) -> list[int]:
    """Direct dependencies of a slot in a batch of one, in the order of its expression."""
    n = max(int(problem.n_terms[0, slot]), 0)
    return [int(s) for s in problem.terms[0, slot, :n].ravel() if s >= 0]


@jit
def name_tokens(p, x):
    """(owner, thing) name tokens of slot x."""
    owner = p.items[0, LAYER[x] * 4 + OWNER[x]]
    if x < INSTANCES:
        return owner, p.items[0, (LAYER[x] + 1) * 4 + CHILD[x]]
    return owner, p.categories[0, TARGET[x]]
