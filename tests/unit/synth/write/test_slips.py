"""Slips: wrong results that are taken back or left to stand, against definitions written out in plain Python."""

import math
from itertools import groupby

import numpy as np
import pytest
from scipy import stats

from synth.dataset import Source
from synth.judge.audit_record import audit_record
from synth.judge.check_text import check_text
from synth.judge.checker import KINDS, MALFORMED, RETRY, RIGHT, UNCORRECTED, check
from synth.problem.arrays import dependencies
from synth.spec import preset
from synth.store import writers
from synth.world.vocabulary import ANSWER, BACK, STOP

RATE, COUNT = 0.4, 300
DRAWN: dict = {}


def drawn(uncorrected: float = 0.0, **settings):
    """(source, documents), made once for each choice of settings."""
    key = (uncorrected, *sorted(settings.items()))
    if key not in DRAWN:
        given = {"retry_kind": "slip", "retry_rate": RATE, "uncorrected": uncorrected} | settings
        source = Source(preset("med", **given), 1, "all")
        DRAWN[key] = source, source.documents(range(COUNT))
    return DRAWN[key]


def sentences(source, documents, i: int):
    """(slot, whether it slipped, whether it is taken back, tokens, columns) of every step of document i."""
    span = range(documents.offsets[i] + documents.prompt[i], documents.offsets[i + 1])
    inside = [n for n in span if documents.segment[n] == 3]
    for _, columns in groupby(inside, key=lambda n: documents.step[n]):
        n = list(columns)
        tokens = documents.tokens[n]
        slipped = set(documents.mistake[n])
        assert len(slipped) == 1
        back = source.world.phrases[BACK] in tokens
        yield int(documents.param[n[0]]), bool(slipped.pop()), back, tokens, n


def judged(source, documents):
    rows = [documents.response(i) for i in range(len(documents))]
    tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return check(documents.problems, source.world, tokens, [len(row) for row in rows])


def test_number_of_slips_in_a_row_is_geometric():
    source, documents = drawn()
    counted = np.zeros(5)
    for i in range(COUNT):
        row = 0
        for _, slipped, back, _, _ in sentences(source, documents, i):
            assert slipped == back
            if not slipped:
                counted[min(row, 4)] += 1
            row = row + 1 if slipped else 0
        assert row == 0
    share = [RATE**j * (1 - RATE) for j in range(4)]
    assert stats.chisquare(counted, counted.sum() * np.array([*share, 1 - sum(share)])).pvalue > 1e-4


def test_share_of_slips_and_of_those_left():
    source, documents = drawn(0.3)
    steps = [s for i in range(COUNT) for s in sentences(source, documents, i)]
    slips = [s for s in steps if s[1]]
    assert stats.binomtest(len(slips), len(steps), RATE).pvalue > 1e-4
    assert stats.binomtest(sum(not s[2] for s in slips), len(slips), 0.3).pvalue > 1e-4


@pytest.mark.parametrize("uncorrected", [0.0, 0.3, 1.0])
def test_numbers_follow_from_what_is_written(uncorrected):
    """Each result, but a slip's, is right for the values written before; a slip's is uniform over the others."""
    source, documents = drawn(uncorrected)
    world, distance, places = source.world, [], []
    for i in range(COUNT):
        problem, written = documents.problems.take(i), {}
        for slot, slipped, back, tokens, _ in sentences(source, documents, i):
            factors = dependencies(problem, slot)
            assert slot not in written and set(factors) <= set(written) and problem.needed[0, slot]
            ready = [
                s for s in np.flatnonzero(problem.needed[0])
                if s not in written and set(dependencies(problem, s)) <= set(written)
            ]  # fmt: skip
            places.append((ready.index(slot) + 0.5) / len(ready) if len(ready) > 1 else 0.5)
            terms = problem.terms[0, slot, : problem.n_terms[0, slot]]
            parts = [written[int(a)] * (written[int(b)] if b >= 0 else 1) for a, b in terms]
            right = parts[0] - parts[1] if problem.combine[0, slot] == 2 else sum(parts)
            constant = int(problem.constant[0, slot])
            right = right * constant if problem.constant_op[0, slot] == 2 else right + max(constant, 0)
            result = int(tokens[-3 if back else -2]) - world.first_number
            assert (result != right % 23) == slipped
            if slipped:
                distance.append((result - right) % 23)
            if not back:
                written[slot] = result
        response = documents.response(i)
        assert response[-3] == ANSWER and response[-2] == world.first_number + written[int(problem.query[0])]
    assert stats.chisquare(np.bincount(distance, minlength=23)[1:]).pvalue > 1e-4
    assert abs(np.mean(places) - 0.5) < 4 * 0.3 / math.sqrt(len(places))


