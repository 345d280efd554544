"""A problem as a document: token ids with the truth aligned to every token.

    <problem> sentences . question? <solution> Define A's B as k; so k = 9. ... <answer> 4 <eos>
     segment:  1         2                      3                            4

Where a premise is missing, the solution ends with ` Undetermined.` and the answer is that word.

Text is the rendering of the tokens (`World.decode`); the truth is written while the tokens are, never parsed back.
Beside each solution token stands the generator's exact log-probability of it, so the mean of their negative is the
entropy floor that no model can beat.
"""

import math

import numpy as np

from synth.draw.structure import pick
from synth.kernel.jit import jit
from synth.kernel.rng import below, shuffle, uniform
from synth.problem import arrays as P
from synth.problem.arrays import ADD, DIFFERENCE, SLOTS
from synth.problem.clauses import (
    COPY,
    LEFT,
    LEFT_VALUE,
    MINUS,
    NUMBER,
    OPERATION,
    RESULT,
    RIGHT,
    RIGHT_VALUE,
    TARGET_LETTER,
    expand,
)
from synth.problem.clauses import PLUS as ADDITION
from synth.world.vocabulary import (  # fmt: skip
    AND_EACH,
    ANSWER,
    AS,
    BACK,
    COMMA_EACH,
    DEFINE,
    DOES,
    EOS,
    EQUALS,
    EQUALS_EACH,
    HAVE,
    HOW_MANY,
    IS,
    MORE_EACH,
    PLUS,
    PROBLEM,
    SEMICOLON,
    SO,
    SOLUTION,
    STOP,
    THE_NUMBER,
    TIMES,
    TIMES_EACH,
    UNDETERMINED,
)
from synth.world.vocabulary import MINUS as MINUS_SIGN
from synth.write.mistakes import SLIP, branch_law, candidates, name_law, name_tokens, next_needed

# rows of the truth array
TOKEN, SEGMENT, STEP, PARAM, MISTAKE, LOSS = range(6)
SENTENCE, QUESTION, STEP_SEGMENT, ANSWER_SEGMENT = 1, 2, 3, 4
CAPACITY = 32768  # longest document: 72 steps, each after up to 71 mistakes of 6 tokens
SLIPS_UNTIL = CAPACITY // 2  # slips have no natural end: a document this long makes no more, so it fits
MASK_NONE, MASK_NAME, MASK_STEP = range(3)


@jit
def put(out, n, token, segment, step, param, mistake, loss):
    """Write one token with its truth at column n, unless it is -1 (not written in this world). Returns the next n."""
    if token < 0:
        return n
    out[0, n], out[1, n], out[2, n], out[3, n], out[4, n], out[5, n] = token, segment, step, param, mistake, loss
    return n + 1


@jit
def _name(p, x, out, n, segment, step, param):
    owner, thing = name_tokens(p, x)
    n = put(out, n, owner, segment, step, param, 0, 0)
    return put(out, n, thing, segment, step, param, 0, 0)


@jit
def write_sentence(p, x, step, phrases, first_number, out, n):
    """The problem sentence of instance x (spec section 2)."""
    n = put(out, n, phrases[THE_NUMBER], SENTENCE, step, x, 0, 0)
    n = _name(p, x, out, n, SENTENCE, step, x)
    count, constant = p.n_terms[0, x], p.constant[0, x]
    kind = 0 if count == 1 else (2 if p.combine[0, x] == DIFFERENCE else 1)
    if constant >= 0:
        n = put(out, n, phrases[EQUALS], SENTENCE, step, x, 0, 0)
        n = put(out, n, first_number + constant, SENTENCE, step, x, 0, 0)
        if count > 0:
            first = MORE_EACH if p.constant_op[0, x] == ADD else TIMES_EACH
            n = put(out, n, phrases[first + kind], SENTENCE, step, x, 0, 0)
    else:
        n = put(out, n, phrases[EQUALS_EACH + kind], SENTENCE, step, x, 0, 0)
    for t in range(count):
        if t > 0:
            n = put(out, n, phrases[AND_EACH if t == count - 1 else COMMA_EACH], SENTENCE, step, x, 0, 0)
        n = _name(p, p.terms[0, x, t, 0], out, n, SENTENCE, step, x)
    return put(out, n, phrases[STOP], SENTENCE, step, x, 0, 0)


@jit
def _write_question(p, phrases, out, n):
    x = p.scalars[0, P.QUERY]
    owner, thing = name_tokens(p, x)
    n = put(out, n, phrases[HOW_MANY], QUESTION, -1, x, 0, 0)
    n = put(out, n, thing, QUESTION, -1, x, 0, 0)
    n = put(out, n, phrases[DOES], QUESTION, -1, x, 0, 0)
    n = put(out, n, owner, QUESTION, -1, x, 0, 0)
    return put(out, n, phrases[HAVE], QUESTION, -1, x, 0, 0)


