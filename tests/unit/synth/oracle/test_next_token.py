"""The oracle answers every prefix: exactly where the generator could have written it, by its policy elsewhere."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.dataset import Source
from synth.oracle.next_token import ABSTAINED, CONTINUED, CORRECTED, EXACT, Oracle
from synth.problem.arrays import ready
from synth.spec import preset
from synth.world import vocabulary as W

SMALL = {"ops": 6, "edges": 8}
WORLDS = {
    "plain": SMALL,
    "retry": {**SMALL, "retry_rate": 0.3},
    "weak": {**SMALL, "retry_rate": 0.3, "retry_kind": "weak"},
    "miss": {**SMALL, "retry_rate": 0.3, "retry_kind": "miss"},
    "ordered": {**SMALL, "letter_order": "ordered"},
    "slip": {**SMALL, "retry_rate": 0.3, "retry_kind": "slip"},
    "uncorrected": {**SMALL, "retry_rate": 0.3, "retry_kind": "slip", "uncorrected": 0.4},
    "all wrong": {**SMALL, "retry_rate": 0.5, "retry_kind": "slip", "uncorrected": 1.0},
    "longer": {**SMALL, "shortest": False},
    "longer weak": {**SMALL, "shortest": False, "retry_rate": 0.3, "retry_kind": "weak"},
    "missing": {**SMALL, "missing_premise": 1.0},
    "missing retry": {**SMALL, "missing_premise": 0.5, "retry_rate": 0.2},
}
COUNT = 24


def made(name: str, policy: str = "continue"):
    spec = preset("med", **WORLDS[name])
    source = Source(spec, seed=3, split="all")
    return Oracle(spec, policy), source, source.documents(range(COUNT))


def flat(documents) -> np.ndarray:
    """The responses with one more column each, as the positions of an answer of the oracle are laid out."""
    return np.concatenate([np.append(documents.response(i), W.PAD) for i in range(len(documents))])


def ids_at(next_token, row: int, position: int) -> dict[int, float]:
    j = next_token.rows[row] + position
    entries = slice(next_token.starts[j], next_token.starts[j + 1])
    return dict(zip(next_token.ids[entries].tolist(), next_token.probs[entries].tolist(), strict=True))


def text_ids(world, text: str) -> list[int]:
    return world.encode(text)


@pytest.mark.parametrize("name", WORLDS)
def test_along_a_document_the_law_is_the_generator_s(name):
    oracle, _, documents = made(name)
    next_token = oracle.documents(documents)
    ends = next_token.rows[1:] - 1
    inside = np.ones(len(next_token.status), dtype=bool)
    inside[ends] = False
    assert (next_token.status[inside] == EXACT).all() and (next_token.status[ends] == ABSTAINED).all()
    expected = np.concatenate(
        [
            documents.logp[a + p : b]
            for a, b, p in zip(documents.offsets, documents.offsets[1:], documents.prompt, strict=False)
        ]
    )
    np.testing.assert_allclose(next_token.logp(flat(documents))[inside], expected, atol=1e-12)


@pytest.mark.parametrize("policy", ["continue", "correct", "abstain"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_tokens_get_laws_that_sum_to_one(policy, data):
    oracle, _, documents = made("retry", policy)
    world = oracle.world
    row = documents.response(data.draw(st.integers(0, COUNT - 1))).astype(np.int64)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(row) - 1))
        kind = data.draw(st.sampled_from(["other", "drop", "double", "splice"]))
        if kind == "other":
            row[at] = data.draw(st.integers(0, world.size - 1))
        elif kind == "drop" and len(row) > 1:
            row = np.delete(row, at)
        elif kind == "double":
            row = np.insert(row, at, row[at])
        else:
            row = np.concatenate([row[:at], documents.response(data.draw(st.integers(0, COUNT - 1)))])
    next_token = oracle(documents.problems.take(0), [row])
    total = np.bincount(next_token._positions(), next_token.probs, minlength=len(next_token.status))
    answered = next_token.status != ABSTAINED
    np.testing.assert_allclose(total[answered], 1.0, atol=1e-12)
    assert (total[~answered] == 0).all() and (next_token.probs > 0).all()
    assert ((next_token.ids >= 0) & (next_token.ids < world.size)).all()
    first = np.argmax(next_token.status != EXACT)
    assert (next_token.status[first:] != EXACT).all()
    if policy == "abstain":
        assert np.isin(next_token.status, (EXACT, ABSTAINED)).all()
    if policy == "continue":
        assert (next_token.status != CORRECTED).all()


class Example:
    """One problem by hand: the first of the stream whose first step is a constant and whose second builds on it."""

    def __init__(self, policy: str, **overrides):
        self.spec = preset("med", **SMALL, letter_order="ordered", exact_ops=True, **overrides)
        self.oracle = Oracle(self.spec, policy)
        self.world = self.oracle.world
        source = Source(preset("med", **SMALL, letter_order="ordered", exact_ops=True), seed=0, split="all")
        for i in range(2000):
            self.documents = source.documents([i])
            self.text = self.world.decode(self.documents.response(0))
            first, second = self.text.split(". ")[:2]
            if first.count("=") == 1 and second.count("=") == 3 and " + a = " in second:
                self.problem, self.first, self.second = self.documents.problems, first, second
                return

    def law_after(self, text: str):
        """(distribution as texts, status) after a solution's text."""
        ids = self.world.encode(text)
        next_token = self.oracle(self.problem, [ids])
        return {self.world.vocabulary[i]: p for i, p in ids_at(next_token, 0, len(ids)).items()}, next_token.status[-1]


