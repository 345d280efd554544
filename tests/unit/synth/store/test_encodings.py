"""Documents in other tokens: text, spans of steps and log-probabilities are exactly those of phrase tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.documents import SOLUTION_SEGMENT
from synth.judge.check_text import check_text, judged_tokens, squeeze
from synth.spec import preset
from synth.store.encodings import PHRASE, Encoding, TextEncoding, encoding, encoding_of, source
from synth.store.hf_tokenizer import GPT2_PAD, added_markers
from synth.world.vocabulary import ANSWER, EOS, PAD, PROBLEM, SOLUTION, SPECIALS
from tests.helpers import other_tokenizers
from tests.helpers.other_tokenizers import SOURCE, SPEC, WORLD

N = 24
DOCUMENTS = SOURCE.documents(range(1000, 1000 + N))
KINDS = ("word", "byte_level", "unaligned", "sentencepiece", "unigram", "prepending", "gpt2")


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Encodings by name."""
    ways = {"word": encoding("word", WORLD)}
    for name in KINDS[1:-1]:
        tokenizer = getattr(other_tokenizers, name)()
        ways[name] = TextEncoding(name, WORLD, tokenizer, added_markers(tokenizer))
    return ways | {"gpt2": encoding(str(other_tokenizers.gpt2_like(tmp_path_factory.mktemp("gpt2") / "gpt2")), WORLD)}


def responses(documents, pad):
    """The responses as the sampler returns them: tokens [N, R] and lengths [N]."""
    rows = [documents.response(i) for i in range(len(documents))]
    length = np.array([len(row) for row in rows])
    return np.array([[*row, *[pad] * (length.max() - len(row))] for row in rows]), length


def by_step(documents, i, values):
    """Sums of a per-token array over the segments and steps of document i."""
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    sums = {}
    for where, value in zip(zip(documents.segment[span], documents.step[span], strict=True), values[span], strict=True):
        sums[where] = sums.get(where, 0.0) + value
    return sums


@pytest.mark.parametrize("kind", KINDS)
def test_text_spans_and_log_probabilities_are_those_of_phrase_tokens(ways, kind):
    way = ways[kind]
    d = way.documents(DOCUMENTS)
    assert len(d) == N and d.offsets[-1] == len(d.tokens) and d.tokens.max() < way.size
    for i in range(N):
        span = slice(d.offsets[i], d.offsets[i + 1])
        assert way.decode(d.prompt_tokens(i)) == WORLD.decode(DOCUMENTS.prompt_tokens(i))
        assert way.decode(d.response(i)) == WORLD.decode(DOCUMENTS.response(i))
        assert way.phrases(d.prompt_tokens(i)) == DOCUMENTS.prompt_tokens(i).tolist()
        before = slice(DOCUMENTS.offsets[i], DOCUMENTS.offsets[i + 1])
        for step in range(DOCUMENTS.step[before].max() + 1):
            mine = (d.segment[span] == SOLUTION_SEGMENT) & (d.step[span] == step)
            theirs = (DOCUMENTS.segment[before] == SOLUTION_SEGMENT) & (DOCUMENTS.step[before] == step)
            assert way.decode(d.tokens[span][mine]) == WORLD.decode(DOCUMENTS.tokens[before][theirs])
            assert len(set(d.param[span][mine])) <= 1
        assert by_step(d, i, d.logp) == pytest.approx(by_step(DOCUMENTS, i, DOCUMENTS.logp), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_specials_become_markers(ways, kind):
    way = ways[kind]
    d = way.documents(DOCUMENTS)
    for i in range(N):
        tokens = d.tokens[d.offsets[i] : d.offsets[i + 1]]
        named = way.markers[[PROBLEM, SOLUTION, ANSWER, EOS]]
        assert tokens[np.isin(tokens, way.markers)].tolist() == named.tolist()
        assert tokens[0] == named[0] and d.prompt_tokens(i)[-1] == named[1] and tokens[-1] == way.eos
    assert way.pad != way.eos and len(set(way.markers)) == len(SPECIALS) and way.markers[PAD] == way.pad


@pytest.mark.parametrize("kind", ["word", "byte_level", "gpt2"])
def test_truth_and_loss_of_aligned_tokens_are_those_of_the_phrase_they_are_part_of(ways, kind):
    """Where no token crosses a phrase token, each phrase token's characters have its own truth."""
    way = ways[kind]
    d = way.documents(DOCUMENTS)
    masked = DOCUMENTS.mistake.astype(bool) & (DOCUMENTS.loss == 0)
    assert masked.any()
    for i in range(N):
        span, before = slice(d.offsets[i], d.offsets[i + 1]), slice(DOCUMENTS.offsets[i], DOCUMENTS.offsets[i + 1])
        for name in ("mistake", "loss"):
            mine, theirs = getattr(d, name)[span] == 1, getattr(DOCUMENTS, name)[before] == 1
            text = way.decode(d.tokens[span][mine]).replace("'s", "")
            assert text == WORLD.decode(DOCUMENTS.tokens[before][theirs]).replace("'s", "")
        learnt = DOCUMENTS.logp[before][DOCUMENTS.loss[before] == 1].sum()
        assert d.logp[span][d.loss[span] == 1].sum() == pytest.approx(learnt)


def test_unaligned_tokens_cross_phrases_but_no_step(ways):
    way = ways["unaligned"]
    d = way.documents(DOCUMENTS)
    spelled = [way.decode([t]) for t in set(d.tokens.tolist())]
    assert any(text.count(" ") > 1 and "=" in text for text in spelled)
    assert d.logp.sum() == pytest.approx(DOCUMENTS.logp.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_are_those_of_phrase_tokens(ways, kind):
    """Right solutions, cut ones and ones with a token changed are judged alike; spans name the same text."""
    way = ways[kind]
    rng = np.random.default_rng(0)
    tokens_NR, length_N = responses(DOCUMENTS, PAD)
    tokens_NR = tokens_NR.copy()
    for i in range(0, N, 2):
        tokens_NR[i, rng.integers(length_N[i])] = rng.integers(len(SPECIALS), WORLD.size)
    length_N[::3] -= length_N[::3] // 3
    expected = Encoding(PHRASE, WORLD).check(DOCUMENTS.problems, tokens_NR, length_N)
    assert expected.right.any() and not expected.right.all()
    rows = [way.tokens(row[:n].tolist()) for row, n in zip(tokens_NR, length_N, strict=True)]
    length = np.array([len(row) for row in rows])
    got = way.check(DOCUMENTS.problems, np.array([[*r, *[way.pad] * (length.max() - len(r))] for r in rows]), length)
    for name in set(expected._fields) - {"start", "stop"}:
        assert np.array_equal(getattr(got, name), getattr(expected, name)), name
    if kind not in ("word", "byte_level", "gpt2"):  # a step may begin inside a token there
        return
    for i, row in enumerate(rows):
        for k in range(expected.steps[i]):
            mine = way.decode(row[got.start[i, k] : got.stop[i, k]])
            assert mine == WORLD.decode(tokens_NR[i, expected.start[i, k] : expected.stop[i, k]])


@pytest.mark.parametrize("kind", ["byte_level", "gpt2", "word"])
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 200))
def test_any_sampled_ids_can_be_judged(ways, kind, seed, cut):
    """An untrained model writes ids at random: no error, nothing right, and the text is judged as check_text does."""
    way, rng = ways[kind], np.random.default_rng(seed)
    ids = rng.integers(0, way.size, cut)
    verdict = way.check(DOCUMENTS.problems.take(0), ids[None], np.array([cut]))
    assert not verdict.right[0] and verdict.stop[0, : verdict.steps[0]].max(initial=0) <= cut
    ordinary = ids[~np.isin(ids, way.markers)]
    judged = way.check(DOCUMENTS.problems.take(0), ordinary[None], np.array([len(ordinary)]))
    text = way.decode(ordinary)
    plain = not text[:1].isalnum() and squeeze(text)[0] == text  # check_text forgives white space,
    if plain and judged_tokens(text, WORLD)[2]:  # and a number at the end is the answer
        assert judged.kind[0].tolist() == check_text(DOCUMENTS.problems.take(0), WORLD, text).kind[0].tolist()


