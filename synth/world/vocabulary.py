"""Names, sentence templates and the token vocabulary of a world; text is the invertible rendering of tokens.

A world is a data file (categorisations, item names, phrases; `synth.world.validate_world` says what it must be) cut to
a wanted size: one of `synth/world/files/` by its name, or any other by its path. A token is the largest piece of text
that the world never splits: a whole name, a number, a letter, or a phrase with the words that always come with it. Each
token's text begins with its own space; the possessive between two names is rendered, not stored. So
`world.encode(world.decode(ids)) == ids`, at about half the tokens of words.

    >>> world = load("english", modulus=7, categorisations=1, subcategories=1, names=4, letters=52)
    >>> ids = world.encode(" Define Maple Hill's Supermarket as k; so k = 3.")
    >>> len(ids), world.decode(ids)
    (10, " Define Maple Hill's Supermarket as k; so k = 3.")
"""

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synth.world import validate_world

SPECIALS = (
    "<pad>", "<eos>", "<problem>", "<solution>", "<answer>", "<start>", "<mid>", "<end>",
    # privileged sections before a problem (`synth.contexts.privileged`)
    "<gold>", "<final>", "<partial>", "<success>", "<failure>", "<attempt>", "<right>", "<wrong>", "<feedback>",
    "<hint>", "<concise>",
    # what feedback names: kinds of wrong steps, wrong stops, the wrong answer (`synth.judge.checker`)
    "<malformed>", "<unknown parameter>", "<repeated>", "<not ready>", "<wrong dependencies>", "<wrong reference>",
    "<wrong constant or operator>", "<wrong arithmetic>", "<wrong value>", "<uncorrected mistake>", "<early>", "<late>",
    "<never>", "<wrong answer>",
)  # fmt: skip
(
    PAD, EOS, PROBLEM, SOLUTION, ANSWER, START, MID, END,
    GOLD, FINAL, PARTIAL, SUCCESS, FAILURE, ATTEMPT, RIGHT, WRONG, FEEDBACK, HINT, CONCISE, FIRST_KIND,
) = range(20)  # fmt: skip

# The roles of the fixed phrases; a world file gives each its text, and an empty text means the phrase is not written.
ROLES = (
    "the_number", "equals", "equals_each", "equals_sum", "equals_difference",
    "more_each", "more_sum", "more_difference", "times_each", "times_sum", "times_difference",
    "comma_each", "and_each", "stop", "how_many", "does", "have",
    "define", "as", "so", "semicolon", "is", "plus", "minus", "times", "back", "undetermined",
)  # fmt: skip
(
    THE_NUMBER, EQUALS, EQUALS_EACH, EQUALS_SUM, EQUALS_DIFFERENCE,
    MORE_EACH, MORE_SUM, MORE_DIFFERENCE, TIMES_EACH, TIMES_SUM, TIMES_DIFFERENCE,
    COMMA_EACH, AND_EACH, STOP, HOW_MANY, DOES, HAVE,
    DEFINE, AS, SO, SEMICOLON, IS, PLUS, MINUS, TIMES, BACK, UNDETERMINED,
) = range(len(ROLES))  # fmt: skip

FOLDER = Path(__file__).parent / "files"
POSSESSIVE = validate_world.POSSESSIVE


class TokenIds(NamedTuple):
    """The token ids of a world as the kernels read them."""

    phrases: np.ndarray  # int64[roles]: token id of each phrase, -1 where the world writes nothing
    first_number: int
    modulus: int
    first_letter: int
    n_letters: int
    first_name: int
    size: int


@dataclass(frozen=True, eq=False)
class World:
    """A world cut to size. Token ids: specials, phrases (in `ROLES` order), numbers 0..modulus-1, letters, names."""

    name: str
    modulus: int
    vocabulary: tuple[str, ...]
    phrases: np.ndarray  # int64[roles]: token id of each phrase, -1 where the world writes nothing
    first_number: int
    first_letter: int
    n_letters: int
    first_name: int
    pool: np.ndarray  # int64[categorisations, 4 layers, subcategories, names]: token ids of item names
    categories: np.ndarray  # int64[categorisations, 4 layers]: token ids of category names
    _pattern: re.Pattern = field(repr=False)
    _ids: dict[str, int] = field(repr=False)
    possessive: str = POSSESSIVE

    @property
    def size(self) -> int:
        """Number of token ids."""
        return len(self.vocabulary)

    @cached_property
    def ids(self) -> TokenIds:
        """What the kernels need to know of this world."""
        return TokenIds(
            np.asarray(self.phrases, dtype=np.int64), self.first_number, self.modulus, self.first_letter,
            self.n_letters, self.first_name, self.size,
        )  # fmt: skip

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are left out, a possessive joins two names that follow each other."""
        pieces: list[str] = []
        after_name = False
        for i in map(int, ids):
            is_name = i >= self.first_name
            if is_name and after_name:
                pieces.append(self.possessive)
            after_name = is_name
            if i >= len(SPECIALS):
                pieces.append(self.vocabulary[i])
        return "".join(pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text of this world. Raises ValueError naming the first place that is no token of the world."""
        ids: list[int] = []
        position = 0
        while position < len(text):
            if ids and ids[-1] >= self.first_name and text.startswith(self.possessive, position):
                position += len(self.possessive)
                continue
            match = self._pattern.match(text, position)
            if match is None:
                near = text[position : position + 24]
                raise ValueError(f"no token of world {self.name!r} at character {position}: {near!r}")
            ids.append(self._ids[match.group()])
            position = match.end()
        return ids

    def phrase(self, role: int) -> str:
        """The text of a phrase (its number in `ROLES`), empty where this world writes nothing."""
        token = int(self.phrases[role])
        return self.vocabulary[token] if token >= 0 else ""

    def is_name(self, text: str) -> bool:
        """Whether an item or a category of this world is called `text`."""
        return self._ids.get(f" {text}", -1) >= self.first_name

    def name_of(self, owner: int, thing: int) -> str:
        """Name of a parameter from its two name tokens, as a solution writes it: `Oak Park's Robin`."""
        return self.vocabulary[owner].strip() + self.possessive + " " + self.vocabulary[thing].strip()


