"""Judging responses that are text: cut into tokens of the world first, what is no text of the world included."""

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

UNSEEN = "\ufeff\u200b"  # marks of a file or an editor that nobody sees: a byte order mark, a space without width
_WORD = re.compile(rf"[^\s{UNSEEN}]+")
_UNEVEN = re.compile(rf"[^\S ]|  |\s$|[{UNSEEN}]")  # white space that is more than one space between two words
_SPECIAL = re.compile("|".join(map(re.escape, vocab.SPECIALS)))


def squeeze(text: str) -> tuple[str, Sequence[int]]:
    """The text with one space wherever it has white space, and none at its end; and the character of the text that
    each character of it, and its end, stands for."""
    if not _UNEVEN.search(text):
        return text, range(len(text) + 1)
    words = list(_WORD.finditer(text))
    places = [place for word in words for place in (*range(*word.span()), word.end())]
    return " ".join(word.group() for word in words), places or [len(text)]


def after_prompt(text: str, problem: object) -> str:
    """What a text has behind the problem's own, where a whole sequence was decoded; else the text."""
    if not isinstance(problem, str) or not (problem := squeeze(problem)[0].strip()):
        return text
    _, found, response = squeeze(text)[0].rpartition(problem)
    return response if found else text


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


def response_tokens(text: str, world: World) -> tuple[list[int], list[int]]:
    """Tokens of a response's text, its special tokens among them where they were kept, and the character at which each
    begins, and the end. What is before the last `<solution>` and behind the first `<eos>` or `<pad>` is left out."""
    even, places = squeeze(text)
    begin = even.rfind(vocab.SPECIALS[vocab.SOLUTION]) + 1
    begin += len(vocab.SPECIALS[vocab.SOLUTION]) - 1 if begin else 0
    tokens: list[int] = []
    starts: list[int] = []
    for special, start, stop in _parts(even, begin):
        if special == vocab.PAD and not tokens:
            continue
        if special in (vocab.EOS, vocab.PAD):
            break
        missing = " " if even[start].isalnum() else ""
        ids, at = ([special], [0, 0]) if special >= 0 else tokenize(missing + even[start:stop].rstrip(), world)
        tokens += ids
        starts += [start + max(place - len(missing), 0) for place in at[:-1]]
        begin = stop
    return tokens, [places[start] for start in (*starts, begin)]


def _parts(text: str, begin: int) -> list[tuple[int, int, int]]:
    """(special or -1, start, stop) of the special tokens of text[begin:] and of what is not blank between them."""
    marks = [(vocab.SPECIALS.index(m.group()), *m.span()) for m in _SPECIAL.finditer(text, begin)]
    edges = [begin, *(edge for _, *span in marks for edge in span), len(text)]
    between = [(-1, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if text[a:b].strip()]
    return sorted([*marks, *between], key=lambda part: part[1])


def judged_tokens(text: str, world: World) -> tuple[list[int], list[int], bool]:
    """`response_tokens` with the marks around the answer, where they were lost with the special tokens; and whether
    there is no answer. It is a number, or the word for an undetermined one, behind the end of the last sentence."""
    tokens, starts = response_tokens(text, world)
    stop, word = int(world.phrases[vocab.STOP]), int(world.phrases[vocab.UNDETERMINED])
    if vocab.ANSWER in tokens:
        return [*tokens, vocab.EOS], [*starts, starts[-1]], False
    before, last = [vocab.PAD, vocab.PAD, *tokens][-2:]
    numbers = [world.first_number <= token < world.first_number + world.modulus for token in (before, last)]
    ended = len(tokens) == 1 or (before == stop if stop >= 0 else numbers[0])
    again = stop >= 0 and tokens[-3:] == [word, stop, word]
    if not (numbers[1] and ended) and not again:
        return tokens, starts, True
    end = [starts[-2], starts[-2], starts[-1], starts[-1]]
    return [*tokens[:-1], vocab.ANSWER, tokens[-1], vocab.EOS], [*starts[:-2], *end], False


def _with(answer: int, text: str, world: World) -> tuple[list[int], list[int], bool]:
    """`response_tokens` with a given answer."""
    tokens, starts = response_tokens(text, world)
    inside = isinstance(answer, int | np.integer) and 0 <= answer < world.modulus
    answer_word = int(world.phrases[vocab.UNDETERMINED]) if answer == UNDETERMINED else vocab.PAD - 1
    tokens += [vocab.ANSWER, world.first_number + int(answer) if inside else answer_word, vocab.EOS]
    return tokens, starts + starts[-1:] * 3, False


def check_text(problem: Problems, world: World, text: str, answer: int | None = None) -> Verdicts:
    """Judge a response's text for a batch of one problem; spans are in characters of the text.

    The answer is what follows `<answer>`, with or without that mark; where there is none, the value of the last step or
    UNDETERMINED; or `answer`, which may be UNDETERMINED too, where it is given. White space and special tokens are
    forgiven; a sentence that is no text of the world is one malformed step.
    """
    return check_texts(problem, world, [text], None if answer is None else [answer])


def check_texts(
    problems: Problems, world: World, texts: Sequence[str], answers: Sequence[int] | None = None
) -> Verdicts:
    """`check_text` of N problems, a text for each, and an answer for each or for none."""
    if answers is None:
        read = [judged_tokens(text, world) for text in texts]
    else:
        read = [_with(answer, text, world) for text, answer in zip(texts, answers, strict=True)]
    rows, bare_N = [tokens for tokens, *_ in read], np.array([bare for *_, bare in read])
    lengths, tokens_NR = np.array([len(row) for row in rows]), pad_rows(rows)
    found: list[tuple[np.ndarray, Verdicts]] = []
    for bare in np.unique(bare_N):
        at = np.flatnonzero(bare_N == bare)
        found.append((at, check(problems.take(at), world, tokens_NR[at], lengths[at], bare=bool(bare))))
    verdicts = found[0][1] if len(found) == 1 else _joined(found)
    places = pad_rows([starts for _, starts, _ in read])
    start, stop = (
        np.where(spans < 0, -1, np.take_along_axis(places, np.maximum(spans, 0), axis=1)).astype(np.int32)
        for spans in (verdicts.start, verdicts.stop)
    )
    return verdicts._replace(start=start, stop=stop)


def _joined(found: list[tuple[np.ndarray, Verdicts]]) -> Verdicts:
    """The verdicts of several groups of rows, each with their numbers, as those of all rows in their order."""
    order = np.argsort(np.concatenate([at for at, _ in found]))
    most = max(verdicts.kind.shape[1] for _, verdicts in found)

    def column(parts: list[np.ndarray]) -> np.ndarray:
        widened = [
            np.pad(part, ((0, 0), (0, most - part.shape[1])), constant_values=-1) if part.ndim == 2 else part
            for part in parts
        ]
        return np.concatenate(widened)[order]

    return Verdicts(*(column(list(parts)) for parts in zip(*(verdicts for _, verdicts in found), strict=True)))
