"""Judging a solution that is text: it is cut into tokens of the world first, what is no text of the world included."""

import itertools
import re

import numpy as np

from synth.judge.checker import UNDETERMINED, Verdicts, check
from synth.problem.arrays import Problems
from synth.world import vocabulary as vocab
from synth.world.vocabulary import World


def tokenize(text: str, world: World) -> tuple[list[int], list[int]]:
    """Tokens of a text and the character at which each begins, and the text's length at the end. A sentence that is no
    text of the world becomes one token that nothing accepts, and its full stop."""
    stop = int(world.phrases[vocab.STOP])
    full_stop = world.vocabulary[stop] if stop >= 0 else ""
    sentences = re.split(f"(?<={re.escape(full_stop)})(?= )", text) if full_stop else [text]
    tokens: list[int] = []
    starts: list[int] = []
    position = 0
    for sentence in filter(None, sentences):
        try:
            ids = world.encode(sentence)
        except ValueError:
            ids = None
        if ids is None or world.decode(ids) != sentence:
            closed = bool(full_stop) and sentence.endswith(full_stop)
            tokens += [vocab.PAD - 1, stop] if closed else [vocab.PAD - 1]
            starts += [position, position + len(sentence) - len(full_stop)] if closed else [position]
        else:
            tokens += ids
            lengths = [
                len(world.vocabulary[token])
                + (len(world.possessive) if k > 0 and min(token, ids[k - 1]) >= world.first_name else 0)
                for k, token in enumerate(ids)
            ]
            starts += [position + n for n in itertools.accumulate(lengths[:-1], initial=0)]
        position += len(sentence)
    return tokens, [*starts, position]


def check_text(problem: Problems, world: World, text: str, answer: int | None = None) -> Verdicts:
    """Judge a solution's text (without the answer) for a batch of one problem; spans are in characters of the text.
    Without `answer` the value of the last step is the answer, or UNDETERMINED, which may be given as an answer, too. A
    missing space at the start is forgiven; a sentence that is no text of the world is one malformed step."""
    missing = " " if text[:1].isalnum() else ""
    tokens, starts = tokenize(missing + text, world)
    if answer is not None:
        inside = isinstance(answer, int | np.integer) and 0 <= answer < world.modulus
        answer_word = int(world.phrases[vocab.UNDETERMINED]) if answer == UNDETERMINED else vocab.PAD - 1
        tokens += [vocab.ANSWER, world.first_number + int(answer) if inside else answer_word, vocab.EOS]
    verdicts = check(problem, world, np.array([tokens], dtype=np.int64), np.array([len(tokens)]), bare=answer is None)
    places = np.maximum(np.array(starts, dtype=np.int32) - len(missing), 0)
    return verdicts._replace(start=places[verdicts.start], stop=places[verdicts.stop])
