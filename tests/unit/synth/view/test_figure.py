"""The picture of a dependency graph: what is in it, a layout without overlap, and files of each kind."""

import itertools

import pytest

from synth.dataset import Source
from synth.problem.arrays import INSTANCES, dependencies
from synth.spec import preset
from synth.view import figure

SPECS = [
    preset("hard", ops=21, exact_ops=True),
    preset("med", world="voyage", missing_premise=1.0, ops=9, exact_ops=True),
    preset("med", ops=1, edges=4),
]


def graphs(spec, count=12):
    documents = Source(spec, 0, "all").documents(range(count))
    for i in range(count):
        problem = documents.problems.take(i)
        slots = figure.shown(problem)
        yield problem, {s: [d for d in dict.fromkeys(dependencies(problem, s)) if d != s] for s in slots}


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_layout_has_everything_in_its_place(spec):
    for problem, below in graphs(spec):
        assert {s for s in range(INSTANCES) if problem.exists[0, s]} <= set(below)
        assert figure.ancestors(problem) <= set(below)
        layout = figure.lay_out(below)
        for (x0, y0), (x1, y1) in itertools.combinations(layout.place.values(), 2):
            assert abs(x0 - x1) > figure.BOX[0] or abs(y0 - y1) > figure.BOX[1]
        assert sorted((a, b) for a, b, _ in layout.edges) == sorted((b, a) for a in below for b in below[a])
        for source, target, points in layout.edges:
            xs = [layout.place[source][0], *(x for x, _ in points), layout.place[target][0]]
            assert xs == sorted(xs)
            assert len(set(xs)) == len(xs)


def test_files_of_each_kind_are_written(tmp_path):
    beginnings = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for spec, (suffix, beginning) in zip(SPECS, beginnings.items(), strict=True):
        source = Source(spec, 0, "all")
        documents = source.documents([3])
        for name in ("a", "b"):
            figure.draw_document(source, documents, 0, str(tmp_path / f"{name}{suffix}"))
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(beginning)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
