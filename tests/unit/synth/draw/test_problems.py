"""Drawn problems, judged from records by plain Python: graph, values, names, operations, purity of the streams."""

import hashlib
import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from synth.dataset import Source
from synth.judge.audit_record import audit_record
from synth.problem import arrays as P
from synth.problem.arrays import Problems, dependencies
from synth.problem.records import from_record, to_record
from synth.spec import preset
from synth.store import writers

SPECS = {
    "tiny": preset("tiny"),
    "tiny_topological": preset("tiny", perm_level=6, max_width=3, split_by="template"),
    "med": preset("med"),
    "med_published": preset("med", solution_order="published", perm_level=6),
    "med_retry": preset("med", retry_rate=0.4),
    "hard_weak_qp": preset("hard", retry_rate=0.4, retry_kind="weak", order="qp"),
    "hard_miss": preset("hard", retry_rate=0.4, retry_kind="miss", solution_order="published"),
    "mod_2": preset("med", modulus=2, letter_order="ordered"),
    "mod_997": preset("med", modulus=997, names=4, categorisations=2),
    "exact_1": preset("med", ops=1, exact_ops=True),
    "exact_15": preset("med", exact_ops=True),
    "dense": preset("med", ops=24, edges=8, exact_ops=True),
    "longest": preset("hard", ops=64, edges=48, exact_ops=True, letters=104),
    "no_products": preset("med", withheld="products"),
    "sums_alone": preset("hard", withheld="both", retry_rate=0.4),
    "chain": preset("tiny", ops=6, edges=8, max_depth=2, max_width=2),
}
COUNT = 60
DRAWN: dict = {}


def drawn(name: str):
    """(source, documents, records) of COUNT documents, made once."""
    if name not in DRAWN:
        source = Source(SPECS[name], 11, "all")
        documents = source.documents(range(COUNT))
        DRAWN[name] = source, documents, [writers.record(source, documents, i, i) for i in range(COUNT)]
    return DRAWN[name]


every_spec = pytest.mark.parametrize("name", SPECS)


def factors(parameter: dict) -> list[str]:
    return [name for term in parameter["terms"] for name in term]


@every_spec
def test_every_record_is_proved_by_the_auditor(name):
    for record in drawn(name)[2]:
        assert list(audit_record(record)) == []


@every_spec
def test_values_by_plain_fractions(name):
    """A second evaluation, without a reduction before the end, that shares nothing with the auditor's."""
    for record in drawn(name)[2]:
        left, values = {p["name"]: p for p in record["parameters"]}, {}
        while left:
            ready = [n for n, p in left.items() if all(f in values for f in factors(p))]
            assert ready, "the dependencies have a cycle"
            for n in ready:
                p = left.pop(n)
                total = Fraction(0)
                for i, term in enumerate(p["terms"]):
                    product = Fraction(1)
                    for f in term:
                        product *= values[f]
                    total += -product if p["combine"] == "difference" and i == 1 else product
                if p["combine_constant"] == "mul":
                    total *= p["constant"]
                elif p["constant"] is not None:
                    total += p["constant"]
                values[n] = total
        for p in record["parameters"]:
            assert values[p["name"]] % record["modulus"] == p["value"]
        assert record["answer"] == values[record["query"]] % record["modulus"]


@every_spec
def test_needed_is_exactly_the_ancestors_of_the_query(name):
    for record in drawn(name)[2]:
        below = {p["name"]: factors(p) for p in record["parameters"]}
        reached = {record["query"]}
        while True:
            wider = reached.union(*(below[n] for n in reached))
            if wider == reached:
                break
            reached = wider
        assert {p["name"] for p in record["parameters"] if p["needed"]} == reached
        order = record["needed_order"]
        assert len(order) == len(set(order))
        assert set(order) == reached
        assert order[-1] == record["query"]
        assert all(set(below[n]) <= set(order[:i]) for i, n in enumerate(order))


@every_spec
def test_operations_are_the_semicolons(name):
    source, _, records = drawn(name)
    spec = source.spec
    for record in records:
        assert record["solution"].count(";") == record["ops"] <= spec.ops
        if spec.exact_ops:
            assert record["ops"] == spec.ops
        instances = [p for p in record["parameters"] if p["kind"] == "instance"]
        assert record["edges"] == len(instances) == record["problem"].count(" The number of each ") <= spec.edges


@every_spec
def test_shape_of_the_structure(name):
    source, documents, records = drawn(name)
    spec = source.spec
    for i, record in enumerate(records):
        layers = record["layers"]
        assert 2 <= len(layers) <= spec.max_depth
        assert all(2 <= len(layer["items"]) <= spec.max_width for layer in layers)
        below = {p["name"]: p for p in record["parameters"]}
        for upper, lower in pairwise(layers):
            for child in lower["items"]:  # every item below the top has a parent
                assert any(f"{item}'s {child}" in below for item in upper["items"])
        for p in record["parameters"]:
            if p["kind"] == "instance":
                assert 1 <= len(p["terms"]) + (p["constant"] is not None) <= 4
                assert all(len(term) == 1 for term in p["terms"])
                assert p["combine"] != "difference" or len(p["terms"]) == 2
                assert (p["combine"] is None) == (len(p["terms"]) < 2)
                assert p["combine_constant"] is None or (p["terms"] and p["constant"] is not None)
                assert p["combine_constant"] != "mul" or p["constant"] > 0
                assert p["constant"] is None or 0 <= p["constant"] < spec.modulus
                assert len(set(factors(p))) == len(factors(p))
            else:
                assert p["constant"] is None
        depth = documents.problems.scalars[i, P.DEPTH_]
        assert depth == len(layers)


