"""The checker on generated problems: right solutions of any form, random mutations, fuzzing, JIT on and off.

`solution_oracle.py` beside this file is the independent judge and writer. Try:
`python -m pytest tests/unit/synth/judge/test_checker_generated.py`.
"""

import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.dataset import Source
from synth.judge.check_text import check_text
from synth.judge.checker import EARLY, KINDS, LATE, MALFORMED, NEVER, RIGHT, Verdicts, check
from synth.problem.records import from_record, to_record
from synth.spec import preset
from synth.world import vocabulary as W
from tests.helpers.paths import ROOT
from tests.helpers.reference_solutions import Writer, is_right


def judge(problem, world, tokens) -> Verdicts:
    return check(problem, world, np.array([tokens], dtype=np.int64).reshape(1, -1), [len(tokens)])


def respond(world, text: str, answer: int) -> list[int]:
    return [*world.encode(text), W.ANSWER, world.first_number + answer, W.EOS]


@lru_cache
def batch(name: str, n: int = 300, **settings):
    """(world, problems, records, response token lists) of a preset."""
    source = Source(preset(name, **settings), seed=5)
    documents = source.documents(range(n))
    records = [to_record(documents.problems.take(i), source.world, "pq") for i in range(n)]
    return source.world, documents.problems, records, [documents.response(i).tolist() for i in range(n)]


def padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(r) for r in rows])
    tokens = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, lengths


def oracle_says(world, record: dict, tokens: list[int]) -> bool:
    """The independent judge on tokens: the steps as text, then exactly `<answer>` number `<eos>`."""
    end = tokens.index(W.EOS) if W.EOS in tokens else -1
    tokens = tokens[: end + 1]
    if len(tokens) < 3 or tokens[-3] != W.ANSWER or not all(len(W.SPECIALS) <= t < world.size for t in tokens[:-3]):
        return False
    return is_right(record, world.decode(tokens[:-3]), tokens[-2] - world.first_number)


@pytest.mark.parametrize("settings", [("tiny",), ("med",), ("hard",), ("med", ("retry_rate", 0.3))], ids=str)
def test_every_generated_solution_is_right(settings):
    world, problems, records, responses = batch(settings[0], **dict(settings[1:]))
    verdicts = check(problems, world, *padded(responses))
    assert verdicts.right.all() and verdicts.published.all() and not verdicts.unneeded.any()
    assert verdicts.retries.any() == (len(settings) > 1)
    clauses = [sum(t in world.phrases[[W.SO, W.SEMICOLON]] for t in r) for r in responses]
    assert clauses == [r["ops"] for r in records]
    assert all(oracle_says(world, *pair) for pair in zip(records[:50], responses[:50], strict=True))


@given(st.integers(0, 299), st.integers(0, 10**6), st.sampled_from(["tiny", "med", "hard"]))
def test_any_order_any_letters_any_folding_is_right(i, seed, name):
    records = batch(name)[2]
    spec = preset(name)
    world = W.load("english", spec.modulus, 4, 5, 20, 104)
    random = np.random.default_rng(seed)
    record, letters = records[i], W.letter_names(104)
    steps = Writer(record, letters, random).steps(unneeded=int(random.integers(3)))
    text = ". ".join(s for _, s in steps).replace(". ", ".") + "."
    problem = from_record(record, world)
    assert is_right(record, text, record["answer"])
    by_text = check_text(problem, world, text, record["answer"])
    by_token = judge(problem, world, respond(world, text, record["answer"]))
    assert by_token.right[0] and by_token.published[0], text
    assert by_token.unneeded[0] == sum(
        not p["needed"] for n, _ in steps for p in record["parameters"] if p["name"] == n
    )
    for field in set(Verdicts._fields) - {"start", "stop"}:
        assert np.array_equal(getattr(by_text, field), getattr(by_token, field)), field


