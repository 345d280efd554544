"""The split against templates made from the solutions' text with regular expressions and hashlib."""

import hashlib
import random
import re
import string

import numpy as np
import pytest

from synth.dataset import Source
from synth.draw.split import BINS, MAX_TEXT, problem_bin, template_residue, write_template
from synth.problem.arrays import INSTANCES, MULTIPLY, SLOTS, SPLIT_BIN, SUM
from synth.problem.records import from_record, to_record
from synth.spec import preset
from synth.store import writers

SMALL = {"ops": 5, "edges": 8}
CATEGORIES = {preset("med").load_world().vocabulary[i].strip() for i in preset("med").load_world().categories.ravel()}
ALPHABET = [*string.ascii_letters, *(2 * c for c in string.ascii_letters)]


def bin_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 23


def template_of_text(solution: str) -> str:
    """The published template (Inst, Inter, 0, letters in order of appearance), read from a solution's English."""
    names = {"so": "so", "0": "0"}

    def rename(match: re.Match) -> str:
        return names.setdefault(match[0], ALPHABET[len(names) - 2])

    sentences = []
    for name, rest in re.findall(r" Define ([^.;]+?) as ([^.]*)\.", solution):
        if rest != "BACK":
            kind = "Inter" if name.rsplit("'s ", 1)[1] in CATEGORIES else "Inst"
            renamed = re.sub(r"\w+", rename, re.sub(r"\d+", "0", rest))
            sentences.append(f" Define {kind} as {renamed.replace(';', '.')}.")
    return "".join(sentences)


def solutions(spec, split, count, seed=0) -> list[tuple[str, int]]:
    """(solution text, split bin) of documents."""
    source = Source(spec, seed, split)
    documents = source.documents(range(count))
    texts = [source.world.decode(documents.response(i)[:-3]) for i in range(count)]
    return list(zip(texts, map(int, documents.problems.scalars[:, SPLIT_BIN]), strict=True))


def records(spec, split, count, seed=0) -> list[dict]:
    source = Source(spec, seed, split)
    documents = source.documents(range(count))
    return [writers.record(source, documents, i, i) for i in range(count)]


def test_the_two_templates_of_one_operation():
    assert bin_of(" Define Inst as a. so a = 0.") == 10  # the published bins
    assert bin_of(" Define Inter as a. so a = 0.") == 20
    for order in ("published", "uniform"):
        found = {}
        for record in records(preset("med", ops=1, exact_ops=True, solution_order=order), "all", 300):
            kind = next(p["kind"] for p in record["parameters"] if p["name"] == record["query"])
            found.setdefault(kind, set()).add(record["split_bin"])
        assert found == {"instance": {10}, "abstract": {20}}


@pytest.mark.parametrize("retry", [0.0, 0.5])
def test_published_bin_is_the_hash_of_the_written_solution(retry):
    for text, found in solutions(preset("med", solution_order="published", retry_rate=retry), "all", 300):
        assert found == bin_of(template_of_text(text))


def test_written_template_is_the_template_of_the_text():
    """Longest steps included; letters past z and Z too."""
    source = Source(preset("hard", ops=60, edges=40, letters=104, solution_order="published"), 1, "all")
    documents, buffer = source.documents(range(20)), np.zeros(MAX_TEXT, dtype=np.int64)
    for i in range(20):
        p = documents.problems.take(i)
        arrays = (p.n_terms[0], p.terms[0], p.combine[0], p.constant_op[0])
        n = write_template(p.topo[0], int((p.topo[0] >= 0).sum()), *arrays, buffer)
        text = source.world.decode(documents.response(i)[:-3])
        assert bytes(buffer[:n].astype(np.uint8)).decode() == template_of_text(text)
    assert documents.problems.ops.max() > 52


@pytest.mark.parametrize("order", ["published", "uniform"])
@pytest.mark.parametrize("split_by", ["template", "problem"])
@pytest.mark.parametrize("name", ["tiny", "med"])
def test_bins_of_the_splits(name, split_by, order):
    spec = preset(name, split_by=split_by, solution_order=order)
    bins = {
        split: set(Source(spec, 0, split).problems(range(300)).scalars[:, SPLIT_BIN])
        for split in ("train", "test", "all")
    }
    assert bins["train"] <= set(range(17))
    assert bins["test"] <= set(range(17, 23))
    assert len(bins["test"]) > 2
    assert bins["all"] & bins["train"]
    assert bins["all"] & bins["test"]


@pytest.mark.parametrize("order", ["published", "uniform"])
@pytest.mark.parametrize("ops", [2, 3, 5])
def test_no_solution_template_is_on_both_sides(order, ops):
    """Whatever orders are drawn: many problems with few operations, and so few templates."""
    spec = preset("tiny", split_by="template", solution_order=order, ops=ops, edges=8, max_depth=4, max_width=3)
    train = {template_of_text(text) for text, _ in solutions(spec, "train", 2500)}
    test = {template_of_text(text) for text, _ in solutions(spec, "test", 1500)}
    assert len(train) > ops
    assert len(test) > 1
    assert not train & test


