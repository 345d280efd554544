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

from synth.kernel.jit import jit
from synth.problem import clauses
from synth.world import vocabulary as vocab

# a clause row: the columns of synth.problem.clauses (LEFT and RIGHT are -1 where the operand is a number), then
LEFT_NUMBER, RIGHT_NUMBER, SECOND_OPERATION = 7, 8, 9  # numbers in the letter expression, sign of the number expression
CLAUSE_COLUMNS = 10
OWNER_TOKEN, THING_TOKEN, LETTER, COUNT = range(4)  # a step's head; LETTER is -1 in a step that is taken back
FAILED = -100  # a position: what was to be read is not there; so far from 0 that steps behind it stay negative
MALFORMED_STEP, COMPLETE, UNSTOPPED = range(3)  # what parse_step returns; UNSTOPPED: only the full stop is missing


@jit
def number_of(ids, token):
    """The number that a token is, or -1."""
    first = ids.first_number
    return token - first if first <= token < first + ids.modulus else -1


@jit
def letter_of(ids, token):
    """The index of the letter that a token is, or -1."""
    first = ids.first_letter
    return token - first if first <= token < first + ids.n_letters else -1


@jit
def _is_name(ids, token):
    return ids.first_name <= token < ids.size


@jit
def _begins_step(tokens, at, ids):
    if ids.phrases[vocab.UNDETERMINED] >= 0 and tokens[at] == ids.phrases[vocab.UNDETERMINED]:
        return True
    if ids.phrases[vocab.DEFINE] >= 0:
        return tokens[at] == ids.phrases[vocab.DEFINE]
    return _is_name(ids, tokens[at]) and not _is_name(ids, tokens[at - 1])


@jit
def solution_end(tokens, length):
    """Position of the first `<answer>`, `<eos>` or `<pad>`, or `length`."""
    at = 0
    while at < length and tokens[at] != vocab.ANSWER and tokens[at] != vocab.EOS and tokens[at] != vocab.PAD:
        at += 1
    return at


@jit
def step_end(tokens, start, end, ids):
    """Position after the step that begins at start: after its full stop, before the next step, or at `end`."""
    at = start
    while at < end:
        if at > start and _begins_step(tokens, at, ids):
            return at
        if ids.phrases[vocab.STOP] >= 0 and tokens[at] == ids.phrases[vocab.STOP]:
            return at + 1
        at += 1
    return end


@jit
def _phrase(tokens, at, stop, phrase):
    """Position after a phrase, or FAILED; what follows FAILED fails too, so a chain of these fails as one."""
    if at < 0 or phrase < 0:
        return at
    return at + 1 if at < stop and tokens[at] == phrase else FAILED


@jit
def sign_of(ids, token):
    """The operation whose sign a token is, or -1."""
    for operation in (clauses.PLUS, clauses.MINUS, clauses.TIMES):
        if token == ids.phrases[clauses.sign_role(operation)]:
            return operation
    return -1


@jit
def _token(tokens, at, stop):
    return tokens[at] if 0 <= at < stop else -1


@jit
def _parse_clause(tokens, at, stop, ids, row):
    """Read one clause into `row`; position after it, or FAILED."""
    for c in range(CLAUSE_COLUMNS):
        row[c] = -1
    row[clauses.TARGET_LETTER] = letter_of(ids, _token(tokens, at, stop))
    at = _phrase(tokens, at + 1, stop, ids.phrases[vocab.IS])
    left = _token(tokens, at, stop)
    row[clauses.LEFT], row[LEFT_NUMBER] = letter_of(ids, left), number_of(ids, left)
    if row[clauses.TARGET_LETTER] < 0 or (row[clauses.LEFT] < 0 and row[LEFT_NUMBER] < 0):
        return FAILED
    at += 1
    sign = sign_of(ids, _token(tokens, at, stop))
    if sign < 0 and row[clauses.LEFT] < 0:
        row[clauses.OPERATION], row[clauses.RESULT] = clauses.NUMBER, row[LEFT_NUMBER]
        return at
    if sign < 0:
        at = _phrase(tokens, at, stop, ids.phrases[vocab.IS])
        number = number_of(ids, _token(tokens, at, stop))
        row[clauses.OPERATION], row[clauses.LEFT_VALUE], row[clauses.RESULT] = clauses.COPY, number, number
        return at + 1 if number >= 0 else FAILED
    right = _token(tokens, at + 1, stop)
    row[clauses.OPERATION], row[clauses.RIGHT], row[RIGHT_NUMBER] = sign, letter_of(ids, right), number_of(ids, right)
    at = _phrase(tokens, at + 2, stop, ids.phrases[vocab.IS])
    row[clauses.LEFT_VALUE] = number_of(ids, _token(tokens, at, stop))
    row[SECOND_OPERATION] = sign_of(ids, _token(tokens, at + 1, stop))
    row[clauses.RIGHT_VALUE] = number_of(ids, _token(tokens, at + 2, stop))
    at = _phrase(tokens, at + 3, stop, ids.phrases[vocab.IS])
    row[clauses.RESULT] = number_of(ids, _token(tokens, at, stop))
    for c in (clauses.LEFT_VALUE, SECOND_OPERATION, clauses.RIGHT_VALUE, clauses.RESULT):
        if row[c] < 0:
            return FAILED
    return at + 1 if row[clauses.RIGHT] >= 0 or row[RIGHT_NUMBER] >= 0 else FAILED