@jit
def write_prompt(p, question_first, phrases, first_number, out):
    """`<problem>` ... `<solution>`; returns the prompt's length."""
    n = put(out, 0, PROBLEM, SENTENCE, -1, -1, 0, 0)
    if question_first:
        n = _write_question(p, phrases, out, n)
    for i in range(p.scalars[0, P.N_SENTENCES]):
        n = write_sentence(p, p.sentences[0, i], i, phrases, first_number, out, n)
    if not question_first:
        n = _write_question(p, phrases, out, n)
    return put(out, n, SOLUTION, QUESTION, -1, -1, 0, 0)


@jit
def _write_operand(out, n, letter, value, letters, first_number, step, x):
    token = first_number + value if letter < 0 else letters[letter]
    return put(out, n, token, STEP_SEGMENT, step, x, 0, 1)


@jit
def write_clauses(p, x, step, phrases, first_number, letters, rows, count, out, n):
    """The clauses of a step, from `;` or `; so` to before the full stop."""
    for c in range(count):
        n = put(out, n, phrases[SO] if c == count - 1 else phrases[SEMICOLON], STEP_SEGMENT, step, x, 0, 1)
        n = put(out, n, letters[rows[c, TARGET_LETTER]], STEP_SEGMENT, step, x, 0, 1)
        n = put(out, n, phrases[IS], STEP_SEGMENT, step, x, 0, 1)
        operation = rows[c, OPERATION]
        if operation != NUMBER:
            sign = PLUS if operation == ADDITION else (MINUS_SIGN if operation == MINUS else TIMES)
            for numeric in range(1 if operation == COPY else 2):
                left = -1 if numeric else rows[c, LEFT]
                right = -1 if numeric else rows[c, RIGHT]
                n = _write_operand(out, n, left, rows[c, LEFT_VALUE], letters, first_number, step, x)
                if operation != COPY:
                    n = put(out, n, phrases[sign], STEP_SEGMENT, step, x, 0, 1)
                    n = _write_operand(out, n, right, rows[c, RIGHT_VALUE], letters, first_number, step, x)
                n = put(out, n, phrases[IS], STEP_SEGMENT, step, x, 0, 1)
        n = put(out, n, first_number + rows[c, RESULT], STEP_SEGMENT, step, x, 0, 1)
    return n


@jit
def _write_definition(p, x, step, mistake, mask, law, exact, phrases, out, logp, n):
    """`Define NAME as`, with the log-probability of the names; returns (next n, P(defined | name))."""
    owner, thing = name_tokens(p, x)
    p_owner, p_thing, p_defined = 1.0, 1.0, 1.0
    if exact:
        p_owner, p_thing, p_defined = name_law(p, law, owner, thing)
    loss_name = 0 if mistake and mask != MASK_NONE else 1
    loss_rest = 0 if mistake and mask == MASK_STEP else 1
    n = put(out, n, phrases[DEFINE], STEP_SEGMENT, step, x, mistake, loss_rest)
    n = put(out, n, owner, STEP_SEGMENT, step, x, mistake, loss_name)
    logp[n - 1] = math.log(p_owner) if exact else math.nan
    n = put(out, n, thing, STEP_SEGMENT, step, x, mistake, loss_name)
    logp[n - 1] = math.log(p_thing) if exact else math.nan
    n = put(out, n, phrases[AS], STEP_SEGMENT, step, x, mistake, loss_rest)
    return n, p_defined


@jit
def _slip(s, rate, right, modulus):
    """The number written as result: the right one, or with probability `rate` one of the others."""
    if rate <= 0.0 or uniform(s) >= rate:
        return right
    wrong = below(s, modulus - 1)
    return wrong + 1 if wrong >= right else wrong


@jit
def _close_step(s, step, x, slipped, mask, uncorrected, phrases, out, logp, begin, n):
    """`BACK .` after a slip that is taken back, else the full stop; returns (next n, whether the step stands)."""
    back = slipped and uniform(s) >= uncorrected
    if slipped and mask != MASK_NONE:
        out[LOSS, n - 1] = 0
    if back and mask == MASK_STEP:
        out[LOSS, begin:n] = 0
    if back:
        n = put(out, n, phrases[BACK], STEP_SEGMENT, step, x, 1, 1)
        logp[n - 1] += math.log(1.0 - uncorrected)
    n = put(out, n, phrases[STOP], STEP_SEGMENT, step, x, 0, 1)
    if slipped:
        out[MISTAKE, begin:n] = 1
        if not back:
            logp[n - 1] += math.log(uncorrected)
    return n, not back


