"""Inserted mistakes and the distribution of the next sentence, against definitions in plain Python."""

import math
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from synth.dataset import Source
from synth.problem.arrays import SLOTS, dependencies, name_tokens
from synth.spec import preset
from synth.write.mistakes import KINDS, candidates, name_probs, next_needed, next_sentence_probs

NAMED = KINDS[:3]  # those that name a wrong parameter; `test_slips.py` has the fourth
RATE, COUNT = 0.4, 400
DRAWN: dict = {}


def drawn(kind: str, order: str = "uniform"):
    """Documents of one kind of mistake, made once."""
    if (kind, order) not in DRAWN:
        spec = preset("med", retry_rate=RATE, retry_kind=kind, solution_order=order)
        DRAWN[kind, order] = Source(spec, 1, "all").documents(range(COUNT))
    return DRAWN[kind, order]


def below(problem) -> dict[int, set[int]]:
    """Slot -> the slots it depends on directly, for what exists."""
    return {int(s): set(dependencies(problem, int(s))) for s in np.flatnonzero(problem.exists[0])}


def wrong_by_definition(kind, problem, graph, done, coming) -> set[int]:
    if kind == "retry":
        return {s for s in graph if s not in done and not graph[s] <= done}
    if kind == "weak":
        return {s for s in graph if problem.needed[0, s] and s not in done and s != coming}
    return {s for s in graph if s not in done and s != coming}


def positions(documents, i: int):
    """(problem, graph, done before, mistakes in order, right slot) for every solution position of document i."""
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    inside = documents.segment[span] == 3
    columns = (documents.step[span][inside], documents.param[span][inside], documents.mistake[span][inside])
    sentences = [next(rows)[1:] for _, rows in groupby(zip(*columns, strict=True), key=lambda row: row[0])]
    problem = documents.problems.take(i)
    graph, done, wrong = below(problem), set(), []
    for slot, mistake in sentences:
        if mistake:
            wrong.append(int(slot))
        else:
            yield problem, graph, frozenset(done), wrong, int(slot)
            done.add(int(slot))
            wrong = []
    assert not wrong, "a mistake after the last step"


@pytest.mark.parametrize("order", ["uniform", "published"])
@pytest.mark.parametrize("kind", NAMED)
def test_mistakes_are_of_their_kind_and_never_repeated_in_one_place(kind, order):
    seen = again = 0
    for i in range(COUNT):
        earlier: set[int] = set()
        for problem, graph, done, wrong, right in positions(drawn(kind, order), i):
            allowed = wrong_by_definition(kind, problem, graph, done, right)
            assert set(wrong) <= allowed
            assert len(set(wrong)) == len(wrong)
            assert graph[right] <= done
            assert problem.needed[0, right]
            seen += len(wrong)
            again += len(earlier & set(wrong))
            earlier |= set(wrong)
    assert seen > 500
    assert again > 20  # without replacement inside one position only


@pytest.mark.parametrize("kind", NAMED)
def test_number_of_mistakes_is_geometric_cut_at_the_candidates(kind):
    counted, expected = np.zeros(4), np.zeros(4)
    for i in range(COUNT):
        for problem, graph, done, wrong, right in positions(drawn(kind), i):
            most = len(wrong_by_definition(kind, problem, graph, done, right))
            share = [RATE**j * (1 - RATE) if j < most else RATE**j if j == most else 0.0 for j in range(3)]
            expected += [*share, 1 - sum(share)]
            counted[min(len(wrong), 3)] += 1
    assert stats.chisquare(counted, expected).pvalue > 1e-4


def spread(choices: list[tuple[int, list[int]]]) -> float:
    """p-value that each choice is uniform over its own sorted candidates (randomised probability transform)."""
    generator = np.random.default_rng(0)
    values = [(options.index(chosen) + generator.random()) / len(options) for chosen, options in choices]
    return float(stats.kstest(values, "uniform").pvalue)


