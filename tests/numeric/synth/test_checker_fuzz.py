"""Mutated, spliced, random and equivalent solutions: no exception, nothing wrong accepted or right rejected.

A million in `make torture`, a quarter of it in `make test`. Sequences are made by whole-array edits of right ones, so
that this costs no more than the checking. On all of them the verdicts must agree with themselves, and on those that are
right by construction (other order, other letters, operands of + and * exchanged, unneeded steps, steps taken back) must
be right. On a sample they must agree with the independent judge of `tests/helpers/reference_solutions.py`.
"""

import numpy as np
import pytest

from synth.dataset import Source
from synth.judge.checker import ENDED, ENDINGS, KINDS, MALFORMED, RETRY, UNNEEDED, Verdicts, check
from synth.problem.records import to_record
from synth.spec import preset
from synth.world import vocabulary as W
from tests.helpers.effort import effort
from tests.helpers.reference_solutions import is_right

ROWS, WRITTEN, JUDGED = 50_000, 4_000, 1_200  # of a batch; so many go to the independent judge
BATCHES = effort(5, 20)  # a batch is one setting
SETTINGS = [
    preset("tiny", letter_order="random"),
    preset("tiny", ops=5, edges=8, letter_order="random", retry_rate=0.2, retry_kind="miss", missing_premise=0.3),
    preset("tiny", retry_kind="slip", retry_rate=0.2, letter_order="random", shortest=False),
    preset("med", ops=4, missing_premise=0.5),
    preset("med", ops=5, retry_kind="slip", retry_rate=0.2, uncorrected=0.1, missing_premise=0.2),
]
DISTINCT = 500  # problems of a batch
EDITS = 13


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
    """One edit of each row; every kind of edit gets an equal share of the rows."""
    out = tokens.copy()
    for kind, rows in enumerate(np.array_split(random.permutation(len(tokens)), EDITS)):
        donor = np.where(random.random(len(rows)) < 0.7, rows + DISTINCT, random.permutation(rows)) % len(tokens)
        out[rows] = edited(random, world, tokens[rows], lengths[rows], tokens[donor], kind)
    return out


def edited(random, world, tokens, lengths, donors, kind: int) -> np.ndarray:
    """One kind of edit at a random place of every row; `donors` are rows of the same problem, or of others."""
    n, place = len(tokens), np.arange(tokens.shape[1])
    at, other = ((random.random((2, n)) * lengths).astype(np.int64))[..., None]
    here, there = np.take_along_axis(tokens, at, 1), np.take_along_axis(tokens, other, 1)
    if kind in (0, 1):  # another token of the same class, here or everywhere
        new = random.integers(world.size, size=(n, 1))
        for low, high in ((world.first_number, world.first_letter), (world.first_letter, world.first_name)):
            new = np.where((here >= low) & (here < high), random.integers(low, high, size=(n, 1)), new)
        return np.where(place == at if kind == 0 else tokens == here, new, tokens)
    if kind == 2:
        return np.where(place == at, random.integers(world.size, size=(n, 1)), tokens)
    if kind == 3:
        return np.where(place == at, random.choice([-1, -5, world.size, 2**40, -(2**40)], size=(n, 1)), tokens)
    if kind == 4:
        return np.where(place == at, there, np.where(place == other, here, tokens))
    if kind in (5, 6):  # one token less, or one twice
        return gathered(tokens, place + (place >= at) if kind == 5 else place - (place > at))
    if kind == 7:
        return np.where(place < at, tokens, W.PAD)
    if kind in (8, 9):  # the beginning of one and the end of another
        return np.where(place < at, tokens, donors if kind == 8 else gathered(donors, place - at + other))
    sentence = np.pad((tokens == world.phrases[W.STOP]).cumsum(axis=1), ((0, 0), (1, 0)))[:, :-1]
    a, b = np.take_along_axis(sentence, at, 1), np.take_along_axis(sentence, other, 1)
    last = place >= lengths[:, None] - 3  # the answer and the end stay where they are
    in_a, in_b = (sentence == a) & ~last, (sentence == b) & ~last
    if kind == 10:  # two sentences change places
        key = np.where(in_a, b, np.where(in_b, a, sentence))
    else:  # one comes after all others, or before them
        key = np.where(in_a, 10**5 if kind == 11 else -1, sentence)
    return gathered(tokens, np.where(last, 10**6, key).argsort(axis=1, kind="stable"))


def made(spec, seed: int) -> tuple:
    """(world, records, problem of each row, tokens, lengths, which rows are right by construction)."""
    random = np.random.default_rng(seed)
    source = Source(spec, seed, "all")
    few = source.problems(range(DISTINCT))
    documents = source.solve(few.take(np.arange(WRITTEN) % DISTINCT), stream="fuzz")
    tokens, lengths = padded(documents)
    tokens = tokens[:, : int(np.percentile(lengths, 95))]  # a few long rows would make all of it slow: these are cut
    cut = lengths > tokens.shape[1]
    lengths = np.minimum(lengths, tokens.shape[1])
    standing = (documents.mistake > 0).copy()  # uncorrected slips: in a step that does not say BACK
    row = np.repeat(np.arange(WRITTEN), np.diff(documents.offsets))
    back = documents.tokens == source.world.phrases[W.BACK]
    step = row * 1000 + documents.step
    standing &= ~np.isin(step, step[back])
    right = ~cut & ~np.isin(np.arange(WRITTEN), row[standing])
    written = np.arange(ROWS) % WRITTEN
    tokens, lengths, right = tokens[written], lengths[written], right[written]
    tokens = relettered(random, source.world, exchanged(random, source.world, tokens))
    kind = random.random(ROWS)
    change = kind > 0.2
    tokens[change] = mutated(random, source.world, tokens[change], lengths[change])
    again = kind > 0.65
    tokens[again] = mutated(random, source.world, tokens[again], lengths[again])
    noise = kind > 0.97
    tokens[noise] = random.integers(-3, source.world.size + 3, size=tokens[noise].shape)
    records = [to_record(few.take(i), source.world, "pq") for i in range(DISTINCT)]
    problems = few.take(np.arange(ROWS) % DISTINCT)
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
