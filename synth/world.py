"""Names, sentence templates and the token vocabulary of a world; text is the invertible rendering of tokens.

A world is a data file in `synth/worlds/` (categorisations, item names, phrases) cut to a wanted size. A token is the
largest piece of text the world never splits: a whole name, a number, a letter, or a phrase with the words that always
come with it. Each token's text begins with its own space; the possessive between two names is rendered, not stored.
So `world.encode(world.decode(ids)) == ids`, at about half the tokens of words.

    >>> world = load("english", modulus=7, categorisations=1, subcategories=1, names=4, letters=52)
    >>> ids = world.encode(" Define Maple Hill's Supermarket as k; so k = 3.")
    >>> len(ids), world.decode(ids)
    (10, " Define Maple Hill's Supermarket as k; so k = 3.")
"""

import json
import re
import string
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

SPECIALS = (
    "<pad>", "<eos>", "<problem>", "<solution>", "<answer>", "<start>", "<mid>", "<end>",
    # privileged sections before a problem (`synth.context`)
    "<gold>", "<final>", "<partial>", "<success>", "<failure>", "<attempt>", "<right>", "<wrong>", "<feedback>",
    "<hint>", "<concise>",
    # what feedback names: kinds of wrong steps, wrong stops, the wrong answer (`synth.checker`)
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

FOLDER = Path(__file__).parent / "worlds"
POSSESSIVE = "'s"


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

    @property
    def size(self) -> int:
        """Number of token ids."""
        return len(self.vocabulary)

    def decode(self, ids) -> str:
        """Text of token ids; special tokens are left out, a possessive joins two names that follow each other."""
        pieces: list[str] = []
        after_name = False
        for i in map(int, ids):
            is_name = i >= self.first_name
            if is_name and after_name:
                pieces.append(POSSESSIVE)
            after_name = is_name
            if i >= len(SPECIALS):
                pieces.append(self.vocabulary[i])
        return "".join(pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text of this world.

        Raises ValueError naming the first place that is no token of the world.
        """
        ids: list[int] = []
        position = 0
        while position < len(text):
            if ids and ids[-1] >= self.first_name and text.startswith(POSSESSIVE, position):
                position += len(POSSESSIVE)
                continue
            match = self._pattern.match(text, position)
            if match is None:
                raise ValueError(
                    f"no token of world {self.name!r} at character {position}: {text[position : position + 24]!r}"
                )
            ids.append(self._ids[match.group()])
            position = match.end()
        return ids

    def name_of(self, owner: int, thing: int) -> str:
        """Name of a parameter from its two name tokens, as a solution writes it: `Oak Park's Robin`."""
        return self.vocabulary[owner].strip() + POSSESSIVE + " " + self.vocabulary[thing].strip()


def letter_names(count: int) -> list[str]:
    """The first `count` variable names: a..z, A..Z (the published 52), then aa..ZZ for worlds of more operations."""
    singles = string.ascii_letters
    return (list(singles) + [c + c for c in singles])[:count]


@lru_cache(maxsize=32)
def load(name: str, modulus: int, categorisations: int, subcategories: int, names: int, letters: int) -> World:
    """The world of data file `name`, cut to the first `categorisations` x `subcategories` x `names` of its lists.

    Raises ValueError when the file does not exist or holds fewer names than asked for.
    """
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("*.json"))
        raise ValueError(f"world={name!r} does not exist; accepted: {', '.join(known)}")
    data = json.loads(path.read_text(encoding="utf-8"))
    groups = data["categorisations"]
    offered = (
        len(groups),
        len(groups[0]["items"][0]),
        min(len(s) for g in groups for layer in g["items"] for s in layer),
    )
    for setting, value, most in zip(
        ("categorisations", "subcategories", "names"), (categorisations, subcategories, names), offered, strict=True
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{setting}={value} is not possible in world {name!r}; accepted: 1 to {most}")
    vocabulary: list[str] = list(SPECIALS)
    ids: dict[str, int] = {}

    def token(text: str) -> int:
        if text not in ids:
            ids[text] = len(vocabulary)
            vocabulary.append(text)
        return ids[text]

    phrases = np.array([token(text) if (text := data["phrases"][role]) else -1 for role in ROLES])
    first_number = len(vocabulary)
    for n in range(modulus):
        token(f" {n}")
    first_letter = len(vocabulary)
    for letter in letter_names(letters):
        token(f" {letter}")
    first_name = len(vocabulary)
    groups = groups[:categorisations]
    category_ids = np.array([[token(f" {c}") for c in g["categories"]] for g in groups])
    pool = np.array(
        [
            [[[token(f" {item}") for item in s[:names]] for s in layer[:subcategories]] for layer in g["items"]]
            for g in groups
        ]
    )
    pattern = re.compile("|".join(re.escape(t) for t in sorted(ids, key=len, reverse=True)))
    return World(
        name,
        modulus,
        tuple(vocabulary),
        phrases,
        first_number,
        first_letter,
        letters,
        first_name,
        pool,
        category_ids,
        pattern,
        ids,
    )