@pytest.mark.parametrize("kind", NAMED)
def test_mistakes_and_steps_are_drawn_uniformly(kind):
    wrongs, rights = [], []
    for i in range(COUNT):
        for problem, graph, done, wrong, right in positions(drawn(kind), i):
            allowed = wrong_by_definition(kind, problem, graph, done, right)
            for j, slot in enumerate(wrong):
                wrongs.append((slot, sorted(allowed - set(wrong[:j]))))
            ready = [s for s in graph if problem.needed[0, s] and s not in done and graph[s] <= done]
            rights.append((right, sorted(ready)))
    assert spread([c for c in wrongs if len(c[1]) > 1]) > 1e-4
    assert spread([c for c in rights if len(c[1]) > 1]) > 1e-4


def test_published_order_is_the_order_of_construction():
    documents = drawn("retry", "published")
    for i in range(COUNT):
        written = [right for *_, right in positions(documents, i)]
        assert written == [int(s) for s in documents.problems.topo[i] if s >= 0]


def test_no_rate_no_mistakes_and_the_same_problems():
    plain = Source(preset("med"), 1, "all").documents(range(50))
    assert not plain.mistake.any()
    assert np.array_equal(plain.problems.value, drawn("retry").problems.value[:50])


def test_a_rate_near_one_names_every_candidate():
    documents = Source(preset("hard", ops=30, edges=40, exact_ops=True, retry_rate=0.999), 0, "all").documents(range(8))
    total = 0
    for i in range(8):
        for problem, graph, done, wrong, right in positions(documents, i):
            total += len(wrong) == len(wrong_by_definition("retry", problem, graph, done, right))
    assert total > 8 * 15


# --- the next sentence --------------------------------------------------------------------------------------------

# No subnormal numbers: training in the same process may have told the processor to flush them to zero.
RATES = st.floats(0, 0.99, allow_subnormal=False)
PROBLEMS = Source(preset("hard", ops=18, exact_ops=True), 5, "all").problems(range(40))  # often several steps are ready


def walk(problem, fraction: float) -> np.ndarray:
    """Mask of a prefix of the order of construction."""
    done = np.zeros(SLOTS, dtype=np.int64)
    order = [s for s in problem.topo[0] if s >= 0]
    done[order[: int(fraction * len(order))]] = 1
    return done


@given(
    st.integers(0, 39), RATES, st.sampled_from([0, 1, 2]), st.integers(0, 3), st.floats(0, 0.9, allow_subnormal=False)
)
def test_next_sentence_probs_sums_to_one_and_is_the_sampler(i, fraction, kind, tries, rate):
    """Marginal over the coming step, worked out by listing every coming step; given tries that this coming allows."""
    problem = PROBLEMS.take(i)
    done, excluded, graph = walk(problem, fraction), np.zeros(SLOTS, dtype=np.int64), below(problem)
    finished = {int(s) for s in np.flatnonzero(done)}
    ready = [s for s in graph if problem.needed[0, s] and s not in finished and graph[s] <= finished]
    options = wrong_by_definition(KINDS[kind], problem, graph, finished, ready[0])
    tried = set(sorted(options, key=lambda s: (s not in ready, s))[:tries])  # other ready ones first: the hard case
    excluded[list(tried)] = 1
    right, wrong = np.zeros((2, SLOTS))
    next_sentence_probs(kind, rate, problem, done, excluded, right, wrong)
    assert math.isclose(right.sum() + wrong.sum(), 1.0, rel_tol=1e-12)
    coming = [x for x in ready if x not in tried]
    expected_right, expected_wrong = np.zeros((2, SLOTS))
    for x in coming:
        left = wrong_by_definition(KINDS[kind], problem, graph, finished, x) - tried
        p = rate if left else 0.0
        expected_right[x] += (1 - p) / len(coming)
        for y in left:
            expected_wrong[y] += p / len(left) / len(coming)
    assert np.allclose(right, expected_right, rtol=1e-12, atol=0)
    assert np.allclose(wrong, expected_wrong, rtol=1e-12, atol=0)


