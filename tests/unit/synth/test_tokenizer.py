"""The phrase vocabulary as a Hugging Face tokenizer: the same ids and the same text, with no code of this project."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from synth.dataset import Source
from synth.spec import preset
from synth.store.hf_tokenizer import WORD, fast_tokenizer, gpt2_markers, word_tokenizer
from synth.world.vocabulary import EOS, PAD, SPECIALS

SOURCES = [
    Source(preset("med", retry_rate=0.3), 0),
    Source(preset("tiny", modulus=997, letters=104, order="qp"), 0),
]


@pytest.fixture(scope="module", params=SOURCES, ids=["med", "tiny"])
def saved(request, tmp_path_factory):
    """(source, the tokenizer saved and loaded again as any user would)."""
    folder = tmp_path_factory.mktemp("phrases")
    fast_tokenizer(request.param.world).save_pretrained(folder)
    return request.param, AutoTokenizer.from_pretrained(folder)


def test_encode_and_decode_are_the_worlds(saved):
    source, tokenizer = saved
    world, d = source.world, source.documents(range(60))
    assert len(tokenizer) == world.size
    assert tokenizer.convert_ids_to_tokens(list(range(world.size))) == list(world.vocabulary)
    for i in range(60):
        for part in (d.prompt_tokens(i)[1:-1], d.response(i)[:-3]):
            text = world.decode(part)
            assert tokenizer.encode(text) == world.encode(text) == part.tolist()
            assert tokenizer.decode(part) == text
        whole = d.tokens[d.offsets[i] : d.offsets[i + 1]].tolist()
        assert tokenizer.encode(tokenizer.decode(whole)) == whole
        assert tokenizer.decode(whole, skip_special_tokens=True) == world.decode(whole)


@given(st.data())
def test_decode_is_the_worlds_for_any_tokens(data):
    world = SOURCES[0].world
    tokenizer = TOKENIZER[0]
    ids = data.draw(st.lists(st.integers(len(SPECIALS), world.size - 1), max_size=20))
    assert tokenizer.decode(ids) == world.decode(ids)


TOKENIZER = [fast_tokenizer(SOURCES[0].world)]


def test_specials_are_special(saved):
    _, tokenizer = saved
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, EOS)
    assert set(range(len(SPECIALS))) <= set(tokenizer.added_tokens_decoder)
    assert all(tokenizer.added_tokens_decoder[i].special for i in range(len(SPECIALS)))
    assert tokenizer.decode([2, 5, 7], skip_special_tokens=True) == ""
    assert tokenizer([" Define", " Define as"], padding=True)["input_ids"][0][-1] == PAD


def test_a_text_of_no_world_is_an_error(saved):
    with pytest.raises(Exception, match="UNK"):
        saved[1].encode(" Define nonsense")


def test_words_are_words():
    world = SOURCES[0].world
    tokenizer = word_tokenizer(world)
    text = " Define Noodle Bowl's Leek as Z; so Z = 8 * N = 8 * 4 = 9."
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode(text))
    assert tokens[:8] == [" Define", " Noodle", " Bowl", "'s", " Leek", " as", " Z", ";"]
    assert tokens == WORD.findall(text) and "".join(tokens) == text


def test_gpt2_markers_are_all_different_and_published():
    markers = gpt2_markers()
    assert markers[:8] == [221, 50256, 222, 223, 224, 225, 226, 227]
    assert len(set(markers)) == len(SPECIALS) and all(188 <= m < 255 for m in markers if m != 50256)


def test_importing_synth_loads_no_transformers():
    code = "import synth.dataset, synth.store.encodings, synth.tokenizer, sys; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