@given(st.integers(0, 299), st.integers(0, 10**6))
def test_dropped_swapped_doubled_and_late_steps_get_their_kind(i, seed):
    world, problems, records, _ = batch("med", ops=8, letters=104)
    random = np.random.default_rng(seed)
    record, problem = records[i], problems.take(i)
    needs = {p["name"]: {f for t in p["terms"] for f in t} for p in record["parameters"]}
    steps = Writer(record, W.letter_names(104), random).steps()

    def verdict(chosen) -> Verdicts:
        return judge(problem, world, respond(world, "".join(s + "." for _, s in chosen), record["answer"]))

    def first(verdicts) -> tuple[int, str]:
        where = verdicts.first_mistake[0]
        return where, KINDS[verdicts.kind[0, where]]

    at = int(random.integers(len(steps)))
    name = steps[at][0]
    dropped = verdict(steps[:at] + steps[at + 1 :])
    assert not dropped.right[0] and not dropped.published[0]
    if at == len(steps) - 1:
        assert dropped.ending[0] == EARLY and dropped.first_mistake[0] == -1
    else:
        user = next(j for j in range(at + 1, len(steps)) if name in needs[steps[j][0]])
        assert first(dropped) == (user - 1, "not ready")
        doubled = verdict([*steps[: at + 1], *steps[at:]])
        assert first(doubled) == (at + 1, "repeated") and not doubled.published[0]
        if name in needs[steps[at + 1][0]]:
            swapped = verdict([*steps[:at], steps[at + 1], steps[at], *steps[at + 2 :]])
            assert first(swapped) == (at, "not ready") and not swapped.published[0]
    again = verdict([*steps, steps[at]])
    assert again.ending[0] == LATE and first(again) == (len(steps), "repeated")
    cut = judge(problem, world, respond(world, "".join(s + "." for _, s in steps), record["answer"])[: -1 - at])
    assert cut.ending[0] == NEVER and not cut.right[0]


@given(st.integers(0, 299), st.integers(0, 10**6))
def test_a_changed_number_sign_or_letter_gets_its_kind(i, seed):
    world, problems, _, responses = batch("med", ops=8)
    random = np.random.default_rng(seed)
    tokens, problem = list(responses[i]), problems.take(i)
    at = int(random.integers(len(tokens) - 3))
    old, stop = tokens[at], int(world.phrases[W.STOP])
    step = sum(t == stop for t in tokens[:at])
    signs = [int(world.phrases[s]) for s in (W.PLUS, W.MINUS, W.TIMES)]
    classes = [range(world.first_number, world.first_letter), range(world.first_letter, world.first_name), signs]
    mine = next((c for c in classes if old in c), None)
    if mine is None:
        return
    tokens[at] = int(random.choice([t for t in mine if t != old]))
    verdicts = judge(problem, world, tokens)
    is_letter = old in classes[1]
    allowed = (
        ["wrong dependencies", "wrong reference", "malformed"] if is_letter else ["wrong reference", "wrong arithmetic"]
    )
    if old in classes[0]:
        allowed += ["wrong constant or operator", "wrong value"]
    assert KINDS[verdicts.kind[0, step]] in allowed
    assert verdicts.first_mistake[0] == step and not verdicts.right[0]


# ---- fuzzing


def mutate(random, world, tokens: list[int]) -> list[int]:
    """One to three random edits, most of them small; some make garbage of it."""
    tokens = list(tokens)
    for _ in range(1 + random.integers(3)):
        if not tokens:
            break
        at, other = (int(random.integers(len(tokens))) for _ in range(2))
        kind = random.integers(10)
        if kind == 0:
            del tokens[at]
        elif kind == 1:
            tokens.insert(at, tokens[other])
        elif kind == 2:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 3:
            tokens[at] = int(random.integers(world.size))
        elif kind == 4:
            tokens[at] = int(random.choice([-1, -5, world.size, 2**40, -(2**40), world.size + 7]))
        elif kind == 5:  # exchange two sentences, or double one
            stop = int(world.phrases[W.STOP])
            ends = [0, *(k + 1 for k, t in enumerate(tokens) if t == stop)]
            parts = [tokens[a:b] for a, b in zip(ends, [*ends[1:], len(tokens)], strict=True)]
            a, b = (int(random.integers(len(parts))) for _ in range(2))
            parts[a], parts[b] = (parts[b], parts[a]) if random.random() < 0.7 else (parts[b], parts[b])
            tokens = [t for part in parts for t in part]
        elif kind == 6:
            del tokens[at:]
        elif kind == 7:  # another number wherever this one stands: mistakes that are carried on
            numbers = range(world.first_number, world.first_letter)
            new = int(random.choice(numbers))
            tokens = [new if t == tokens[at] and t in numbers else t for t in tokens]
        elif world.first_number <= tokens[at] < world.first_letter:
            tokens[at] = int(random.integers(world.first_number, world.first_letter))
        elif world.first_letter <= tokens[at] < world.first_name:
            tokens[at] = int(random.choice([t for t in tokens if world.first_letter <= t < world.first_name]))
    return tokens