@given(st.lists(st.integers(len(SPECIALS), WORLD.size - 1), max_size=30))
def test_round_trip_of_any_tokens(ways, ids):
    """Whatever order the world's tokens stand in, their text comes back, and so do the words."""
    text = WORLD.decode(ids)
    for kind in ("word", "byte_level", "gpt2"):
        tokens = ways[kind].tokens(ids)
        assert ways[kind].decode(tokens) == text
    words = ways["word"].tokenizer
    assert words.decode(words.encode(text)) == text


def test_gpt2_layout(ways):
    """[222] problem [223] solution [224] answer [50256], as published; `Define` is two tokens or more, not a marker."""
    way = ways["gpt2"]
    assert way.markers[[PROBLEM, SOLUTION, ANSWER, EOS, PAD]].tolist() == [222, 223, 224, 50256, GPT2_PAD]
    assert way.markers[[5, 6, 7]].tolist() == [225, 226, 227] and way.size == 50257
    assert way.decode(way.tokens(WORLD.encode(" Define"))) == " Define"
    text = way.tokenizer.encode(" The number of each")
    assert way.tokens(WORLD.encode(" The number of each")) == text and not set(text) & set(way.markers.tolist())


def test_phrase_tokens_are_left_alone():
    way = encoding(PHRASE, WORLD)
    assert way.documents(DOCUMENTS) is DOCUMENTS and (way.pad, way.eos, way.size) == (PAD, EOS, WORLD.size)
    assert type(source(SPEC, 0)) is type(SOURCE) and encoding_of(SOURCE).name == PHRASE


def test_a_stream_in_words_has_the_problems_of_the_stream(ways):
    words = source(SPEC, 0, "train", "tokenizers", tokens="word")
    d = words.documents(range(1000, 1000 + N))
    assert encoding_of(words) is encoding("word", WORLD)
    assert np.array_equal(d.tokens, ways["word"].documents(DOCUMENTS).tokens)
    again = words.solve(d.problems)
    assert ways["word"].decode(again.prompt_tokens(3)) == WORLD.decode(DOCUMENTS.prompt_tokens(3))


def test_worlds_and_tokenizers_have_fingerprints_of_their_own(ways):
    prints = [way.fingerprint() for way in ways.values()]
    prints += [encoding(t, preset("tiny").load_world()).fingerprint() for t in (PHRASE, "word")]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("lowercasing", "comes back as"), ("without_letters", "comes back as"), ("without_unknown", "cannot write")],
)
def test_a_tokenizer_that_loses_text_is_refused(kind, words, tmp_path):
    getattr(other_tokenizers, kind)().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"tokens={tmp_path}: .*{words}.*; accepted: phrase, word, or the folder of"):
        encoding(str(tmp_path), WORLD)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokens=no/where: no such folder; accepted: phrase, word, or a folder"):
        encoding("no/where", WORLD)
    with pytest.raises(ValueError, match=r"no fast tokenizer in it .*; accepted: phrase, word, or a folder"):
        encoding(str(tmp_path), WORLD)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no fast tokenizer in it .*; accepted: phrase, word, or a folder"):
        encoding(str(tmp_path), WORLD)