def test_a_wrong_constant_is_believed():
    example = Example("continue")
    head, right = example.first.rsplit(" = ", 1)
    wrong = (int(right) + 5) % 23
    start, rest = example.second.split(" + a = ")
    number = start.rsplit("= ", 1)[1]
    before = f"{head} = {wrong}. {start} + a ="
    assert example.law_after(before) == ({f" {number}": 1.0}, CONTINUED)
    assert example.law_after(f"{before} {number} +") == ({f" {wrong}": 1.0}, CONTINUED)
    total = (int(number) + wrong) % 23
    assert example.law_after(f"{before} {number} + {wrong} =") == ({f" {total}": 1.0}, CONTINUED)
    assert rest


def test_a_wrong_sum_is_believed_and_its_operands_may_be_swapped():
    example = Example("continue")
    start, _ = example.second.split(" + a = ")
    head, number = start.rsplit("= ", 1)
    value = int(example.first.rsplit("= ", 1)[1])
    swapped = f"{example.first}. {head}= a +"
    assert example.law_after(swapped) == ({f" {number}": 1.0}, CONTINUED)
    assert example.law_after(f"{swapped} {number} =") == ({f" {value}": 1.0}, CONTINUED)
    assert example.law_after(f"{swapped} {number} = {value} + {number} =")[0] == {f" {(value + int(number)) % 23}": 1.0}
    minus = f"{example.first}. {head}= {number} - a = {number} - {value} ="
    assert example.law_after(minus) == ({f" {(int(number) - value) % 23}": 1.0}, CONTINUED)


def test_impossible_steps_are_taken_back_only_where_the_world_does_so():
    for rate, policy, wanted, status in (
        (0.2, "correct", {" BACK": 1.0}, CORRECTED),
        (0.0, "correct", {".": 1.0}, CONTINUED),
        (0.2, "continue", {".": 1.0}, CONTINUED),
        (0.2, "abstain", {}, ABSTAINED),
    ):
        example = Example(policy, retry_rate=rate)
        head, right = example.first.rsplit(" = ", 1)
        assert example.law_after(f"{head} = {(int(right) + 1) % 23}") == (wanted, status)
        back = example.law_after(f"{head} = {(int(right) + 1) % 23} BACK.")
        assert back[0].keys() == ({" Define"} if wanted else set())
        again = example.law_after(f"{head} = {(int(right) + 1) % 23} BACK. {head.strip()} =")
        assert again[0] == ({f" {right}": 1.0} if wanted else {})


def test_a_parameter_that_is_not_ready_is_believed_as_far_as_it_can_be():
    example = Example("continue")
    name = example.second.split("Define ")[1].split(" as ")[0]
    clause = example.second.split(";", 1)[1].replace(" b", " a")
    assert f" Define {name} as a;{clause}".count(" + a = ") == 1
    assert example.law_after(f" Define {name} as")[0] == {" a": 1.0}
    operand = f" Define {name} as a; so a = {clause.split('= ')[1].split(' ')[0]} +"
    assert example.law_after(operand) == ({}, ABSTAINED)


def test_after_the_query_the_answer_comes_and_then_the_end():
    example = Example("continue")
    ids = example.documents.response(0).astype(np.int64)
    at = int(np.argmax(ids == W.ANSWER))
    next_token = example.oracle(example.problem, [ids])
    assert ids_at(next_token, 0, at) == {W.ANSWER: 1.0}
    assert ids_at(next_token, 0, at + 2) == {W.EOS: 1.0} and ids_at(next_token, 0, at + 3) == {}
    early = example.oracle(example.problem, [[*ids[: len(example.world.encode(example.first + "."))], W.ANSWER]])
    assert ids_at(early, 0, len(early.status) - 1) == {} and early.status[-1] == ABSTAINED