@jit
def _parse_clauses(tokens, at, stop, ids, letter, head, rows):
    """Read clauses up to and including the one after `; so`; position after it, or FAILED. Where `;` and `; so` are
    written alike (or not at all), the clause that defines the step's letter is the last."""
    same = ids.phrases[vocab.SO] == ids.phrases[vocab.SEMICOLON]
    last = False
    while not last:
        if at < stop and ids.phrases[vocab.SO] >= 0 and tokens[at] == ids.phrases[vocab.SO]:
            last = not same
            at += 1
        elif at < stop and ids.phrases[vocab.SEMICOLON] >= 0 and tokens[at] == ids.phrases[vocab.SEMICOLON]:
            at += 1
        elif ids.phrases[vocab.SO] < 0 or ids.phrases[vocab.SEMICOLON] < 0:
            last = ids.phrases[vocab.SO] < 0 and not same
        else:
            return FAILED
        row = rows[head[COUNT]]
        at = _parse_clause(tokens, at, stop, ids, row)
        if at < 0:
            return FAILED
        if same:
            last = row[clauses.TARGET_LETTER] == letter
        head[COUNT] += 1
    return at if rows[head[COUNT] - 1, clauses.TARGET_LETTER] == letter else FAILED


@jit
def parse_step(tokens, start, stop, ids, head, rows):
    """Read tokens[start:stop] as one step into head int64[4] and clause rows int64[>= stop - start, columns]. Returns
    MALFORMED_STEP, COMPLETE or UNSTOPPED; the head's names are set as far as they were read."""
    head[OWNER_TOKEN], head[THING_TOKEN], head[LETTER], head[COUNT] = -1, -1, -1, 0
    at = _phrase(tokens, start, stop, ids.phrases[vocab.DEFINE])
    if at < 0 or at + 2 > stop or not (_is_name(ids, tokens[at]) and _is_name(ids, tokens[at + 1])):
        return MALFORMED_STEP
    head[OWNER_TOKEN], head[THING_TOKEN] = tokens[at], tokens[at + 1]
    at = _phrase(tokens, at + 2, stop, ids.phrases[vocab.AS])
    if at < 0 or at >= stop:
        return MALFORMED_STEP
    if ids.phrases[vocab.BACK] >= 0 and tokens[at] == ids.phrases[vocab.BACK]:
        at += 1
    else:
        head[LETTER] = letter_of(ids, tokens[at])
        at = _parse_clauses(tokens, at + 1, stop, ids, head[LETTER], head, rows) if head[LETTER] >= 0 else FAILED
        if 0 <= at < stop and ids.phrases[vocab.BACK] >= 0 and tokens[at] == ids.phrases[vocab.BACK]:
            head[LETTER] = -1
            at += 1
    if at < 0:
        return MALFORMED_STEP
    if ids.phrases[vocab.STOP] >= 0 and at == stop:
        return UNSTOPPED
    at = _phrase(tokens, at, stop, ids.phrases[vocab.STOP])
    return COMPLETE if at == stop else MALFORMED_STEP


@jit
def says_undetermined(tokens, start, stop, ids):
    """Whether tokens[start:stop] is the sentence that the query is undetermined: COMPLETE, UNSTOPPED, or 0 for no."""
    if ids.phrases[vocab.UNDETERMINED] < 0 or tokens[start] != ids.phrases[vocab.UNDETERMINED]:
        return 0
    if ids.phrases[vocab.STOP] >= 0 and start + 1 == stop:
        return UNSTOPPED
    return COMPLETE if _phrase(tokens, start + 1, stop, ids.phrases[vocab.STOP]) == stop else 0