def test_equal_templates_have_equal_bins():
    for order in ("published", "uniform"):
        bins: dict[str, set[int]] = {}
        for text, bin_ in solutions(preset("med", solution_order=order, **SMALL), "all", 3000):
            bins.setdefault(template_of_text(text), set()).add(bin_)
        assert all(len(found) == 1 for found in bins.values())
        assert len(bins) < 1500  # templates did repeat, so this was a test


def another_order(record: dict, generator: random.Random) -> list[str]:
    """Another order of dependency of the needed parameters."""
    below = {p["name"]: [n for t in p["terms"] for n in t] for p in record["parameters"]}
    left, order = set(record["needed_order"]), []
    while left:
        order.append(generator.choice(sorted(n for n in left if not left & set(below[n]))))
        left.remove(order[-1])
    return order


def disguised(record: dict, seed: int, deep: bool) -> dict:
    """The same problem with sentences and operands of sums, and if `deep` items and the solution, in another order."""
    generator = random.Random(seed)
    out = {**record, "parameters": [{**p, "terms": list(p["terms"])} for p in record["parameters"]]}
    for p in out["parameters"]:
        if p["combine"] == "sum":
            generator.shuffle(p["terms"])
    generator.shuffle(out["parameters"])
    if deep:
        out["needed_order"] = another_order(record, generator)
        out["layers"] = [{**x, "items": generator.sample(x["items"], len(x["items"]))} for x in record["layers"]]
    return out


@pytest.mark.parametrize("deep", [False, True])
def test_bins_see_through_every_reordering(deep):
    spec = preset("med", edges=14)
    world = spec.load_world()
    for i, record in enumerate(records(spec, "all", 30)):
        plain = from_record(record, world)
        other = from_record(disguised(record, i, deep), world)
        assert template_residue(other, 0, BINS) == template_residue(plain, 0, BINS) == record["split_bin"]
        assert problem_bin(other) == problem_bin(plain)


def test_problem_bin_sees_every_visible_change():
    """Each kind of change moves the bin about as often as chance would (22 in 23)."""
    spec = preset("med")
    drawn = Source(spec, 0, "all").problems(range(300))
    moved = {"constant": [], "operation": [], "combine": [], "swap": [], "query": [], "name": []}
    for i in range(300):
        p = drawn.take(i)
        before = problem_bin(p)

        def try_change(kind: str, field: str, place, value, p=p, before=before):
            changed = p._replace(**{field: getattr(p, field).copy()})
            getattr(changed, field)[0][place] = value
            moved[kind].append(problem_bin(changed) != before)

        sentences = [int(s) for s in p.sentences[0] if s >= 0]
        for x in sentences[:3]:
            if p.constant[0, x] >= 0:
                try_change("constant", "constant", x, (p.constant[0, x] + 1) % 23)
            if p.constant_op[0, x] > 0:
                try_change("operation", "constant_op", x, 3 - p.constant_op[0, x])
            if p.combine[0, x] > 0 and p.n_terms[0, x] == 2:
                try_change("combine", "combine", x, 3 - p.combine[0, x])
            if p.combine[0, x] == 2:
                try_change("swap", "terms", x, p.terms[0, x][[1, 0, 2, 3]])
        other = next(s for s in range(SLOTS) if p.exists[0, s] and s != p.query[0])
        try_change("query", "scalars", 1, other)
        try_change("name", "items", 0, p.items[0, 0] + 1000)
    for kind, results in moved.items():
        assert len(results) > 30, kind
        assert np.mean(results) > 0.85, kind


def test_values_and_unneeded_sentences_do_not_move_the_template_bin():
    spec = preset("med")
    drawn = Source(spec, 0, "all").problems(range(100))
    for i in range(100):
        p = drawn.take(i)
        before = template_residue(p, 0, BINS)
        changed = p._replace(constant=np.where(p.constant >= 0, 1, -1).astype(np.int32), items=p.items[:, ::-1].copy())
        unneeded = [s for s in range(INSTANCES) if p.exists[0, s] and not p.needed[0, s]]
        changed.constant_op[0, unneeded] = MULTIPLY
        changed.combine[0, unneeded] = SUM
        assert template_residue(changed, 0, BINS) == template_residue(changed, 0, BINS) == before


def test_record_keeps_its_bin():
    spec = preset("tiny")
    source = Source(spec, 0, "test")
    drawn = source.problems(range(50))
    for i in range(50):
        p = drawn.take(i)
        assert to_record(p, source.world, "pq")["split_bin"] == problem_bin(p) >= 17