def letter_names(count: int) -> list[str]:
    """The first `count` variable names: a..z, A..Z (the published 52), then aa..ZZ for worlds of more operations."""
    return [*string.ascii_letters, *(c + c for c in string.ascii_letters)][:count]


def path_of(name: str) -> Path:
    """The data file of world `name`: a path when it ends in .json, else a file of `synth/world/files`. Raises
    ValueError when there is none."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        shipped = sorted(p.stem for p in FOLDER.glob("*.json"))
        raise ValueError(f"world={name!r} does not exist; accepted: {', '.join(shipped)}, or the path of a .json file")
    return path


def validate(data: dict) -> list[str]:
    """Every fault of a world's data, in words; empty when the world can be used."""
    return list(validate_world.faults(data, ROLES, letter_names(104)))


@lru_cache(maxsize=8)
def read(name: str) -> dict:
    """The data of world `name`. Raises ValueError with every fault of a file of one's own, one on each line."""
    data = validate_world.read(path_of(name))
    if name.endswith(".json") and (found := validate(data)):
        lines = "\n".join(f"  {fault}" for fault in found)
        raise ValueError(f"world={name!r} has {len(found)} fault{'s' * (len(found) > 1)}:\n{lines}")
    return data


def sizes_of(name: str) -> dict[str, int]:
    """How much the world `name` holds: its categorisations, subcategories and names."""
    groups = read(name)["categorisations"]
    lists = groups[0]["items"][0]
    return {"categorisations": len(groups), "subcategories": len(lists), "names": len(lists[0])}


@lru_cache(maxsize=32)
def load(name: str, modulus: int, categorisations: int, subcategories: int, names: int, letters: int) -> World:
    """The world of data file `name`, cut to the first `categorisations` x `subcategories` x `names` of its lists.
    Raises ValueError when the file does not exist, has faults, or holds fewer names than asked for."""
    wanted = {"categorisations": categorisations, "subcategories": subcategories, "names": names}
    for setting, most in sizes_of(name).items():
        if not 1 <= wanted[setting] <= most:
            raise ValueError(f"{setting}={wanted[setting]} is not possible in world {name!r}; accepted: 1 to {most}")
    data = read(name)
    groups = data["categorisations"][:categorisations]
    cut = [(g["categories"], [[s[:names] for s in layer[:subcategories]] for layer in g["items"]]) for g in groups]
    return _build(data, modulus, letters, cut)


def of_layers(language: str, modulus: int, layers: list[tuple[str, list[str]]]) -> World:
    """A world of nothing but the given names, in the phrases of world `language`; its pool is empty. layers: (category,
    items) from the top down. Raises ValueError when a name cannot be read back from a text."""
    data = read(language)
    spare = len(data["categorisations"][0]["categories"]) - len(layers)
    categories = [category for category, _ in layers]
    items = [item for _, items in layers for item in items]
    world = _build(data, modulus, 104, [(categories + categories[:1] * spare, [])], items)
    names, others = world.vocabulary[world.first_name :], world.vocabulary[len(SPECIALS) : world.first_name]
    if wrong := [n for n in [*categories, *items] if not world.is_name(n)]:
        raise ValueError(f"name {wrong[0]!r} reads like a number, a letter or a phrase of the world")
    stop = data["phrases"]["stop"]
    if stop and (wrong := [n for n in names if f"{stop} " in n]):
        raise ValueError(f"name {wrong[0].strip()!r} contains {stop + ' '!r}, the end of a sentence")
    for short, long in validate_world.ambiguous(names, others, world.possessive):
        raise ValueError(f"{long!r} can also be read as {short!r} and what may follow it")
    return world


def _build(data: dict, modulus: int, letters: int, groups: list[tuple[list, list]], more: Sequence[str] = ()) -> World:
    """The world of phrases, numbers, letters and the names of `groups` (categories, items by layer), then `more`."""
    vocabulary: list[str] = list(SPECIALS)
    ids: dict[str, int] = {}

    def token(text: str) -> int:
        if text not in ids:
            ids[text] = len(vocabulary)
            vocabulary.append(text)
        return ids[text]

    phrases = np.array([token(text) if (text := data["phrases"][role]) else -1 for role in ROLES])
    first_number, first_letter = len(vocabulary), len(vocabulary) + modulus
    for text in [*range(modulus), *letter_names(letters)]:
        token(f" {text}")
    first_name = len(vocabulary)
    category_ids = np.array([[token(f" {c}") for c in categories] for categories, _ in groups])
    pool = np.array([[[[token(f" {n}") for n in s] for s in layer] for layer in layers] for _, layers in groups])
    for name in more:
        token(f" {name}")
    pattern = re.compile("|".join(re.escape(t) for t in sorted(ids, key=len, reverse=True)))
    return World(
        data["name"], modulus, tuple(vocabulary), phrases, first_number, first_letter, letters, first_name, pool,
        category_ids, pattern, ids, data.get("possessive", POSSESSIVE),
    )  # fmt: skip
