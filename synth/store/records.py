"""Documents of a stream as JSON records: the problem, both texts, and the inserted mistakes.

`lines` writes many at once, each equal to `json.dumps` of its record; the dictionary of a record is its line, read.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from json.encoder import encode_basestring as quoted

import numpy as np

from synth.dataset import Source
from synth.documents import Documents
from synth.problem import arrays as A
from synth.problem.arrays import INSTANCES, Problems
from synth.problem.records import COMBINES, CONSTANT_OPS
from synth.store.columns import Columns, columns, cut

CHUNK = 500  # documents made at a time
BETWEEN = '", "'


def escaped(text: str) -> str:
    """A text as it stands between the quotation marks of JSON."""
    return quoted(text)[1:-1]


def lines(source: Source, documents: Documents, first: int) -> list[str]:
    """The JSON of documents that follow each other in a stream from index `first` on, without the ends of lines."""
    c = columns(source, documents, first, escaped)
    p, at, modulus, order = documents.problems, np.arange(len(documents)), source.world.modulus, source.spec.order
    missing = p.scalars[:, A.MISSING]
    absent = np.where(missing < 0, "null", '"' + c.names[c.place[at, missing]] + '"')
    fields = (
        c.ids, c.problem, c.solution, [_null(answer) for answer in p.answer.tolist()],
        *(p.scalars[:, column].tolist() for column in (A.OPS, A.EDGES, A.SPLIT_BIN)), c.names[c.place[at, p.query]],
        map(_list, cut(c.names[c.needed_order].tolist(), c.needed)), _layers(c), _parameters(c, p, modulus), absent,
        _mistakes(c, source.spec.retry_kind), _rest(c, source.world.name),
    )  # fmt: skip
    return [
        f'{{"id": "{name}", "problem": "{problem}", "solution": "{solution}", "answer": {answer}, "ops": {ops}, '
        f'"edges": {edges}, "modulus": {modulus}, "split_bin": {split_bin}, "order": "{order}", "query": "{query}", '
        f'"needed_order": {needed}, "layers": [{layers}], "parameters": [{{"name": "{parameters}], '
        f'"missing": {gone}, "mistakes": [{mistakes}]{rest}}}'
        for name, problem, solution, answer, ops, edges, split_bin, query, needed, layers, parameters, gone, mistakes,
        rest in zip(*fields, strict=True)
    ]  # fmt: skip


def _null(number: int) -> str:
    return str(number) if number >= 0 else "null"


def _list(texts: list[str]) -> str:
    return f'["{BETWEEN.join(texts)}"]' if texts else "[]"


def _layers(c: Columns) -> list[str]:
    items = map(_list, cut(c.words[c.items].tolist(), c.widths))
    both = zip(c.words[c.categories], items, strict=True)
    layers = [f'{{"category": "{name}", "items": {names}}}' for name, names in both]
    return [", ".join(part) for part in cut(layers, c.layers)]


def _mistakes(c: Columns, kind: str) -> list[str]:
    def entry(step: int, name: int, back: bool) -> str:
        corrected = "true" if back else "false"
        return f'{{"step": {step}, "kind": "{kind}", "parameter": "{c.names[name]}", "corrected": {corrected}}}'

    return [", ".join(entry(*mistake) for mistake in found) for found in c.mistakes]


def _rest(c: Columns, world: str) -> list[str]:
    """The keys that only some records have."""
    named = "" if world == "english" else f', "world": {quoted(world)}'
    if c.context is None or c.recipes is None:
        return [named] * len(c.ids)
    told = zip(c.context, c.recipes, strict=True)
    return [f'{named}, "context": "{text}", "context_recipe": "{recipe}"' for text, recipe in told]


@lru_cache(maxsize=8)
def _pieces(modulus: int) -> tuple[np.ndarray, ...]:
    """What stands between the names of a parameter: object[kind, needed, value], [constant, its operation, combine, any
    term], [any term, absent, last], [same term]; a number is counted from -1, none."""
    numbers, true = [_null(value) for value in range(-1, modulus)], ("false", "true")
    head = [
        [[f'", "kind": "{kind}", "value": {v}, "needed": {needed}, ' for v in numbers] for needed in true]
        for kind in ("instance", "abstract")
    ]
    middle = [
        [
            [
                [f'"constant": {v}, "combine_constant": {op}, "combine": {combine}, "terms": [{x}' for x in ("", '["')]
                for combine in map(json.dumps, COMBINES)
            ]
            for op in map(json.dumps, CONSTANT_OPS)
        ]
        for v in numbers
    ]
    tail = [
        [[f"{x}]{given}}}{more}" for more in (', {"name": "', "")] for given in ("", ', "given": false')]
        for x in ("", '"]')
    ]
    return tuple(np.array(part, dtype=object) for part in (head, middle, tail, ['"], ["', BETWEEN]))


def _parameters(c: Columns, p: Problems, modulus: int) -> list[str]:
    """The parameters of each record, from behind the opening of the first name."""
    tables, at, some = _pieces(modulus), (c.row, c.slot), c.factors[:, 0] >= 0
    last = np.diff(c.row, append=-1) != 0
    head = (c.slot >= INSTANCES) * 1, p.needed[at].clip(0), p.value[at].clip(-1) + 1
    middle = p.constant[at].clip(-1) + 1, p.constant_op[at], p.combine[at], some * 1
    tail = some * 1, c.absent * 1, last * 1
    texts = np.concatenate([c.names, *(table.ravel() for table in tables)])
    starts = np.cumsum([len(c.names), *(table.size for table in tables[:-1])])
    # name, two pieces, then a piece and a name for each factor (its first piece is in `middle`), the end; -1: nothing
    ids = np.full((len(c.slot), 4 + 2 * c.factors.shape[1]), -1)
    ids[:, 0] = c.place[at]
    for column, start, table, index in zip((1, 2, -1), starts, tables, (head, middle, tail), strict=False):
        ids[:, column] = start + np.ravel_multi_index(index, table.shape)
    ids[:, 4:-1:2] = c.factors
    ids[:, 3:-1:2] = np.where(c.factors >= 0, starts[-1] + np.arange(c.factors.shape[1]) % 2, -1)
    ids[:, 3] = -1
    written = ids >= 0
    counts = np.add.reduceat(written.sum(axis=1), np.cumsum(c.parameters) - c.parameters)
    return ["".join(part) for part in cut(texts[ids[written]].tolist(), counts)]


def record(source: Source, documents: Documents, i: int, index: int) -> dict:
    """JSON record of document i of `documents`, whose index in the stream is `index`."""
    return json.loads(lines(source, documents.take([i]), index)[0])


def records(source: Source, start: int, stop: int) -> Iterator[dict]:
    """Records of documents start..stop-1."""
    for first in range(start, stop, CHUNK):
        documents = source.documents(range(first, min(first + CHUNK, stop)))
        yield from map(json.loads, lines(source, documents, first))