@every_spec
def test_names_are_distinct_and_from_one_subcategory_per_layer(name):
    source, documents, records = drawn(name)
    world = source.world
    for i, record in enumerate(records):
        names = [p["name"] for p in record["parameters"]]
        assert len(set(names)) == len(names)
        items = [x for layer in record["layers"] for x in (*layer["items"], layer["category"])]
        assert len(set(items)) == len(items)
        first = documents.problems.categories[i, 0]
        group, top = (int(a[0]) for a in np.nonzero(world.categories == first))
        for k, layer in enumerate(record["layers"]):
            assert world.vocabulary[world.categories[group, top + k]].strip() == layer["category"]
            pools = [{world.vocabulary[t].strip() for t in pool} for pool in world.pool[group, top + k]]
            assert sum(set(layer["items"]) <= pool for pool in pools) == 1


def test_unshuffled_sentences_can_be_read_in_order():
    """perm_level none: every sentence only names what earlier sentences, and items below them, already determine."""
    for record in drawn("med_published")[2]:
        below = {p["name"]: p for p in record["parameters"]}
        known: set[str] = set()

        def computable(n, known=known, below=below):
            return n in known or (below[n]["kind"] == "abstract" and all(computable(f) for f in factors(below[n])))

        for p in record["parameters"]:
            if p["kind"] == "instance":
                assert all(computable(f) for f in factors(p))
                known.add(p["name"])


def test_abstract_sums_follow_the_sentences_or_the_items():
    for name, published in (("med", False), ("med_published", True)):
        longer = 0
        for record in drawn(name)[2]:
            place = {p["name"]: i for i, p in enumerate(record["parameters"])}
            rank = {item: j for layer in record["layers"] for j, item in enumerate(layer["items"])}
            for p in record["parameters"]:
                if p["kind"] == "abstract" and len(p["terms"]) > 1:
                    first = [term[0] for term in p["terms"]]
                    keys = [rank[n.rsplit("'s ", 1)[1]] if published else place[n] for n in first]
                    assert keys == sorted(keys)
                    longer += 1
        assert longer > 20


@every_spec
def test_records_survive_the_round_trip(name):
    source, documents, records = drawn(name)
    for i, record in enumerate(records):
        text = json.loads(json.dumps(record))
        again = from_record(text, source.world)
        for field in Problems._fields:
            mine, theirs = getattr(again, field), getattr(documents.problems.take(i), field)
            if field in ("items", "categories"):  # beyond the layers' widths nothing is meant
                mine, theirs = np.where(mine < 0, -1, mine), np.where(mine < 0, -1, theirs)
            assert np.array_equal(mine, theirs), field
        assert to_record(again, source.world, source.spec.order) == {
            k: v for k, v in record.items() if k not in ("id", "problem", "solution", "mistakes")
        }


def test_dependencies_lists_each_factor_in_order():
    source, documents, records = drawn("med")
    for i, record in enumerate(records[:20]):
        problem = documents.problems.take(i)
        names = {s: source.world.name_of(*problem.slot_names()[0, s]) for s in np.flatnonzero(problem.exists[0])}
        slots = {n: s for s, n in names.items()}
        for p in record["parameters"]:
            assert [names[s] for s in dependencies(problem, slots[p["name"]])] == factors(p)


# --- distributions-------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), [("med", "all"), ("med", "train"), ("tiny", "test")])
def test_law_of_the_operations(name, split):
    """P(op = k) = (2(n-k)+1)/n^2 exactly, also inside a split, because op is drawn once and kept."""
    spec = preset(name)
    count, n = 3000, spec.ops
    ops = Source(spec, 3, split).problems(range(count)).ops
    share = (2 * (n - np.arange(1, n + 1)) + 1) / n**2
    assert stats.chisquare(np.bincount(ops, minlength=n + 1)[1:], count * share).pvalue > 1e-4


def test_exact_operations_are_exact_up_to_the_limit():
    for ops, edges in ((1, 2), (2, 20), (15, 20), (40, 30), (64, 48)):
        spec = preset("med", ops=ops, edges=edges, exact_ops=True, letters=104)
        assert set(Source(spec, 0, "all").problems(range(20)).ops) == {ops}


def test_impossible_settings_are_reported_not_looped():
    spec = preset("med", ops=6, edges=2, exact_ops=True)
    with pytest.raises(ValueError, match=r"ops=6, edges=2.*accepted: more edges, or fewer ops"):
        Source(spec, 0, "all").problems([0])


