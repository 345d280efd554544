"""The truth beside every token of drawn documents against the text itself, for all presets, orders and mistakes.

The English is tested in `test_english.py`; here the segments, steps, parameters, mistakes, masks and prices of tokens
are compared with what the rendered words say.
"""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.dataset import Source
from synth.spec import preset
from synth.world.vocabulary import ANSWER, EOS, PROBLEM, SOLUTION, letter_names

MED = preset("med")

SPECS = {
    "tiny": preset("tiny"),
    "tiny_random": preset("tiny", letter_order="random", retry_rate=0.4, mask_mistakes="step"),
    "med": MED,
    "med_published": preset("med", solution_order="published", perm_level=6),
    "hard_qp_retry": preset("hard", order="qp", retry_rate=0.4, mask_mistakes="name"),
    "hard_weak": preset("hard", retry_rate=0.3, retry_kind="weak"),
    "med_miss": preset("med", retry_rate=0.3, retry_kind="miss", letter_order="ordered"),
    "large": preset("hard", ops=60, edges=40, letters=104, modulus=101),
}
DRAWN: dict = {}


def drawn(name: str):
    """(source, documents 0..59), made once."""
    if name not in DRAWN:
        source = Source(SPECS[name], 4, "all")
        DRAWN[name] = source, source.documents(range(60))
    return DRAWN[name]


@pytest.mark.parametrize("name", SPECS)
def test_text_renders_and_reads_back(name):
    source, documents = drawn(name)
    world = source.world
    for i in range(len(documents)):
        prompt, response = documents.prompt_tokens(i), documents.response(i)
        for part in (prompt[1:-1], response[:-3], response[-2:-1]):
            assert world.encode(world.decode(part)) == list(part)


@pytest.mark.parametrize("name", SPECS)
def test_frame_of_a_document(name):
    source, documents = drawn(name)
    assert documents.offsets[0] == 0
    assert documents.offsets[-1] == len(documents.tokens)
    for i in range(len(documents)):
        prompt, response = documents.prompt_tokens(i), documents.response(i)
        assert prompt[0] == PROBLEM
        assert prompt[-1] == SOLUTION
        assert list(response[-3:]) == [ANSWER, source.world.first_number + documents.problems.answer[i], EOS]
        assert sum(int(t) < 8 for t in documents.tokens[documents.offsets[i] : documents.offsets[i + 1]]) == 4


@given(st.sampled_from(sorted(SPECS)), st.integers(0, 59))
def test_truth_beside_every_token(name, i):
    """Step numbers count full stops; parameter, mistake flag and segment agree with the words themselves."""
    source, documents = drawn(name)
    world, spec = source.world, source.spec
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    tokens, segment, step = documents.tokens[span], documents.segment[span], documents.step[span]
    param, mistake, loss, logp = (getattr(documents, f)[span] for f in ("param", "mistake", "loss", "logp"))
    names = documents.problems.take(i).slot_names()[0]
    in_prompt = np.arange(len(tokens)) < documents.prompt[i]
    assert set(segment[in_prompt]) == {1, 2}
    assert set(segment[~in_prompt]) == {3, 4}
    assert (loss[in_prompt] == 0).all()
    assert (logp[in_prompt] == 0).all()
    for part, opening in ((1, " The number of each "), (3, " Define ")):
        inside = (segment == part) & (tokens >= 8)
        numbers = step[inside]
        assert list(np.unique(numbers)) == list(range(numbers.max() + 1))
        assert (np.diff(numbers) >= 0).all()
        for k in np.unique(numbers):
            here = inside & (step == k)
            text = world.decode(tokens[here])
            slots = set(param[here])
            assert len(slots) == 1
            assert text.startswith(opening + world.name_of(*names[slots.pop()]))
            assert text.count(".") == 1
            assert text.endswith(".")
            assert set(mistake[here]) == {int(text.endswith(" BACK."))}
    assert not mistake[segment != 3].any()
    question = segment == 2
    assert world.decode(tokens[question]).startswith(" How many ")
    assert set(param[question & (tokens >= 8)]) == {documents.problems.query[i]}
    assert (loss[~in_prompt & (mistake == 0)] == 1).all()
    _check_mask(world, spec.mask_mistakes, tokens[mistake == 1], loss[mistake == 1])


def _check_mask(world, mask: str, tokens, loss) -> None:
    """On an inserted mistake: none masked, only the two names masked, or all but `BACK.` masked."""
    for t, keep in zip(tokens, loss, strict=True):
        text = world.vocabulary[t]
        is_name = t >= world.first_name
        wanted = {"none": True, "name": not is_name, "step": text in (" BACK", ".")}[mask]
        assert keep == wanted


@pytest.mark.parametrize("mask", ["none", "name", "step"])
def test_masks_change_nothing_but_the_loss(mask):
    plain = Source(preset("med", retry_rate=0.5), 2).documents(range(20))
    masked = Source(preset("med", retry_rate=0.5, mask_mistakes=mask), 2).documents(range(20))
    for field in plain._fields:
        if field not in ("loss", "problems"):
            assert np.array_equal(getattr(plain, field), getattr(masked, field), equal_nan=field == "logp")
    removed = {"none": 0, "name": 2, "step": 4}[mask]
    mistakes = (plain.mistake == 1).sum() // 6
    assert mistakes > 20
    assert plain.loss.sum() - masked.loss.sum() == removed * mistakes


def test_question_first_changes_only_the_order():
    pq = Source(preset("med"), 2).documents(range(20))
    qp = Source(preset("med", order="qp"), 2).documents(range(20))
    for i in range(20):
        a, b = pq.prompt_tokens(i)[1:-1], qp.prompt_tokens(i)[1:-1]
        assert np.array_equal(np.concatenate([a[-5:], a[:-5]]), b)
        assert np.array_equal(pq.response(i), qp.response(i))


def test_logp_is_zero_where_nothing_is_drawn_and_unknown_in_published_order():
    source, documents = drawn("tiny")
    chosen = documents.logp < 0
    assert (documents.logp <= 0).all()
    # letters in order and no mistakes: only names are drawn
    assert (documents.tokens[chosen] >= source.world.first_name).all()
    _, published = drawn("med_published")
    names = (published.segment == 3) & (published.tokens >= MED.load_world().first_name)
    assert np.isnan(published.logp[names]).all()
    assert np.isfinite(published.logp[published.segment != 3]).all()


def test_letters_past_the_alphabet_are_doubled():
    source = Source(preset("hard", ops=64, exact_ops=True, edges=48, letters=104, letter_order="ordered"), 1)
    documents = source.documents([0])
    solution = source.world.decode(documents.response(0)[:-3])
    letters = re.findall(r"(?: as|;) (?:so )?(\w+)(?= =|;)", solution)
    assert list(dict.fromkeys(letters)) == letter_names(64)
