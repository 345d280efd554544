"""A million mutated, spliced, random and equivalent solutions: no exception, nothing wrong accepted or right rejected.

Sequences are made by whole-array edits of right ones, so that this costs no more than the checking. On all of them the
verdicts must agree with themselves, and on those that are right by construction (other order, other letters, operands
of + and * exchanged, unneeded steps, steps taken back) must be right. On a sample they must agree with the independent
judge of `tests/unit/solution_oracle.py`. Try: `python -m pytest -s tests/numeric/test_checker_fuzz.py`.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest

from synth import world as W
from synth.checker import ENDED, ENDINGS, KINDS, MALFORMED, RETRY, UNNEEDED, Verdicts, check
from synth.dataset import Source
from synth.problem import Problems, to_record
from synth.spec import preset

is_right = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "solution_oracle.py"))["is_right"]

ROWS, BATCHES, JUDGED = 50_000, 20, 1_200  # a batch is one setting; so many of it go to the independent judge
SETTINGS = [
    preset("tiny", letter_order="random"),
    preset("tiny", ops=5, edges=8, letter_order="random", retry_rate=0.2, retry_kind="miss", missing_premise=0.3),
    preset("tiny", retry_kind="slip", retry_rate=0.2, letter_order="random", shortest=False),
    preset("med", ops=4, missing_premise=0.5),
    preset("med", ops=5, retry_kind="slip", retry_rate=0.2, uncorrected=0.1, missing_premise=0.2),
]
DISTINCT = 500  # problems of a batch


def padded(documents) -> tuple[np.ndarray, np.ndarray]:
    rows = [documents.response(i) for i in range(len(documents))]
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, lengths


def gathered(tokens: np.ndarray, at: np.ndarray) -> np.ndarray:
    """tokens[i, at[i, k]], the padding where that is outside."""
    inside = (at >= 0) & (at < tokens.shape[1])
    return np.where(inside, np.take_along_axis(tokens, np.clip(at, 0, tokens.shape[1] - 1), 1), W.PAD)


def relettered(random, world, tokens: np.ndarray) -> np.ndarray:
    """Every letter of a row by another one, one to one."""
    renamed = random.permuted(np.tile(np.arange(world.n_letters), (len(tokens), 1)), axis=1) + world.first_letter
    is_letter = (tokens >= world.first_letter) & (tokens < world.first_name)
    index = np.where(is_letter, tokens - world.first_letter, 0)
    return np.where(is_letter, np.take_along_axis(renamed, index, 1), tokens)


def exchanged(random, world, tokens: np.ndarray) -> np.ndarray:
    """The operands of + and * the other way round in half of the clauses, in letters and in numbers alike."""
    phrases = world.phrases
    clause = np.isin(tokens, phrases[[W.SO, W.SEMICOLON]]).cumsum(axis=1)
    coin = np.take_along_axis(random.random((len(tokens), clause.max() + 1)) < 0.5, clause, 1)
    sign = np.isin(tokens, phrases[[W.PLUS, W.TIMES]]) & coin
    step = np.zeros(tokens.shape, dtype=np.int64)
    step[:, :-1] += 2 * sign[:, 1:]
    step[:, 1:] -= 2 * sign[:, :-1]
    return gathered(tokens, np.arange(tokens.shape[1]) + step)


def mutated(random, world, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """One edit of each row, its kind drawn row by row."""
    n, width = tokens.shape
    place = np.arange(width)
    at, other = ((random.random((2, n)) * lengths).astype(np.int64))[..., None]
    here, there = np.take_along_axis(tokens, at, 1), np.take_along_axis(tokens, other, 1)
    letters, numbers = range(world.first_letter, world.first_name), range(world.first_number, world.first_letter)
    of_class = np.where(
        (here >= world.first_letter) & (here < world.first_name), random.integers(*span(letters), size=(n, 1)),
        np.where((here >= world.first_number) & (here < world.first_letter),
                 random.integers(*span(numbers), size=(n, 1)), random.integers(world.size, size=(n, 1))),
    )  # fmt: skip
    odd = random.choice([-1, -5, world.size, 2**40, -(2**40), world.size + 7], size=(n, 1))
    sentence = np.pad((tokens == world.phrases[W.STOP]).cumsum(axis=1), ((0, 0), (1, 0)))[:, :-1]
    sentence = np.where(place < lengths[:, None] - 3, sentence, 10**6)  # the answer and the end stay last
    a, b = np.take_along_axis(sentence, at, 1), np.take_along_axis(sentence, other, 1)
    in_a, in_b = sentence == a, sentence == b
    key = np.where(in_a, b, np.where(in_b, a, sentence))  # two sentences change places
    donor = random.permutation(n)
    near = random.random(n) < 0.7
    donor[near] = (np.arange(n)[near] + DISTINCT) % n  # the next row of the same problem
    edits = [
        np.where(place == at, of_class, tokens),
        np.where(place == at, random.integers(world.size, size=(n, 1)), tokens),
        np.where(place == at, odd, tokens),
        np.where(place == at, there, np.where(place == other, here, tokens)),
        gathered(tokens, place + (place >= at)),  # one token less
        gathered(tokens, place - (place > at)),  # one twice
        np.where(tokens == here, of_class, tokens),  # the same change everywhere
        gathered(tokens, key.argsort(axis=1, kind="stable")),
        gathered(tokens, (in_a & (a < 10**6)).argsort(axis=1, kind="stable")),  # a sentence after all
        gathered(tokens, np.where(place >= at, place + in_a.sum(axis=1)[:, None] * (a < 10**6), place)),  # or left out
        np.where(place < at, tokens, W.PAD),
        np.where(place < at, tokens, tokens[donor]),  # the beginning of one, the end of another
        np.where(place < at, tokens, gathered(tokens[donor], place - at + other)),
    ]
    return np.choose(random.integers(len(edits), size=n)[:, None], edits)


def span(values: range) -> tuple[int, int]:
    return values.start, values.stop


def made(spec, seed: int) -> tuple:
    """(world, records, problem of each row, tokens, lengths, which rows are right by construction)."""
    random = np.random.default_rng(seed)
    source = Source(spec, seed, "all")
    few = source.problems(range(DISTINCT))
    which = np.arange(ROWS) % DISTINCT
    problems = Problems(*(a[which] for a in few))
    documents = source.solve(problems, stream="fuzz")
    tokens, lengths = padded(documents)
    tokens = np.pad(tokens, ((0, 0), (0, 8)))
    standing = (documents.mistake > 0).copy()  # uncorrected slips: in a step that does not say BACK
    row = np.repeat(np.arange(ROWS), np.diff(documents.offsets))
    back = documents.tokens == source.world.phrases[W.BACK]
    step = row * 1000 + documents.step
    standing &= ~np.isin(step, step[back])
    right = ~np.isin(np.arange(ROWS), row[standing])
    tokens = relettered(random, source.world, exchanged(random, source.world, tokens))
    kind = random.random(ROWS)
    change = kind > 0.2
    tokens[change] = mutated(random, source.world, tokens[change], lengths[change])
    again = kind > 0.65
    tokens[again] = mutated(random, source.world, tokens[again], lengths[again])
    noise = kind > 0.97
    tokens[noise] = random.integers(-3, source.world.size + 3, size=tokens[noise].shape)
    records = [to_record(few.take(i), source.world, "pq") for i in range(DISTINCT)]
    return source.world, records, problems, tokens, np.where(change, tokens.shape[1], lengths), right & ~change


def consistent(v: Verdicts) -> None:
    """What every batch of verdicts must fulfil."""
    inside = np.arange(v.kind.shape[1]) < v.steps[:, None]
    assert ((v.kind >= 0) == inside).all() and (v.kind < len(KINDS)).all()
    assert ((v.stop > v.start) == inside).all()
    assert ((v.stop[:, :-1] <= v.start[:, 1:]) | ~inside[:, 1:]).all()
    wrong = (v.kind >= MALFORMED) & inside
    first = np.where(wrong.any(axis=1), wrong.argmax(axis=1), -1)
    assert np.array_equal(first, v.first_mistake)
    assert np.array_equal(v.right, (first < 0) & (v.ending == ENDED) & v.answer_right)
    assert (v.published | ~v.right).all()
    assert np.array_equal(v.retries, (v.kind == RETRY).sum(axis=1))
    assert np.array_equal(v.unneeded, (v.kind == UNNEEDED).sum(axis=1))
    assert (v.ending >= 0).all() and (v.ending < len(ENDINGS)).all()


def said(world, record: dict, tokens: list[int]) -> bool:
    """The independent judge on tokens: the steps as text, then exactly `<answer>`, number or word, `<eos>`."""
    if W.EOS not in tokens:
        return False
    tokens = tokens[: tokens.index(W.EOS) + 1]
    if len(tokens) < 3 or tokens[-3] != W.ANSWER or not all(len(W.SPECIALS) <= t < world.size for t in tokens[:-3]):
        return False
    word = tokens[-2] == world.phrases[W.UNDETERMINED]
    number = tokens[-2] - world.first_number if world.first_number <= tokens[-2] < world.first_letter else -1
    return is_right(record, world.decode(tokens[:-3]), None if word else number)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fuzzing(batch):
    world, records, problems, tokens, lengths, right = made(SETTINGS[batch % len(SETTINGS)], 100 + batch)
    verdicts = check(problems, world, tokens, lengths)
    consistent(verdicts)
    assert verdicts.right[right].all() and right.mean() > 0.05
    assert 0.1 < verdicts.right.mean() < 0.5
    edited = np.flatnonzero(~right)
    rng = np.random.default_rng(batch)
    accepted = rng.permutation(edited[verdicts.right[edited]])[: JUDGED // 3]  # rare, and where it matters
    sample = np.concatenate([rng.choice(edited, JUDGED - len(accepted), replace=False), accepted])
    for i in sample:
        row = tokens[i, : lengths[i]].tolist()
        assert said(world, records[i % DISTINCT], row) == verdicts.right[i], world.decode(
            [t for t in row if 0 <= t < world.size]
        )