@pytest.mark.parametrize("withheld", ["none", "differences", "products", "both"])
def test_a_withheld_operation_is_never_used_and_nothing_else_changes(withheld):
    """Graphs, names, places of sentences and terms are the same: links of constants and kinds of pairs differ."""
    documents = {w: Source(preset("med", withheld=w), 3, "all").documents(range(200)) for w in ("none", withheld)}
    every, mine = documents["none"].problems, documents[withheld].problems
    records = list(writers.records(Source(preset("med", withheld=withheld), 3, "all"), 0, 200))
    # a problem whose abstract parameters multiply is drawn anew where products are withheld
    two_factors = ((every.terms[..., 1] >= 0).any(-1) & (every.needed > 0)).any(1)
    assert 0.05 < two_factors.mean() < 0.4
    same = ~two_factors if withheld in ("products", "both") else np.ones(len(two_factors), dtype=bool)
    assert ("*" in "".join(record["solution"] for record in records)) == (withheld in ("none", "differences"))
    every, mine = (problems.take(same) for problems in (every, mine))
    for name in ("exists", "needed", "terms", "n_terms", "query", "ops", "topo", "widths", "items", "sentences"):
        assert np.array_equal(getattr(every, name), getattr(mine, name)), name
    for array, kinds, gone in (
        ("combine", {P.SUM, P.DIFFERENCE}, P.DIFFERENCE * (withheld in ("differences", "both"))),
        ("constant_op", {P.ADD, P.MULTIPLY}, P.MULTIPLY * (withheld in ("products", "both"))),
    ):
        before, after = getattr(every, array), getattr(mine, array)
        assert set(np.unique(after)) - {0} == kinds - {gone}
        assert np.array_equal(before > 0, after > 0) and (before == after)[before != gone].all()
    text = "".join(record["problem"] for record in records)
    assert ("times as much" in text) == (withheld in ("none", "differences"))
    assert ("difference of" in text) == (withheld in ("none", "products"))


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='dev' is unknown; accepted: train, test, all"):
        Source(preset("tiny"), 0, "dev")


# --- purity -------------------------------------------------------------------------------------------------------


def pieces(documents, i: int) -> list[np.ndarray]:
    """Everything about document i."""
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    aligned = [getattr(documents, f)[span] for f in ("tokens", "segment", "step", "param", "mistake", "loss", "logp")]
    return [*aligned, documents.prompt[i : i + 1], *documents.problems.take(i)]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["tiny", "med_retry", "hard_miss", "longest"])
def test_a_document_is_the_same_alone_and_in_any_batch(name):
    source = Source(SPECS[name], 2, "train")
    batch = source.documents(range(12))
    order = [7, 3, 11, 3, 0]
    other = source.documents(order)
    for place, i in enumerate(order):
        assert same(pieces(other, place), pieces(batch, i))
    alone = Source(SPECS[name], 2, "train").documents(np.array([11]))
    assert same(pieces(alone, 0), pieces(batch, 11))
    problems = source.problems(range(12))
    assert all(np.array_equal(a, b) for a, b in zip(problems, batch.problems, strict=True))


def test_seeds_streams_and_splits_are_separate():
    texts = set()
    settings = [(s, split, stream) for s in (0, 1) for split in ("train", "test", "all") for stream in ("data", "eval")]
    for seed, split, stream in settings:
        documents = Source(preset("med", ops=8, exact_ops=True), seed, split, stream).documents(range(20))
        texts |= {documents.prompt_tokens(i).tobytes() for i in range(20)}
    assert len(texts) == 20 * len(settings)


DIGEST = """
import hashlib, json, sys
from synth.dataset import Source
from synth.kernel.jit import ENABLED
from synth.spec import Spec
out = {}
for name, (settings, count) in json.loads(sys.argv[1]).items():
    digest = hashlib.sha256()
    documents = Source(Spec(**settings), 9, "train").documents(range(count))
    for array in (*documents[:-1], *documents.problems):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    out[name] = digest.hexdigest()
print(json.dumps([ENABLED, out]))
"""


def test_plain_python_in_another_process_gives_identical_bytes(root):
    counts = {name: (vars(spec), 2 if spec.ops > 30 else 6) for name, spec in SPECS.items()}
    environment = {**os.environ, "GLASSHOUSE_JIT": "0", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST, json.dumps(counts)],
        capture_output=True, text=True, env=environment, cwd=root, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    enabled, plain = json.loads(done.stdout)
    assert not enabled
    for name, (_, count) in counts.items():
        documents = Source(SPECS[name], 9, "train").documents(range(count))
        digest = hashlib.sha256()
        for array in (*documents[:-1], *documents.problems):
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        assert digest.hexdigest() == plain[name], name


def test_solution_is_text_of_the_record():
    """The exported fields are the text as the model reads and writes it."""
    source, documents, records = drawn("med_retry")
    for i, record in enumerate(records):
        assert record["problem"] == source.world.decode(documents.prompt_tokens(i))
        assert record["solution"] == source.world.decode(documents.response(i)[:-3])
        assert re.fullmatch(r"(?: [^.]+\.)+", record["solution"])