def test_letters_of_a_step_taken_back_are_unused_again():
    """Where a step follows, its letter is uniform over all that no standing step uses; ordered letters come again."""
    source, documents = drawn(0.2, letters=16)
    letters = range(source.world.first_letter, source.world.first_name)
    ranks, after_back = [], False
    for i in range(COUNT):
        used: set[int] = set()
        for _, _, back, tokens, _ in sentences(source, documents, i):
            mine = {int(t) for t in tokens if t in letters}
            fresh = [t for t in letters if t not in used]
            if after_back:
                ranks.append((fresh.index(int(tokens[4])) + 0.5) / len(fresh))
            used |= set() if back else mine
            after_back = back
    assert len(ranks) > 300 and stats.kstest(ranks, "uniform").pvalue > 1e-4
    source, documents = drawn(0.0, letter_order="ordered")
    for i in range(30):
        seen = [int(t[4]) for *_, t, _ in sentences(source, documents, i)]
        slipped = [s[1] for s in sentences(source, documents, i)]
        assert all(seen[k] == seen[k + 1] for k in range(len(seen) - 1) if slipped[k])


def test_the_checker_takes_back_what_is_taken_back_and_finds_what_is_not():
    source, documents = drawn()
    verdicts = judged(source, documents)
    assert verdicts.right.all() and verdicts.published.all()
    assert verdicts.retries.sum() == sum(s[1] for i in range(COUNT) for s in sentences(source, documents, i)) > 300
    source, documents = drawn(0.3)
    verdicts = judged(source, documents)
    for i in range(COUNT):
        steps = list(sentences(source, documents, i))
        wrong = [k for k, (_, slipped, back, _, _) in enumerate(steps) if slipped and not back]
        assert verdicts.right[i] == (not wrong) and verdicts.first_mistake[i] == (wrong[0] if wrong else -1)
        for k, (_, slipped, back, _, _) in enumerate(steps):
            kind = verdicts.kind[i, k]
            if back:
                assert kind == RETRY
            elif slipped:
                assert MALFORMED < kind < UNCORRECTED, KINDS[kind]
            else:
                assert kind == RIGHT or (kind == UNCORRECTED and k > wrong[0])


@pytest.mark.parametrize("mask", ["none", "name", "step"])
@pytest.mark.parametrize("uncorrected", [0.0, 0.4])
def test_masks(mask, uncorrected):
    source, plain = drawn(uncorrected)
    _, documents = drawn(uncorrected, mask_mistakes=mask)
    assert np.array_equal(plain.tokens, documents.tokens) and np.array_equal(plain.logp, documents.logp)
    kept = source.world.phrases[[BACK, STOP]]
    for i in range(COUNT):
        for _, slipped, back, tokens, n in sentences(source, documents, i):
            masked = {n[-3 if back else -2]} if slipped and mask != "none" else set()
            if mask == "step" and back:
                masked = {place for place, t in zip(n, tokens, strict=True) if t not in kept}
            assert {place for place in n if not documents.loss[place]} == masked


@pytest.mark.parametrize("uncorrected", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_prices_of_results_and_ends(uncorrected, rate):
    source, documents = drawn(uncorrected, retry_rate=rate)
    assert np.isfinite(documents.logp).all() and (documents.logp <= 0).all()
    for i in range(60):
        for _, slipped, back, _, n in sentences(source, documents, i):
            number, end = n[-3 if back else -2], n[-2 if back else -1]
            assert math.isclose(math.exp(documents.logp[number]), rate / 22 if slipped else 1 - rate)
            wanted = (1 - uncorrected if back else uncorrected) if slipped else 1.0
            assert math.isclose(math.exp(documents.logp[end]), wanted)


def test_a_rate_near_one_fits():
    documents = Source(preset("med", retry_kind="slip", retry_rate=0.999), 0, "all").documents(range(5))
    assert np.diff(documents.offsets).max() > 10_000
    assert np.isfinite(documents.logp).all()


def test_published_order_and_records():
    source, documents = drawn(0.5, solution_order="published")
    for i in range(40):
        stands = [slot for slot, _, back, _, _ in sentences(source, documents, i) if not back]
        assert stands == [int(s) for s in documents.problems.topo[i] if s >= 0]
    source, documents = drawn(0.5)
    for i in range(40):
        record = writers.record(source, documents, i, i)
        slips = [(k, s[2]) for k, s in enumerate(sentences(source, documents, i)) if s[1]]
        assert [(m["step"], m["corrected"], m["kind"]) for m in record["mistakes"]] == [(*s, "slip") for s in slips]
        assert not list(audit_record(record))
        for m in record["mistakes"]:
            changed = [x if x is not m else {**m, "corrected": not m["corrected"]} for x in record["mistakes"]]
            assert list(audit_record({**record, "mistakes": changed}))
            assert list(audit_record({**record, "mistakes": [x for x in record["mistakes"] if x is not m]}))


def test_what_a_step_taken_back_says_binds_nothing():
    source, documents = drawn()
    problem, world = documents.problems.take(0), source.world
    text = world.decode(documents.response(0)[:-3])
    first = text.split(".")[0] + "."
    back = first.replace(" BACK", "").replace(".", " BACK.")
    assert check_text(problem, world, back + text).right[0]
    assert check_text(problem, world, back.replace("; so", "; q = 4; so") + text).right[0]
    for broken in (back.replace("; so", "; q; so"), back.replace(" BACK", " BACK BACK"), back.replace("; so", " so")):
        assert check_text(problem, world, broken + text).kind[0, 0] == MALFORMED
    assert not check_text(problem, world, text + back).right[0]
