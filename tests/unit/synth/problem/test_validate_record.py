"""Records from elsewhere: any names load, render and are judged; whatever does not follow from the rest is named."""

import copy
import json

import numpy as np
import pytest

from synth.dataset import Source
from synth.judge.check_text import check_text
from synth.problem.records import from_record, to_record, world_of
from synth.spec import preset
from synth.store import writers
from synth.write.prompt import write_prompt
from synth.write.solution import MAX_DOCUMENT

SPECS = [
    preset("med", retry_rate=0.2),
    preset("tiny"),
    preset("hard", order="qp", missing_premise=0.4),
    preset("med", world="voyage"),
]
# names as the published generator has them: apostrophes, digits, accents, a name inside another, words of the templates
FOREIGN = ["Trader Joe's", "99 Ranch Market", "Caudal Vertebrae 10", "Café São", "Cheese", "Mozzarella Cheese", "So",
           "Each Way", "Number of Things", "Of", "If Any", "What", "Aldi", "Sum", "Ten", "Equals Sign"]  # fmt: skip


def renamed(record: dict, names: list[str]) -> dict:
    """The same record with other names for its items and categories, in all fields and texts."""
    layers = record["layers"]
    old = [n for layer in layers for n in [layer["category"], *layer["items"]]]
    new = dict(zip(old, names, strict=False))
    text = json.dumps(record, ensure_ascii=False)
    for i, name in enumerate(sorted(old, key=len, reverse=True)):
        text = text.replace(name, f"<{i}>")
    for i, name in enumerate(sorted(old, key=len, reverse=True)):
        text = text.replace(f"<{i}>", new[name])
    return json.loads(text)


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_records_are_read_in_their_own_world(spec):
    for record in writers.records(Source(spec, 0, "all"), 0, 25):
        again = to_record(from_record(record), world_of(record), spec.order)
        assert again == {k: record[k] for k in again}


def test_foreign_names_load_render_and_are_judged():
    source = Source(preset("med", max_depth=3), 0, "all")
    judged = 0
    for record in writers.records(source, 0, 60):
        count = sum(1 + len(layer["items"]) for layer in record["layers"])
        if count > len(FOREIGN):
            continue
        other = renamed(record, FOREIGN)
        problem, world = from_record(other), world_of(other)
        assert world.pool.size == 0
        out = np.zeros((6, MAX_DOCUMENT), dtype=np.int32)
        n = write_prompt(problem, False, world.ids, out)
        assert world.decode(out[0, :n]) == other["problem"]
        assert check_text(problem, world, other["solution"]).right[0]
        assert not check_text(problem, world, other["solution"].replace(" = ", " = 1", 1)).right[0]
        assert to_record(problem, world, "pq") == {k: other[k] for k in to_record(problem, world, "pq")}
        judged += 1
        if judged == 20:
            return
    raise AssertionError("too few problems that the names suffice for")


def test_names_that_cannot_be_read_back_are_refused():
    record = next(writers.records(Source(preset("tiny"), 0, "all"), 0, 1))
    for name, message in (
        ("a", "reads like a number, a letter"),
        ("3", "reads like"),
        ("St. Mary", "end of a sentence"),
    ):
        names = [name, *FOREIGN]
        with pytest.raises(ValueError, match=f"record .*'layers': .*{message}"):
            from_record(renamed(record, names))