@given(st.integers(0, 39), RATES, st.sampled_from([0, 1, 2]))
def test_name_probs_multiplies_back_to_the_branches(i, fraction, kind):
    problem = PROBLEMS.take(i)
    probs = np.zeros((2, SLOTS))
    next_sentence_probs(
        kind, 0.3, problem, walk(problem, fraction), np.zeros(SLOTS, dtype=np.int64), probs[0], probs[1]
    )
    for x in np.flatnonzero(probs.sum(axis=0)):
        owner, thing, defined = name_probs(problem, probs, *name_tokens(problem, x))
        assert math.isclose(owner * thing * defined, probs[0, x], rel_tol=1e-12, abs_tol=1e-15)
        assert math.isclose(owner * thing * (1 - defined), probs[1, x], rel_tol=1e-12, abs_tol=1e-15)


@given(st.integers(0, 39), RATES)
def test_masks_and_their_counts(i, fraction):
    problem, mask = PROBLEMS.take(i), np.full(SLOTS, 7, dtype=np.int64)
    done, none = walk(problem, fraction), np.zeros(SLOTS, dtype=np.int64)
    graph, finished = below(problem), {int(s) for s in np.flatnonzero(walk(problem, fraction))}
    assert next_needed(problem, done, mask) == mask.sum() >= 1
    ready = {int(s) for s in np.flatnonzero(mask)}
    assert ready == {s for s in graph if problem.needed[0, s] and s not in finished and graph[s] <= finished}
    coming = min(ready)
    for number, kind in enumerate(NAMED):
        assert candidates(number, problem, done, none, coming, mask) == mask.sum()
        assert set(np.flatnonzero(mask)) == wrong_by_definition(kind, problem, graph, finished, coming)


@given(
    st.integers(0, 39), RATES, st.integers(0, 4), st.sampled_from([0, 1, 2]), st.floats(0, 0.9, allow_subnormal=False)
)
def test_next_sentence_probs_of_longer_solutions_is_the_rule_of_bayes(i, fraction, tries, kind, rate):
    """Any ready parameter may come next. For weak only some are candidates, so what was tried tells which it may be."""
    problem = PROBLEMS.take(i)
    done, excluded, graph = walk(problem, fraction), np.zeros(SLOTS, dtype=np.int64), below(problem)
    finished = {int(s) for s in np.flatnonzero(done)}
    ready = [s for s in graph if s not in finished and graph[s] <= finished]
    options = {x: wrong_by_definition(KINDS[kind], problem, graph, finished, x) for x in ready}
    tried = set(sorted(options[ready[0]])[:tries])
    excluded[list(tried)] = 1
    probs = np.zeros((2, SLOTS))
    next_sentence_probs(kind, rate, problem, done, excluded, probs[0], probs[1], 1000)
    likelihood = {
        x: math.prod(1 / (len(options[x]) - j) for j in range(len(tried))) for x in ready if tried <= options[x]
    }
    expected = np.zeros((2, SLOTS))
    for x, weight in likelihood.items():
        weight, left = weight / sum(likelihood.values()), options[x] - tried
        p = rate if left else 0.0
        expected[0, x] += weight * (1 - p)
        for y in left:
            expected[1, y] += weight * p / len(left)
    assert math.isclose(probs.sum(), 1.0, rel_tol=1e-12)
    assert np.allclose(probs, expected, rtol=1e-12, atol=0)


def test_longer_solutions_take_any_ready_parameter_and_never_run_out_of_letters():
    choices, tight = [], 0
    for letters, ops in ((52, 15), (8, 8)):
        spec = preset("med", ops=ops, letters=letters, shortest=False, letter_order="ordered")
        documents = Source(spec, 1, "all").documents(range(COUNT))
        world = spec.load_world()
        names = set(range(world.first_letter, world.first_name))
        used = [len(names & set(documents.response(i))) for i in range(COUNT)]
        assert max(used) <= letters
        tight += used.count(letters)
        for i in range(COUNT if letters == 52 else 0):
            for problem, graph, done, _, right in positions(documents, i):
                assert problem.query[0] not in done
                choices.append((right, sorted(s for s in graph if s not in done and graph[s] <= done)))
            assert right == problem.query[0]
    assert tight > 10
    assert any(not problem.needed[0, slot] for slot, _ in choices)
    assert spread([c for c in choices if len(c[1]) > 1]) > 1e-4
