"""Questions asked again, orders of sentences, the length filter and the warning about small test cells."""

import warnings

import numpy as np
import pytest

from synth.dataset import Source
from synth.draw.lengths import lengths, phrase_pieces
from synth.judge.audit_record import audit_record
from synth.problem.arrays import INSTANCES, SPLIT_BIN
from synth.problem_source import test_cell_templates
from synth.spec import preset
from synth.store import writers

test_cell_templates.__test__ = False  # a function of the package, no test


def problems(count=300, split="all", **settings):
    return Source(preset("med", **settings), 4, split).problems(range(count))


# --- reask ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_reasked_records_are_proved_and_on_their_side(split):
    source = Source(preset("med", ops=12, exact_ops=True, reask=True), 5, split)
    documents = source.documents(range(60))
    for i in range(60):
        record = writers.record(source, documents, i, i)
        assert list(audit_record(record)) == []
        assert record["solution"].count(";") == record["ops"]
        assert (record["split_bin"] < 17) == (split == "train")
        assert record["needed_order"][-1] == record["query"]


def test_reask_asks_every_parameter_alike():
    """The query's place among the parameters of its problem is uniform, and the rest of the problem is as drawn."""
    p = problems(3000, reask=True)
    place = np.array([np.flatnonzero(e).tolist().index(q) for e, q in zip(p.exists, p.query, strict=True)])
    total = (p.exists > 0).sum(1)
    u = (place + np.random.default_rng(0).random(len(place))) / total
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * len(u))
    assert abs((p.query >= INSTANCES).mean() - ((p.exists[:, INSTANCES:] > 0).sum(1) / total).mean()) < 0.035


def test_reask_never_needs_more_letters_than_the_world_has():
    p = problems(400, ops=20, letters=20, edges=27, exact_ops=True, reask=True)
    assert p.ops.max() <= 20


# --- order of sentences ---------------------------------------------------------------------------------------------


def displaced(level) -> np.ndarray:
    """How many pairs (needed parameter, its needed instance dependency) stand the wrong way round, as a share."""
    p = problems(400, perm_level=level)
    wrong = pairs = 0
    for i in range(len(p.ops)):
        place = {int(x): k for k, x in enumerate(p.sentences[i]) if x >= 0}
        for x in place:
            for y in p.terms[i, x, : p.n_terms[i, x], 0]:
                if y in place:
                    pairs += 1
                    wrong += place[y] > place[x]
    return wrong / pairs


def test_perm_levels_go_from_topological_to_shuffled():
    shares = {level: displaced(level) for level in (0, 1, 2, 4, 5, 6, None)}
    assert shares[0] == shares[1] == shares[6] == 0.0  # a stable sort: adding at most one passes no neighbour
    assert 0.0 < shares[2] < shares[4] < shares[5]
    assert abs(shares[5] - 0.5) < 0.04
    assert 0.0 < shares[None] < shares[5]


def test_level_moves_a_sentence_by_at_most_the_level():
    """The same words are drawn for the topological order, so level 6 shows where each sentence started."""
    before = problems(200, perm_level=6, solution_order="published", split_by="problem")
    for level in (2, 4):
        after = problems(200, perm_level=level, solution_order="published", split_by="problem")
        for a, b in zip(before.sentences, after.sentences, strict=True):
            place = {int(x): k for k, x in enumerate(b) if x >= 0}
            assert all(abs(place[int(x)] - k) <= level for k, x in enumerate(a) if x >= 0)


# --- lengths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"order": "qp"}, {"solution_order": "published", "ops": 30, "edges": 40}])
def test_length_in_tokens_is_that_of_the_document(settings):
    source = Source(preset("hard", **settings), 6, "all")
    documents = source.documents(range(200))
    whole, solutions = lengths(documents.problems, source.world)
    assert np.array_equal(whole, np.diff(documents.offsets))
    assert np.array_equal(solutions, np.diff(documents.offsets) - documents.prompt - 3)


def test_pieces_of_phrases():
    for text, pieces in ((" The number of each", 4), (" Define", 2), ("; so", 2), (" have?", 2), (", each", 2)):
        assert phrase_pieces(text) == pieces


@pytest.mark.parametrize(("unit", "most"), [("tokens", 150), ("gpt2", 300)])
def test_length_filter_drops_what_is_longer_and_only_that(unit, most):
    source = Source(preset("med", max_length=most, length_unit=unit), 7, "test")
    p = source.problems(range(400))
    assert lengths(p, source.world, unit)[0].max() <= most
    assert lengths(p, source.world, unit)[0].max() > 0.95 * most
    assert (p.scalars[:, SPLIT_BIN] >= 17).all()
    free = Source(preset("med"), 7, "test")
    short = lengths(free.problems(range(400)), free.world, unit)[0] <= most
    for field in ("exists", "terms", "constant", "sentences", "items"):  # the short ones are kept as they are
        assert np.array_equal(getattr(p, field)[short], getattr(free.problems(range(400)), field)[short])


def test_impossible_length_is_reported():
    with pytest.raises(ValueError, match=r"max_length=16.*accepted: .*larger max_length"):
        problems(1, max_length=16)


# --- small test cells -----------------------------------------------------------------------------------------------


def test_small_test_cells_warn():
    with pytest.warns(UserWarning, match="exactly 2 operations holds only 1 solution templates"):
        Source(preset("med", ops=2, exact_ops=True), 0, "test")
    assert test_cell_templates(preset("med", ops=3, exact_ops=True)) < 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings, split in (
            ({"ops": 2, "exact_ops": True}, "train"), ({"ops": 2}, "test"), ({"ops": 5, "exact_ops": True}, "test"),
            ({"ops": 2, "exact_ops": True, "split_by": "problem"}, "test"),
        ):  # fmt: skip
            Source(preset("med", **settings), 0, split)
