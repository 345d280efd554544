"""Judging solutions that are text: cut into tokens of the world first, what is no text of the world included."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from synth.documents import pad_rows
from synth.judge.checker import UNDETERMINED, Verdicts, check
from synth.problem.arrays import Problems
from synth.world import vocabulary as vocab
from synth.world.vocabulary import World


@lru_cache(maxsize=64)
def _pieces(world: World) -> tuple[re.Pattern, dict[str, int]]:
    """A pattern that finds the pieces of a text one after the other, and the token of each: a token's text, behind a
    possessive where that joins a name to one before it (then the token is counted from the world's size on)."""
    written = world.vocabulary[len(vocab.SPECIALS) :]
    table = {text: token for token, text in enumerate(world.vocabulary) if token >= len(vocab.SPECIALS)}
    names = {world.possessive + text: world.size + token for text, token in table.items() if token >= world.first_name}
    return re.compile(f"(?:{re.escape(world.possessive)})?(?:{_longest(sorted(set(written)))})"), names | table


def _longest(texts: Sequence[str], start: int = 0) -> str:
    """A pattern for the longest of some sorted texts that fits, from character `start` on: branching where they differ,
    it takes a step for each character, where a list of all of them takes one for each text."""
    if len(texts) == 1:
        return re.escape(texts[0][start:])
    ends = len(texts[0]) == start
    branches, first = [], int(ends)
    for i in range(first + 1, len(texts) + 1):
        if i == len(texts) or texts[i][start] != texts[first][start]:
            branches.append(re.escape(texts[first][start]) + _longest(texts[first:i], start + 1))
            first = i
    body = branches[0] if len(branches) == 1 else "|".join(branches)
    return f"(?:{body})" + "?" * ends if ends or len(branches) > 1 else body


def tokenize(text: str, world: World) -> tuple[list[int], list[int]]:
    """Tokens of a text and the character at which each begins, and the text's length at the end. A sentence that is no
    text of the world becomes one token that nothing accepts, and its full stop."""
    read = _read(text, world)
    if read is not None:
        return read
    stop = int(world.phrases[vocab.STOP])
    full_stop = world.vocabulary[stop] if stop >= 0 else ""
    sentences = re.split(f"(?<={re.escape(full_stop)})(?= )", text) if full_stop else [text]
    tokens: list[int] = []
    starts: list[int] = []
    position = 0
    for sentence in filter(None, sentences):
        read = _read(sentence, world)
        if read is None:
            closed = bool(full_stop) and sentence.endswith(full_stop)
            tokens += [vocab.PAD - 1, stop] if closed else [vocab.PAD - 1]
            starts += [position, position + len(sentence) - len(full_stop)] if closed else [position]
        else:
            tokens += read[0]
            starts += [position + n for n in read[1][:-1]]
        position += len(sentence)
    return tokens, [*starts, position]


def _read(text: str, world: World) -> tuple[list[int], list[int]] | None:
    """Tokens and places of a text that `world.decode` gives back; None for another."""
    pattern, table = _pieces(world)
    pieces = pattern.findall(text)
    places = [*accumulate(map(len, pieces), initial=0)]
    tokens = [table.get(piece, -1) for piece in pieces]
    if places[-1] != len(text) or -1 in tokens:
        return None
    before_is_name = False
    for i, token in enumerate(tokens):
        is_name = token >= world.first_name
        if (token >= world.size) is not (is_name and before_is_name):
            return None
        if token >= world.size:
            tokens[i] = token - world.size
        before_is_name = is_name
    return tokens, places


def check_text(problem: Problems, world: World, text: str, answer: int | None = None) -> Verdicts:
    """Judge a solution's text (without the answer) for a batch of one problem; spans are in characters of the text.
    Without `answer` the value of the last step is the answer, or UNDETERMINED, which may be given as an answer, too. A
    missing space at the start is forgiven; a sentence that is no text of the world is one malformed step."""
    return check_texts(problem, world, [text], None if answer is None else [answer])


def check_texts(
    problems: Problems, world: World, texts: Sequence[str], answers: Sequence[int] | None = None
) -> Verdicts:
    """`check_text` of N problems, a text for each, and an answer for each or for none."""
    missing = [" " if text[:1].isalnum() else "" for text in texts]
    read = [tokenize(space + text, world) for space, text in zip(missing, texts, strict=True)]
    rows = [tokens for tokens, _ in read]
    for row, answer in zip(rows, answers or (), strict=answers is not None):
        inside = isinstance(answer, int | np.integer) and 0 <= answer < world.modulus
        answer_word = int(world.phrases[vocab.UNDETERMINED]) if answer == UNDETERMINED else vocab.PAD - 1
        row += [vocab.ANSWER, world.first_number + int(answer) if inside else answer_word, vocab.EOS]
    lengths = np.array([len(row) for row in rows])
    verdicts = check(problems, world, pad_rows(rows), lengths, bare=answers is None)
    places = np.maximum(pad_rows([starts for _, starts in read]) - np.array([[len(space)] for space in missing]), 0)
    start, stop = (
        np.where(spans < 0, -1, np.take_along_axis(places, np.maximum(spans, 0), axis=1)).astype(np.int32)
        for spans in (verdicts.start, verdicts.stop)
    )
    return verdicts._replace(start=start, stop=stop)