@jit
def write_solution(s, p, law, phrases, first_number, first_letter, n_letters, rates, out, logp, n):
    """Solution, answer and end after the prompt; returns the document's length.

    law: int64 [published order, random letters, mistake kind, mask, modulus, shortest] and rates: float64 [of mistakes,
    of slips left uncorrected], as made by `synth.dataset`.
    """
    published, random_letters, kind, mask, modulus = law[0], law[1], law[2], law[3], law[4]
    room = 0 if law[5] else n_letters
    retry_rate, uncorrected = rates[0], rates[1]
    letters = np.arange(first_letter, first_letter + n_letters)
    if random_letters:
        shuffle(s, letters, n_letters)
    done = np.zeros(SLOTS, dtype=np.int64)
    tried = np.zeros(SLOTS, dtype=np.int64)
    marked = np.zeros(SLOTS, dtype=np.int64)
    letter = np.full(SLOTS, -1, dtype=np.int64)
    rows = np.zeros((8, 7), dtype=np.int64)
    chances = np.zeros((2, SLOTS))
    value = p.value[0].copy()  # as written: what follows from an uncorrected slip differs from the truth
    query = p.scalars[0, P.QUERY]
    used, step, n_done = 0, 0, 0
    while not done[query] and next_needed(p, done, marked, room) > 0:
        x = p.topo[0, n_done] if published else pick(s, marked)
        tried[:] = 0
        while True:
            if not published:
                branch_law(kind, retry_rate, p, done, tried, chances[0], chances[1], room)
            if retry_rate <= 0.0 or candidates(kind, p, done, tried, x, marked) == 0 or uniform(s) >= retry_rate:
                break
            wrong = pick(s, marked)
            tried[wrong] = 1
            n, defined = _write_definition(p, wrong, step, 1, mask, chances, not published, phrases, out, logp, n)
            n = put(out, n, phrases[BACK], STEP_SEGMENT, step, wrong, 1, 1)
            logp[n - 1] = math.log(1.0 - defined) if not published else math.nan
            n = put(out, n, phrases[STOP], STEP_SEGMENT, step, wrong, 1, 1)
            step += 1
        begin = n
        n, defined = _write_definition(p, x, step, 0, mask, chances, not published, phrases, out, logp, n)
        first = used
        count, used = expand(
            x,
            p.n_terms[0],
            p.terms[0],
            p.combine[0],
            p.constant[0],
            p.constant_op[0],
            value,
            modulus,
            letter,
            used,
            rows,
        )
        right = rows[count - 1, RESULT]
        slip_rate = retry_rate if kind == SLIP and n < SLIPS_UNTIL else 0.0
        rows[count - 1, RESULT] = _slip(s, slip_rate, right, modulus)
        slipped = rows[count - 1, RESULT] != right
        n = put(out, n, letters[first], STEP_SEGMENT, step, x, 0, 1)
        start = n - 1
        n = write_clauses(p, x, step, phrases, first_number, letters, rows, count, out, n)
        logp[n - 1] = math.log(slip_rate / (modulus - 1) if slipped else 1.0 - slip_rate)
        if random_letters:
            _price_letters(out, logp, letters, first, used, start, n, n_letters)
        logp[start] += math.log(defined) if not published else math.nan
        n, stands = _close_step(s, step, x, slipped, mask, uncorrected, phrases, out, logp, begin, n)
        step += 1
        if stands:
            done[x] = 1
            n_done += 1
            if kind == SLIP:
                value[x] = rows[count - 1, RESULT]
        else:
            used = first
            if random_letters:
                shuffle(s, letters[used:], n_letters - used)
    answer = first_number + value[query]
    if p.scalars[0, P.MISSING] >= 0:
        n = put(out, n, phrases[UNDETERMINED], STEP_SEGMENT, step, -1, 0, 1)
        n = put(out, n, phrases[STOP], STEP_SEGMENT, step, -1, 0, 1)
        answer = phrases[UNDETERMINED]
    n = put(out, n, ANSWER, ANSWER_SEGMENT, -1, -1, 0, 1)
    n = put(out, n, answer, ANSWER_SEGMENT, -1, query, 0, 1)
    return put(out, n, EOS, ANSWER_SEGMENT, -1, -1, 0, 1)


@jit
def _price_letters(out, logp, letters, first, used, start, stop, n_letters):
    """Each letter is uniform over the unused ones where it first appears, and determined afterwards."""
    for i in range(first, used):
        for n in range(start, stop):
            if out[0, n] == letters[i]:
                logp[n] -= math.log(n_letters - i)
                break
