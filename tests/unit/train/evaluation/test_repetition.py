"""The detector of loops, against hand-made tails and against a plain restatement of its definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.evaluation.repetition import periods


def padded(*rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    width = max(len(row) for row in rows)
    return np.array([row + [0] * (width - len(row)) for row in rows]), np.array([len(row) for row in rows])


def naive(row: list[int]) -> int:
    for period in range(1, 33):
        window = max(3 * period, 32)
        tail = row[-window:]
        if len(tail) == window and np.mean([tail[i] == tail[i - period] for i in range(period, window)]) >= 0.9:
            return period
    return 0


def test_loops_of_every_period_are_found_and_padding_is_not_one():
    rows = [(list(range(10, 10 + period)) * 200)[:100] for period in (1, 2, 7, 32)]
    tokens, length = padded(*rows, [5] * 8, [5] * 8 + list(range(100, 140)))
    assert periods(tokens, length).tolist() == [1, 2, 7, 32, 0, 0]


def test_a_short_or_aperiodic_response_is_not_repetitive():
    rng = np.random.default_rng(0)
    tokens, length = padded([7] * 31, list(rng.integers(0, 20, 120)), list(range(33)))
    assert periods(tokens, length).tolist() == [0, 0, 0]


def test_a_loop_that_ends_or_stumbles_once_still_counts():
    looped = [3, 4, 5, 6] * 20
    tokens, length = padded([*looped, 1], [*looped[:70], 9, *looped[71:]])
    assert periods(tokens, length).tolist() == [4, 4]


def test_an_empty_batch_has_no_loops():
    assert periods(np.zeros((2, 0), dtype=int), np.zeros(2, dtype=int)).tolist() == [0, 0]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=110), min_size=1, max_size=4), st.integers(0, 40))
def test_the_definition(rows, repeats):
    rows = [row + row[-3:] * repeats for row in rows]
    tokens, length = padded(*rows)
    assert periods(tokens, length).tolist() == [naive(row) for row in rows]
