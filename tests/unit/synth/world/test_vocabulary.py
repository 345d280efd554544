"""Names and vocabulary of a world: tokens render to English and back, names are what the parser can rely on."""

import json
import re
import string
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.world import vocabulary as worlds
from synth.world.vocabulary import END, EOS, FOLDER, PAD, ROLES, SPECIALS, letter_names, load

TINY = load("english", 7, 1, 1, 8, 16)
MED = load("english", 23, 4, 5, 20, 52)
LARGE = load("english", 101, 4, 5, 20, 104)
DATA = json.loads((FOLDER / "english.json").read_text(encoding="utf-8"))
NAMES = [name for g in DATA["categorisations"] for layer in g["items"] for s in layer for name in s]
CATEGORIES = [c for g in DATA["categorisations"] for c in g["categories"]]


@pytest.mark.parametrize("world", [TINY, MED, LARGE], ids=["tiny", "med", "large"])
@given(st.data())
def test_any_tokens_survive_text(world, data):
    """Stronger than needed: not only documents but any sequence of tokens is the tokens of its text."""
    ids = data.draw(st.lists(st.integers(len(SPECIALS), world.size - 1), max_size=30))
    assert world.encode(world.decode(ids)) == ids


def test_every_pair_of_tokens_survives_text():
    ids = range(len(SPECIALS), TINY.size)
    for pair in product(ids, ids):
        assert TINY.encode(TINY.decode(pair)) == list(pair)


def test_specials_are_not_rendered():
    assert TINY.vocabulary[: len(SPECIALS)] == SPECIALS
    assert (PAD, EOS, END) == (0, 1, 7)
    assert TINY.decode(range(len(SPECIALS))) == ""


def test_layout_of_the_vocabulary():
    w = MED
    assert len(set(w.vocabulary)) == w.size
    assert [w.vocabulary[w.phrases[i]] for i in range(len(ROLES))] == [DATA["phrases"][role] for role in ROLES]
    assert [w.vocabulary[w.first_number + n] for n in range(23)] == [f" {n}" for n in range(23)]
    assert [w.vocabulary[w.first_letter + n] for n in range(52)] == [f" {c}" for c in string.ascii_letters]
    assert w.first_letter == w.first_number + w.modulus
    assert w.first_name == w.first_letter + w.n_letters
    assert w.size == w.first_name + 16 + 1600
    assert w.pool.shape == (4, 4, 5, 20)
    assert len(np.unique(w.pool)) == 1600


def test_a_smaller_world_is_a_cut_of_the_larger():
    texts = [TINY.vocabulary[i].strip() for i in TINY.pool.ravel()]
    assert texts == [n for layer in DATA["categorisations"][0]["items"] for n in layer[0][:8]]
    assert TINY.size == len(SPECIALS) + len(ROLES) + 7 + 16 + 4 + 32


def test_phrases_are_the_published_english():
    text = " ".join(DATA["phrases"].values())
    for wanted in ("The number of each", "equals the difference of each", "times as much as the sum of each", "BACK"):
        assert wanted in text


def test_names_are_safe_to_read_back():
    assert len(NAMES) == len(set(NAMES)) == 1600
    assert not set(NAMES) & set(CATEGORIES)
    for name in NAMES + CATEGORIES:
        assert name == name.strip()
        assert not re.search(r"\. |\.$|'s$| as | as$|; | = |\?|BACK|<|>", name)
        assert name not in letter_names(104)
        assert f" {name}" not in DATA["phrases"].values()


def test_letters_never_run_into_phrases():
    assert letter_names(52) == list(string.ascii_letters)
    assert len(set(letter_names(104))) == 104
    assert not {f" {x}" for x in letter_names(104)} & set(DATA["phrases"].values())


def test_unknown_text_is_refused_at_its_place():
    for text, place in ((" Define Nowhere", 7), ("x", 0), (" Define  as", 7), (" = 7", 2)):
        with pytest.raises(ValueError, match=rf"at character {place}: "):
            TINY.encode(text)
    assert TINY.encode("") == []


def test_name_of_is_the_rendering():
    owner, thing = TINY.pool[0, 0, 0, 0], TINY.pool[0, 1, 0, 1]
    assert TINY.name_of(owner, thing) == TINY.decode([owner, thing]).strip()
    assert "'s " in TINY.name_of(owner, thing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "atlantis"}, "world='atlantis' does not exist; accepted: .*english"),
        ({"categorisations": 5}, "categorisations=5 is not possible .*accepted: 1 to 4"),
        ({"subcategories": 0}, "subcategories=0 is not possible .*accepted: 1 to 5"),
        ({"names": 21}, "names=21 is not possible .*accepted: 1 to 20"),
    ],
)
def test_impossible_worlds_are_refused(change, message):
    cut = {"name": "english", "modulus": 7, "categorisations": 1, "subcategories": 1, "names": 4, "letters": 4}
    with pytest.raises(ValueError, match=message):
        worlds.load(**(cut | change))
