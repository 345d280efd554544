"""The oracle's probabilities are the frequencies of many fresh solutions of one problem, and its entropy theirs.

Nothing is shared with the oracle under test but the generator itself: solutions are drawn by the thousand, grouped by
prefix, and what comes next is counted.
"""

from functools import cache, lru_cache

import numpy as np
import pytest
from scipy import stats

from synth.dataset import Source
from synth.oracle.next_token import EXACT, Oracle
from synth.problem.arrays import Problems
from synth.spec import preset

DRAWS = 4_000
SMALL = {"ops": 5, "edges": 8, "exact_ops": True, "letters": 12}
WORLDS = {
    "plain": {},
    "ordered": {"letter_order": "ordered"},
    "retry": {"letter_order": "ordered", "retry_rate": 0.3},
    "weak": {"letter_order": "ordered", "retry_rate": 0.3, "retry_kind": "weak"},
    "miss": {"letter_order": "ordered", "retry_rate": 0.3, "retry_kind": "miss"},
    "slip": {"letter_order": "ordered", "modulus": 5, "retry_rate": 0.2, "retry_kind": "slip", "uncorrected": 0.3},
    "slip letters": {"modulus": 5, "retry_rate": 0.3, "retry_kind": "slip"},
    "longer": {"letter_order": "ordered", "shortest": False},
    "longer weak": {"letter_order": "ordered", "shortest": False, "retry_rate": 0.3, "retry_kind": "weak"},
    "missing": {"letter_order": "ordered", "missing_premise": 1.0, "retry_rate": 0.2},
}


def repeated(problems: Problems, n: int) -> Problems:
    return problems.repeat(n)


@lru_cache(maxsize=32)
def wide(name: str) -> list[int]:
    """The two problems among 150 whose solutions branch most, letters aside."""
    spec = preset("med", **{**SMALL, **WORLDS[name], "letter_order": "ordered", "retry_rate": 0.0})
    problems = Source(preset("med", **SMALL, **WORLDS[name]), seed=1, split="all").problems(range(150))
    entropy = Oracle(spec).entropy(Source(spec, seed=1, split="all").solve(problems))
    return np.argsort(-entropy, kind="stable")[:2].tolist()


@lru_cache(maxsize=4)
def drawn(name: str, place: int):
    """(oracle, problem, different responses padded with -1 [U, R], how often each was drawn [U], documents)."""
    spec = preset("med", **SMALL, **WORLDS[name])
    source = Source(spec, seed=1, split="all")
    problem = source.problems([wide(name)[place]])
    documents = source.solve(repeated(problem, DRAWS), stream=f"frequencies {place}")
    lengths = np.diff(documents.offsets) - documents.prompt
    rows = np.full((DRAWS, lengths.max()), -1, dtype=np.int64)
    for i in range(DRAWS):
        rows[i, : lengths[i]] = documents.response(i)
    different, times = np.unique(rows, axis=0, return_counts=True)
    return Oracle(spec), problem, different, times, documents


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", WORLDS)
def test_probabilities_are_frequencies(name, place):
    oracle, problem, rows, times, _ = drawn(name, place)
    next_token = oracle(repeated(problem, len(rows)), [row[row >= 0] for row in rows])
    entries = np.diff(next_token.starts)
    cells: dict[tuple, dict] = {}
    for u, row in enumerate(rows):
        for t in np.flatnonzero(entries[next_token.rows[u] : next_token.rows[u + 1]] > 1):
            j = next_token.rows[u] + t
            assert next_token.status[j] == EXACT
            here = slice(next_token.starts[j], next_token.starts[j + 1])
            cell = cells.setdefault(
                tuple(row[:t]), {"p": dict(zip(next_token.ids[here], next_token.probs[here], strict=True)), "n": {}}
            )
            cell["n"][row[t]] = cell["n"].get(row[t], 0) + times[u]
    statistic, freedom = 0.0, 0
    for cell in cells.values():
        total = sum(cell["n"].values())
        assert cell["n"].keys() <= cell["p"].keys(), "the generator wrote what the oracle holds impossible"
        expected = np.array([p * total for p in cell["p"].values()])
        observed = np.array([cell["n"].get(token, 0) for token in cell["p"]], dtype=float)
        rare = expected < 8
        if rare.any():  # pooled, so that the statistic is chi-square
            expected = np.append(expected[~rare], expected[rare].sum())
            observed = np.append(observed[~rare], observed[rare].sum())
        if len(expected) > 1 and expected.min() >= 8:
            statistic += ((observed - expected) ** 2 / expected).sum()
            freedom += len(expected) - 1
    assert freedom >= 2
    assert stats.chi2.sf(statistic, freedom) > 1e-4, (statistic, freedom)
    assert freedom < 30 or stats.chi2.cdf(statistic, freedom) > 1e-4, (statistic, freedom)


@pytest.mark.parametrize("name", WORLDS)
def test_entropy_is_the_mean_negative_log_probability(name):
    spec = preset("med", **{**SMALL, "exact_ops": False, "ops": 10}, **WORLDS[name])
    documents = Source(spec, seed=2, split="all").documents(range(3000))
    summed = Oracle(spec).entropy(documents)
    drawn_logp = np.array(
        [
            documents.logp[a + p : b].sum()
            for a, b, p in zip(documents.offsets, documents.offsets[1:], documents.prompt, strict=False)
        ]
    )
    difference = summed + drawn_logp
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert abs(difference.mean()) < 4 * max(error, 1e-12)


@pytest.mark.parametrize("place", [0, 1])
def test_entropy_of_a_problem_is_the_closed_form_over_its_orders(place):
    """Independent of the walk: dynamic programming over the sets of parameters that can be done."""
    oracle, problem, _, _, documents = drawn("plain", place)
    needed = [int(s) for s in np.flatnonzero(problem.needed[0])]
    query = int(problem.query[0])
    names = problem.slot_names()[0]
    needs = {s: {int(f) for f in problem.terms[0, s, : problem.n_terms[0, s]].ravel() if f >= 0} for s in needed}

    @cache
    def order_entropy(done: frozenset) -> float:
        if query in done:
            return 0.0
        ready = [s for s in needed if s not in done and needs[s] <= done]
        return np.log(len(ready)) + np.mean([order_entropy(done | {s}) for s in ready])

    used = round(oracle.spec.ops)
    letters = sum(np.log(oracle.spec.letters - i) for i in range(used))
    assert len({tuple(names[s]) for s in needed}) == len(needed)
    summed = oracle.entropy(documents)
    exact = order_entropy(frozenset()) + letters
    assert abs(summed.mean() - exact) <= 4 * summed.std(ddof=1) / np.sqrt(len(summed)) + 1e-9