def fuzzed(name: str, n: int, seed: int) -> tuple:
    """(world, problems, records, mutated token lists) with n rows, a tenth of them unchanged or pure noise."""
    world, problems, records, responses = batch(name, ops=4)
    random = np.random.default_rng(seed)
    which = random.integers(len(records), size=n)
    rows = []
    for i in which:
        chance = random.random()
        if chance < 0.05:
            rows.append(list(responses[i]))
        elif chance < 0.1:
            rows.append(random.integers(-3, world.size + 3, size=random.integers(60)).tolist())
        else:
            rows.append(mutate(random, world, responses[i]))
    return world, problems.take(which), [records[i] for i in which], rows


@pytest.mark.parametrize("name", ["tiny", "med"])
def test_fuzzing_neither_raises_nor_accepts_a_wrong_nor_rejects_a_right_solution(name):
    world, problems, records, rows = fuzzed(name, 10_000, seed=11)
    tokens, lengths = padded(rows)
    verdicts = check(problems, world, tokens, lengths)
    assert (verdicts.published | ~verdicts.right).all()
    assert ((verdicts.first_mistake >= 0) <= ~verdicts.right).all()
    rows_of_steps = np.arange(verdicts.kind.shape[1]) < verdicts.steps[:, None]
    assert ((verdicts.kind >= 0) == rows_of_steps).all() and (verdicts.kind < len(KINDS)).all()
    assert ((verdicts.stop > verdicts.start) == rows_of_steps).all()
    assert 0.05 < verdicts.right.mean() < 0.5
    said = np.array([oracle_says(world, r, t) for r, t in zip(records, rows, strict=True)])
    differ = np.nonzero(said != verdicts.right)[0]
    assert not differ.size, [world.decode(rows[i][:-3]) for i in differ[:3]]
    found = set(verdicts.kind[rows_of_steps])
    assert found >= {RIGHT, *range(MALFORMED, len(KINDS))}  # every kind of mistake was met


def test_text_and_tokens_agree_on_broken_solutions():
    world, problems, _, rows = fuzzed("med", 1000, seed=12)
    compared = 0
    for i, row in enumerate(rows):
        if row[-3:-2] != [W.ANSWER] or not all(len(W.SPECIALS) <= t < world.size for t in row[:-3]):
            continue
        if world.encode(world.decode(row[:-3])) != row[:-3]:
            continue
        by_token = check(problems.take(i), world, *padded([row]))
        by_text = check_text(problems.take(i), world, world.decode(row[:-3]), row[-2] - world.first_number)
        if row[-1] != W.EOS:
            continue
        compared += 1
        for field in set(Verdicts._fields) - {"start", "stop"}:
            assert np.array_equal(getattr(by_text, field), getattr(by_token, field)), (field, world.decode(row))
    assert compared > 400


def test_shapes_lengths_and_types_of_the_input():
    world, problems, _, responses = batch("tiny")
    tokens, lengths = padded(responses)
    base = check(problems, world, tokens, lengths)
    for other in (
        check(problems, world, tokens.astype(np.int32), lengths + 1000),
        check(problems, world, tokens.tolist(), lengths),
    ):
        assert np.array_equal(other.right, base.right) and np.array_equal(other.kind, base.kind)
    for none in (check(problems, world, tokens, lengths * 0 - 1), check(problems, world, tokens[:, :0], lengths)):
        assert not none.right.any() and (none.ending == NEVER).all() and none.kind.shape == (300, 0)
    empty = check(problems.take(slice(0, 0)), world, tokens[:0], lengths[:0])
    assert len(empty.right) == 0 and empty.kind.shape[0] == 0
    with pytest.raises(ValueError, match="do not belong to 300 problems"):
        check(problems, world, tokens[:5], lengths[:5])


def test_plain_python_gives_the_same_verdicts(tmp_path):
    world, problems, _, rows = fuzzed("tiny", 150, seed=13)
    tokens, lengths = padded(rows)
    path = tmp_path / "rows.npz"
    np.savez(path, tokens=tokens, lengths=lengths, **problems._asdict())
    code = (
        "import sys, numpy as np; from synth.kernel import jit; from synth.judge.checker import check\n"
        "from synth.problem.arrays import Problems; from synth.spec import preset\n"
        "d = dict(np.load(sys.argv[1])); p = Problems(*(d[f] for f in Problems._fields)); assert not jit.ENABLED\n"
        "v = check(p, preset('tiny').load_world(), d['tokens'], d['lengths']); np.savez(sys.argv[2], **v._asdict())"
    )
    environment = {**os.environ, "GLASSHOUSE_JIT": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "plain.npz")], check=True, env=environment)
    plain, compiled = np.load(tmp_path / "plain.npz"), check(problems, world, tokens, lengths)
    for field in Verdicts._fields:
        assert np.array_equal(plain[field], getattr(compiled, field)), field