def test_names_are_uniform_over_the_ready_and_needed():
    oracle, _, documents = made("plain")
    next_token = oracle.documents(documents)
    p = documents.problems
    for i in range(COUNT):
        known = np.zeros(72, dtype=np.int64)
        open_slots = [s for s in range(72) if p.needed[i, s] and ready(p.n_terms[i], p.terms[i], known, s)]
        names = p.take(i).slot_names()[0][open_slots]
        wanted = {int(a): (names[:, 0] == a).mean() for a in set(names[:, 0])}
        assert ids_at(next_token, i, 1) == pytest.approx(wanted)


def test_a_right_step_that_is_taken_back_may_still_come():
    example = Example("continue", retry_rate=0.2)
    head = example.first.rsplit(";", 1)[0].rsplit(" ", 1)[0]
    before, _ = example.law_after(" Define")
    assert example.law_after(f"{head} BACK. Define") == (before, CONTINUED)


def test_where_no_letter_is_left_a_step_can_only_be_taken_back():
    spec = preset("med", **SMALL, retry_rate=0.3, retry_kind="miss", letters=6)
    documents = Source(spec, seed=3, split="all").documents(range(COUNT))
    world = spec.load_world()
    define, as_, stop = (world.phrases[i] for i in (W.DEFINE, W.AS, W.STOP))
    whole = [i for i in range(COUNT) if documents.problems.ops[i] > 1]
    assert whole
    for i in whole:
        response = documents.response(i).astype(np.int64)
        name = [define, *response[1:3], as_]
        for k in range(6):  # a step that gives its letter no value leaves it used
            name += [world.first_letter + k, world.first_number, stop, define, *response[1:3], as_]
        next_token = Oracle(spec)(documents.problems.take(i), [name])
        total = np.bincount(next_token._positions(), next_token.probs, minlength=len(next_token.status))
        np.testing.assert_allclose(total[next_token.status != ABSTAINED], 1.0, atol=1e-12)


def test_concise_documents_have_the_law_of_the_shortest():
    spec = preset("tiny", retry_rate=0.2, shortest=False, contexts=(("concise", 1.0), ("none", 1.0)))
    documents = Source(spec, seed=3, split="all").documents(range(COUNT))
    asked = [W.CONCISE in documents.prompt_tokens(i) for i in range(COUNT)]
    assert 0 < sum(asked) < COUNT
    next_token = Oracle(spec).documents(documents)
    for i in range(COUNT):
        at = slice(documents.offsets[i] + documents.prompt[i], documents.offsets[i + 1])
        said = next_token.logp(flat(documents))[next_token.rows[i] : next_token.rows[i + 1] - 1]
        np.testing.assert_allclose(said, documents.logp[at], atol=1e-12)


def test_dense_rows_and_divergence_agree_with_the_entries():
    oracle, _, documents = made("retry")
    next_token = oracle.documents(documents)
    size = oracle.world.size
    dense = next_token.log_probs(size)
    answered = next_token.status != ABSTAINED
    np.testing.assert_allclose(np.exp(dense[answered].astype(np.float64)).sum(1), 1.0, atol=1e-6)
    assert np.isneginf(dense[~answered]).all()
    np.testing.assert_array_equal(next_token.log_probs(size, slice(5, 50)), dense[5:50])
    uniform = np.full((len(next_token.status), size), -np.log(size))
    np.testing.assert_allclose(
        next_token.kl(uniform)[answered], np.log(size) - next_token.entropy()[answered], atol=1e-9
    )
    np.testing.assert_allclose(next_token.kl(dense), 0.0, atol=1e-6)


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"policy='guess' is unknown; accepted: continue, correct, abstain"):
        Oracle(preset("tiny"), "guess")
    with pytest.raises(ValueError, match=r"solution_order='published' has no closed form; accepted: uniform"):
        Oracle(preset("tiny", solution_order="published"))
    data = json.loads(W.path_of("english").read_text(encoding="utf-8"))
    data["phrases"]["stop"] = ""
    (tmp_path / "endless.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=r"world='english' has no oracle, since its phrase `stop` is empty; accepted"):
        Oracle(preset("tiny", world=str(tmp_path / "endless.json")))
    with pytest.raises(
        ValueError, match="letters=52 do not fit the world given; accepted: modulus=23, at most 20 letters"
    ):
        Oracle(preset("tiny", modulus=23, letters=52), world=preset("tiny", modulus=23, letters=20).load_world())
    with pytest.raises(ValueError, match="2 responses for 1 problems"):
        Oracle(preset("tiny"))(Source(preset("tiny"), 0).problems([0]), [[1], [2]])
