"""What a world file must be: every fault of its data, found before anything is drawn from it.

A world is JSON: `phrases` (role -> text), `possessive` (default "'s") and `categorisations`, each with the names of its
4 categories from the top down and, for each category, sub-categories of item names (all of one world equally many).

    {"name": "orbit", "possessive": "'s", "phrases": {"the_number": " Every", ...},
     "categorisations": [{"categories": ["Fleet", ...], "items": [[["Aurora", ...], ...], ...]}, ...]}
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

KEYS = {"name", "possessive", "phrases", "categorisations"}
LAYERS, FEWEST_NAMES = 4, 2
POSSESSIVE = "'s"
# Roles that a world may leave empty: the others tell one sentence from another.
MAY_BE_EMPTY = {
    "the_number", "equals", "comma_each", "and_each", "stop", "how_many", "does", "have", "define", "as", "so",
    "semicolon", "is",
}  # fmt: skip
MAY_BE_EQUAL = ({"so", "semicolon"}, {"comma_each", "and_each"})
INSIDE_NAMES = (". ", "; ", " as ", " = ", "? ", "\n")  # what ends a name for whoever reads the text
READABLE_NUMBERS = 1000


def read(path: Path) -> dict:
    """The JSON object of a world file. Raises ValueError when it cannot be read."""
    like = "like synth/world/files/*.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"world={path} cannot be read ({error.strerror}); accepted: a world file (.json)") from None
    except ValueError as error:
        raise ValueError(f"world={path} is no JSON ({error}); accepted: a world file {like}") from None
    if not isinstance(data, dict):
        raise ValueError(f"world={path} is no world; accepted: a JSON object {like}")
    return data


def faults(data: dict, roles: Sequence[str], letters: Sequence[str]) -> Iterator[str]:
    """Every fault of a world's data in words, each with its place; nothing when the world can be used. roles: the
    phrases a world needs; letters: every variable name that a solution may use."""
    for key in sorted(set(data) - KEYS):
        yield f"{key}: an unknown key; accepted: {', '.join(sorted(KEYS))}"
    for key in sorted(KEYS - set(data) - {"possessive"}):
        yield f"{key}: missing"
    name, possessive = data.get("name", "a world"), data.get("possessive", POSSESSIVE)
    if not isinstance(name, str) or not name:
        yield f"name: {name!r} is no text"
    if not isinstance(possessive, str) or not re.fullmatch(r"\S+", possessive):
        yield f"possessive: {possessive!r}; accepted: a text without spaces that follows the owner, like {POSSESSIVE!r}"
        possessive = POSSESSIVE
    phrases, groups = data.get("phrases", {}), data.get("categorisations", [])
    if isinstance(phrases, dict):
        yield from _phrase_faults(phrases, roles)
    else:
        yield f"phrases: {type(phrases).__name__}; accepted: an object of role and text"
        phrases = {}
    if not isinstance(groups, list) or ("categorisations" in data and not groups):
        yield "categorisations: not a list of at least one categorisation"
        groups = []
    names: list[str] = []
    shapes: Counter = Counter()
    for i, group in enumerate(groups):
        yield from _group_faults(group, f"categorisation {i + 1}", names, shapes)
    for (usual, _), (shape, count) in product(shapes.most_common(1), sorted(shapes.items())):
        if shape != usual:
            found = f"{count} lists of {shape[0]} sub-categories with {shape[1]} names"
            yield f"categorisations: {found}; accepted: as many everywhere ({usual[0]} with {usual[1]})"
    said = {role: text for role, text in phrases.items() if role in roles and isinstance(text, str)}
    yield from _reading_faults(sorted(set(names)), said, possessive, letters)


def _phrase_faults(phrases: dict, roles: Sequence[str]) -> Iterator[str]:
    for role in sorted(set(roles) - set(phrases)):
        yield f"phrases: role {role!r} is missing"
    for role in sorted(set(phrases) - set(roles)):
        yield f"phrases: role {role!r} is unknown; accepted: {', '.join(roles)}"
    places: dict[str, str] = {}
    for role, text in phrases.items():
        if role not in roles:
            continue
        if not isinstance(text, str):
            yield f"phrases: {role} is {text!r}; accepted: text"
        elif not text and role not in MAY_BE_EMPTY:
            yield f"phrases: {role} is empty; accepted: a text (only {', '.join(sorted(MAY_BE_EMPTY))} may be empty)"
        elif text in places and {places[text], role} not in MAY_BE_EQUAL:
            yield f"phrases: {places[text]} and {role} are both {text!r}"
        elif text:
            places.setdefault(text, role)
            if not text.strip():
                yield f"phrases: {role} is only space"


def _group_faults(group: object, place: str, names: list[str], shapes: Counter) -> Iterator[str]:
    """Faults inside one categorisation; adds its usable names to `names` and its list sizes to `shapes`."""
    if not isinstance(group, dict) or set(group) != {"categories", "items"}:
        yield f"{place}: accepted: an object of categories and items"
        return
    for key, value in group.items():
        if not isinstance(value, list) or len(value) != LAYERS:
            yield f"{place}, {key}: not a list of {LAYERS}, one for each layer from the top down"
            return
    seen: dict[str, str] = {}
    for i, category in enumerate(group["categories"]):
        yield from _name_faults(category, f"{place}, category {i + 1}", seen, names)
    for i, layer in enumerate(group["items"]):
        if not isinstance(layer, list) or not layer:
            yield f"{place}, items of layer {i + 1}: not a list of at least one sub-category"
            continue
        sizes = set()
        for k, items in enumerate(layer):
            inside = f"{place}, layer {i + 1}, sub-category {k + 1}"
            if not isinstance(items, list) or len(items) < FEWEST_NAMES:
                yield f"{inside}: not a list of at least {FEWEST_NAMES} names"
                continue
            sizes.add(len(items))
            for item in items:
                yield from _name_faults(item, inside, seen, names)
        shapes.update((len(layer), size) for size in sizes)


def _name_faults(name: object, place: str, seen: dict[str, str], names: list[str]) -> Iterator[str]:
    if not isinstance(name, str) or not name.strip():
        yield f"{place}: {name!r} is no name; accepted: text"
        return
    if name != name.strip():
        yield f"{place}: {name!r} begins or ends with space"
    yield from (f"{place}: {name!r} contains {text!r}" for text in INSIDE_NAMES if text in name)
    if name in seen:
        yield f"{place}: {name!r} is already in {seen[name]}"
    else:
        seen[name] = place
        names.append(name)


def _reading_faults(
    names: Sequence[str], phrases: dict[str, str], possessive: str, letters: Sequence[str]
) -> Iterator[str]:
    """Names and phrases that cannot be read back from the text, because they read like something else as well."""
    taken = {f" {n}": "a number" for n in range(READABLE_NUMBERS)} | {f" {x}": "a letter" for x in letters}
    for role, text in phrases.items():
        if text in taken:
            yield f"phrases: {role} {text!r} reads like {taken[text]}"
    taken |= {text: f"the phrase {role}" for role, text in phrases.items() if text}
    kept = []
    for name in names:
        if f" {name}" in taken:
            yield f"name {name!r} reads like {taken[f' {name}']}"
        elif f"{possessive} " in f"{name} ":
            yield f"name {name!r} contains the possessive {possessive!r}"
        else:
            kept.append(f" {name}")
    for short, long in ambiguous(kept, list(taken), possessive):
        yield f"{long!r} can also be read as {short!r} and what may follow it"


def ambiguous(names: Sequence[str], others: Sequence[str], possessive: str) -> Iterator[tuple[str, str]]:
    """(short, long) pairs of tokens such that `long` also begins some text that begins with `short`. names, others: the
    texts of all tokens, with their leading space. Where there is none, reading the longest token at each place gives
    back any sequence of tokens that was written."""
    is_name, tokens = set(names), [*names, *others]
    by_first: dict[tuple[str, bool], list[tuple[str, bool]]] = defaultdict(list)
    for token, after_name in product(tokens, (False, True)):
        piece = possessive + token if after_name and token in is_name else token
        by_first[piece[0], after_name].append((piece, token in is_name))
    known: dict[tuple[str, bool], bool] = {}

    def begins(rest: str, after_name: bool) -> bool:
        """Whether tokens can go on with `rest`, or with a text that begins with it."""
        if (rest, after_name) not in known:
            known[rest, after_name] = any(
                piece.startswith(rest) or (rest.startswith(piece) and begins(rest[len(piece) :], name))
                for piece, name in by_first.get((rest[0], after_name), ())
            )
        return known[rest, after_name]

    texts = set(tokens)
    for long in tokens:
        for end in range(1, len(long)):
            if long[:end] in texts and begins(long[end:], long[:end] in is_name):
                yield long[:end], long
    yield from ((possessive, token) for token in others if token.startswith(possessive))
