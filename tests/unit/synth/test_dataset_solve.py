"""`Source.solve`: fresh documents of given problems, addressed by (seed, stream, index), with other settings."""

import numpy as np
import pytest

from synth.dataset import Source
from synth.judge.checker import check
from synth.spec import preset

SOURCE = Source(preset("tiny", letter_order="random"), seed=4, split="train")
PROBLEMS = SOURCE.problems(range(20))


def padded(documents) -> tuple[np.ndarray, list[int]]:
    rows = [documents.response(i) for i in range(len(documents))]
    tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, [len(row) for row in rows]


def test_the_prompts_stay_and_the_solutions_are_fresh_and_right():
    first, again = SOURCE.documents(range(20)), SOURCE.solve(PROBLEMS)
    assert all(np.array_equal(first.prompt_tokens(i), again.prompt_tokens(i)) for i in range(20))
    assert any(not np.array_equal(first.response(i), again.response(i)) for i in range(20))
    assert check(PROBLEMS, SOURCE.world, *padded(again)).right.all()


def test_a_document_is_addressed_by_seed_stream_and_index():
    base = SOURCE.solve(PROBLEMS, stream="peers", indices=range(100, 120))
    part = SOURCE.solve(PROBLEMS.take([3, 7]), stream="peers", indices=[103, 107])
    assert np.array_equal(part.response(0), base.response(3)) and np.array_equal(part.response(1), base.response(7))
    for other in (
        SOURCE.solve(PROBLEMS, stream="other", indices=range(100, 120)),
        SOURCE.solve(PROBLEMS, stream="peers", indices=range(20)),
        Source(SOURCE.spec, seed=5).solve(PROBLEMS, stream="peers", indices=range(100, 120)),
    ):
        assert not np.array_equal(other.tokens, base.tokens)


def test_settings_of_the_writing_may_change_and_no_others():
    changed = SOURCE.solve(PROBLEMS, retry_rate=0.5, retry_kind="miss", order="qp")
    assert changed.mistake.any() and check(PROBLEMS, SOURCE.world, *padded(changed)).retries.any()
    with pytest.raises(ValueError, match="'ops' is no setting of a solution; accepted: order"):
        SOURCE.solve(PROBLEMS, ops=5)
    with pytest.raises(ValueError, match="retry_rate=2 is not possible"):
        SOURCE.solve(PROBLEMS, retry_rate=2)
    with pytest.raises(ValueError, match="3 indices for 20 problems"):
        SOURCE.solve(PROBLEMS, indices=[1, 2, 3])
