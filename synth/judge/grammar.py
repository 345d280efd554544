"""The grammar of a response: where its steps begin and end, and the clauses of one step.

    step    = Define OWNER THING as LETTER {; CLAUSE} ; so CLAUSE [BACK] .  |  Define OWNER THING as BACK .
    end     = Undetermined .
    clause  = LETTER = NUMBER  |  LETTER = LETTER = NUMBER
            | LETTER = OPERAND sign OPERAND = NUMBER sign NUMBER = NUMBER

The kernels read token ids of any value and any order and never fail: what is no step is reported as malformed. A phrase
that the world does not write (token -1) is read without consuming anything; the end of a step must then be visible in
another way (a world without a full stop begins each step with `Define`, or with a name). Clause rows have the columns
of `synth.problem.clauses`, and three more for what only a reader has to distinguish.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.problem import clauses as C
from synth.world import vocabulary as W

# a clause row: the columns of synth.problem.clauses (C.LEFT and C.RIGHT are -1 where the operand is a number), then
LEFT_NUMBER, RIGHT_NUMBER, SECOND_OPERATION = 7, 8, 9  # numbers in the letter expression, sign of the number expression
CLAUSE_COLUMNS = 10
OWNER_TOKEN, THING_TOKEN, LETTER, COUNT = range(4)  # a step's head; LETTER is -1 in a step that is taken back
MALFORMED_STEP, COMPLETE, UNSTOPPED = range(3)  # what parse_step returns; UNSTOPPED: only the full stop is missing
# a grammar is int64: the phrases of the world, then
FIRST_NUMBER, MODULUS, FIRST_LETTER, N_LETTERS, FIRST_NAME, SIZE = range(len(W.ROLES), len(W.ROLES) + 6)


def layout(world: W.World) -> np.ndarray:
    """What the kernels know of a world: int64[roles + 6], phrase tokens and the ranges of the vocabulary."""
    layout = [world.first_number, world.modulus, world.first_letter, world.n_letters, world.first_name, world.size]
    return np.array([*world.phrases, *layout], dtype=np.int64)


@jit
def number_of(g, token):
    """The number that a token is, or -1."""
    first = g[FIRST_NUMBER]
    return token - first if first <= token < first + g[MODULUS] else -1


@jit
def letter_of(g, token):
    """The index of the letter that a token is, or -1."""
    first = g[FIRST_LETTER]
    return token - first if first <= token < first + g[N_LETTERS] else -1


@jit
def _is_name(g, token):
    return g[FIRST_NAME] <= token < g[SIZE]


@jit
def _begins_step(tokens, at, g):
    if g[W.UNDETERMINED] >= 0 and tokens[at] == g[W.UNDETERMINED]:
        return True
    if g[W.DEFINE] >= 0:
        return tokens[at] == g[W.DEFINE]
    return _is_name(g, tokens[at]) and not _is_name(g, tokens[at - 1])


@jit
def solution_end(tokens, length):
    """Position of the first `<answer>`, `<eos>` or `<pad>`, or `length`."""
    at = 0
    while at < length and tokens[at] != W.ANSWER and tokens[at] != W.EOS and tokens[at] != W.PAD:
        at += 1
    return at


@jit
def step_end(tokens, start, end, g):
    """Position after the step that begins at start: after its full stop, before the next step, or at `end`."""
    at = start
    while at < end:
        if at > start and _begins_step(tokens, at, g):
            return at
        if g[W.STOP] >= 0 and tokens[at] == g[W.STOP]:
            return at + 1
        at += 1
    return end


@jit
def _phrase(tokens, at, stop, phrase):
    """Position after a phrase, or -1; at = -1 stays -1, so a chain of these fails as one."""
    if at < 0 or phrase < 0:
        return at
    return at + 1 if at < stop and tokens[at] == phrase else -1


@jit
def _sign(tokens, at, stop, g):
    """Operation whose sign stands at `at`, or -1."""
    if at < 0 or at >= stop or tokens[at] < 0:
        return -1
    if tokens[at] == g[W.PLUS]:
        return C.PLUS
    if tokens[at] == g[W.MINUS]:
        return C.MINUS
    return C.TIMES if tokens[at] == g[W.TIMES] else -1


@jit
def _number(tokens, at, stop, g):
    return number_of(g, tokens[at]) if 0 <= at < stop else -1


@jit
def _letter(tokens, at, stop, g):
    return letter_of(g, tokens[at]) if 0 <= at < stop else -1


@jit
def _parse_clause(tokens, at, stop, g, row):
    """Read one clause into `row`; position after it, or -1."""
    for c in range(CLAUSE_COLUMNS):
        row[c] = -1
    row[C.TARGET_LETTER] = _letter(tokens, at, stop, g)
    if row[C.TARGET_LETTER] < 0:
        return -1
    at = _phrase(tokens, at + 1, stop, g[W.IS])
    row[C.LEFT], row[LEFT_NUMBER] = _letter(tokens, at, stop, g), _number(tokens, at, stop, g)
    if row[C.LEFT] < 0 and row[LEFT_NUMBER] < 0:
        return -1
    at += 1
    sign = _sign(tokens, at, stop, g)
    if sign < 0:
        if row[C.LEFT] < 0:
            row[C.OPERATION], row[C.RESULT] = C.NUMBER, row[LEFT_NUMBER]
            return at
        row[C.OPERATION] = C.COPY
        at = _phrase(tokens, at, stop, g[W.IS])
        row[C.RESULT] = _number(tokens, at, stop, g)
        row[C.LEFT_VALUE] = row[C.RESULT]
        return at + 1 if row[C.RESULT] >= 0 else -1
    row[C.OPERATION] = sign
    row[C.RIGHT], row[RIGHT_NUMBER] = _letter(tokens, at + 1, stop, g), _number(tokens, at + 1, stop, g)
    at = _phrase(tokens, at + 2, stop, g[W.IS])
    row[C.LEFT_VALUE] = _number(tokens, at, stop, g)
    row[SECOND_OPERATION] = _sign(tokens, at + 1 if at >= 0 else -1, stop, g)
    row[C.RIGHT_VALUE] = _number(tokens, at + 2 if at >= 0 else -1, stop, g)
    at = _phrase(tokens, at + 3 if at >= 0 else -1, stop, g[W.IS])
    row[C.RESULT] = _number(tokens, at, stop, g)
    whole = row[C.LEFT_VALUE] >= 0 and row[SECOND_OPERATION] >= 0 and row[C.RIGHT_VALUE] >= 0 and row[C.RESULT] >= 0
    return at + 1 if whole and (row[C.RIGHT] >= 0 or row[RIGHT_NUMBER] >= 0) else -1


@jit
def _parse_clauses(tokens, at, stop, g, letter, head, rows):
    """Read clauses up to and including the one after `; so`; position after it, or -1.

    Where `;` and `; so` are written alike (or not at all), the clause that defines the step's letter is the last.
    """
    same = g[W.SO] == g[W.SEMICOLON]
    last = False
    while not last:
        if at < stop and g[W.SO] >= 0 and tokens[at] == g[W.SO]:
            last = not same
            at += 1
        elif at < stop and g[W.SEMICOLON] >= 0 and tokens[at] == g[W.SEMICOLON]:
            at += 1
        elif g[W.SO] < 0 or g[W.SEMICOLON] < 0:
            last = g[W.SO] < 0 and not same
        else:
            return -1
        row = rows[head[COUNT]]
        at = _parse_clause(tokens, at, stop, g, row)
        if at < 0:
            return -1
        if same:
            last = row[C.TARGET_LETTER] == letter
        head[COUNT] += 1
    return at if rows[head[COUNT] - 1, C.TARGET_LETTER] == letter else -1


@jit
def parse_step(tokens, start, stop, g, head, rows):
    """Read tokens[start:stop] as one step into head int64[4] and clause rows int64[>= stop - start, columns].

    Returns MALFORMED_STEP, COMPLETE or UNSTOPPED; the head's names are set as far as they were read.
    """
    head[OWNER_TOKEN], head[THING_TOKEN], head[LETTER], head[COUNT] = -1, -1, -1, 0
    at = _phrase(tokens, start, stop, g[W.DEFINE])
    if at < 0 or at + 2 > stop or not (_is_name(g, tokens[at]) and _is_name(g, tokens[at + 1])):
        return MALFORMED_STEP
    head[OWNER_TOKEN], head[THING_TOKEN] = tokens[at], tokens[at + 1]
    at = _phrase(tokens, at + 2, stop, g[W.AS])
    if at < 0 or at >= stop:
        return MALFORMED_STEP
    if g[W.BACK] >= 0 and tokens[at] == g[W.BACK]:
        at += 1
    else:
        head[LETTER] = letter_of(g, tokens[at])
        at = _parse_clauses(tokens, at + 1, stop, g, head[LETTER], head, rows) if head[LETTER] >= 0 else -1
        if 0 <= at < stop and g[W.BACK] >= 0 and tokens[at] == g[W.BACK]:
            head[LETTER] = -1
            at += 1
    if at < 0:
        return MALFORMED_STEP
    if g[W.STOP] >= 0 and at == stop:
        return UNSTOPPED
    at = _phrase(tokens, at, stop, g[W.STOP])
    return COMPLETE if at == stop else MALFORMED_STEP


@jit
def says_undetermined(tokens, start, stop, g):
    """Whether tokens[start:stop] is the sentence that the query is undetermined: COMPLETE, UNSTOPPED, or 0 for no."""
    if g[W.UNDETERMINED] < 0 or tokens[start] != g[W.UNDETERMINED]:
        return 0
    if g[W.STOP] >= 0 and start + 1 == stop:
        return UNSTOPPED
    return COMPLETE if _phrase(tokens, start + 1, stop, g[W.STOP]) == stop else 0