def changes(record: dict):
    """(what the message must name, changed record)."""

    def top(field, value):
        return {**record, field: value}

    def parameter(of, **fields):
        parameters = [p | fields if p["name"] == of else p for p in record["parameters"]]
        return {**record, "parameters": parameters}

    def with_terms(kind, count):
        return next(p for p in record["parameters"] if p["kind"] == kind and len(p["terms"]) >= count)

    query, order = record["query"], record["needed_order"]
    summed, total = with_terms("instance", 2), with_terms("abstract", 2)
    for field in ("modulus", "split_bin", "layers", "parameters", "query", "needed_order", "answer", "ops", "edges"):
        yield [field], {k: v for k, v in record.items() if k != field}
        yield [field], top(field, None)
    yield ["modulus", "2 to 997"], top("modulus", 1)
    yield ["split_bin"], top("split_bin", 23)
    yield ["order", "pq, qp"], top("order", "qq")
    yield ["answer"], top("answer", (record["answer"] + 1) % 23)
    yield ["ops"], top("ops", record["ops"] + 1)
    yield ["edges"], top("edges", record["edges"] - 1)
    yield ["query", "Nobody's"], top("query", "Nobody's Nothing")
    yield ["needed_order", order[0]], top("needed_order", order[1:])
    yield ["needed_order", order[-1]], top("needed_order", [order[-1], *order[:-1]])
    yield ["needed_order", order[0]], top("needed_order", [*order, order[0]])
    yield ["value", query], parameter(query, value=(record["answer"] + 1) % 23)
    yield ["value", query, "0 to 22"], parameter(query, value=23)
    yield ["needed", query], parameter(query, needed=False)
    yield ["needed", query], parameter(query, needed=1)
    yield ["kind", query], parameter(query, kind="both")
    yield ["name"], parameter(query, name="Nobody's Nothing")
    yield ["constant", summed["name"]], parameter(summed["name"], constant=23)
    yield ["combine_constant", summed["name"]], parameter(summed["name"], constant=None, combine_constant="add")
    yield ["combine", summed["name"]], parameter(summed["name"], combine=None)
    yield (
        ["terms", summed["name"], "Nobody's"],
        parameter(summed["name"], terms=[["Nobody's Nothing"], *summed["terms"]]),
    )
    yield ["terms", summed["name"]], parameter(summed["name"], terms="x")
    circle = [[summed["name"]], *summed["terms"][1:]]
    yield ["terms", summed["name"], "depends on itself"], parameter(summed["name"], terms=circle)
    yield ["terms", total["name"], "layers"], parameter(total["name"], terms=[*total["terms"][1:], total["terms"][1]])
    yield ["name", "there twice", query], top("parameters", [*record["parameters"], record["parameters"][0]])
    first = record["layers"][0]
    doubled = {**first, "items": [first["items"][0]] * 2}
    yield ["layers", "there twice"], top("layers", [doubled, *record["layers"][1:]])
    yield ["given"], top("missing", query)


def test_what_is_inconsistent_is_named():
    rows = writers.records(Source(preset("med", exact_ops=True), 0, "all"), 0, 80)
    wanted = [("instance", 2), ("abstract", 2)]
    record = next(
        r for r in rows
        if all(any(p["kind"] == k and len(p["terms"]) >= n for p in r["parameters"]) for k, n in wanted)
        and r["parameters"][0]["name"] == r["query"]
    )  # fmt: skip
    assert len(from_record(record).value) == 1
    for named, changed in changes(copy.deepcopy(record)):
        with pytest.raises(ValueError) as refused:
            from_record(changed)
        message = str(refused.value)
        assert message.startswith(f"record {record['id']}: bad or missing field {named[0]!r}"), (named, message)
        assert all(part in message for part in named[1:]), (named, message)
    for value in (None, 0, "x", []):
        with pytest.raises(ValueError, match="record"):
            from_record(value)


def test_nonsense_is_refused_never_a_crash():
    for spec in SPECS:
        record = next(writers.records(Source(spec, 0, "all"), 2, 3))
        for field in record:
            for value in (None, 0, "x", [], {}, [None], [{}], 10**30, [[]], True):
                try:
                    from_record({**record, field: value})
                except ValueError as error:
                    assert str(error).startswith(f"record {value if field == 'id' else record['id']}: ")
        for key in record["parameters"][0]:
            for value in (None, -1, "x", [], {}, [None], [[None]], [[{}]], 10**30, 0.5):
                changed = [{**record["parameters"][0], key: value}, *record["parameters"][1:]]
                try:
                    from_record({**record, "parameters": changed})
                except ValueError as error:
                    assert "bad or missing field" in str(error)
