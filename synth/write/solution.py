"""A solution as tokens: its steps in a random order, with the generator's log-probability of every token, the answer.

    <problem> sentences . question? <solution> Define A's B as k; so k = 9. ... <answer> 4 <eos>

Where a premise is missing, the solution ends with ` Undetermined.` and the answer is that word. Text is the rendering
of the tokens (`World.decode`); the truth is written while the tokens are, never parsed back. The mean of the negative
log-probabilities is the entropy floor that no model can beat.
"""

import math
from typing import NamedTuple

import numpy as np

from synth.documents import ANSWER_SEGMENT, SOLUTION_SEGMENT
from synth.kernel.jit import jit
from synth.kernel.rng import pick, shuffle
from synth.problem import clauses
from synth.problem.arrays import MISSING, QUERY, SLOTS
from synth.world import vocabulary as vocab
from synth.write.mistakes import SLIP, close_step, insert_mistakes, next_needed, put_definition, put_step_token, slip
from synth.write.prompt import TOKEN, put

MAX_DOCUMENT = 32768  # tokens: 72 steps, each after up to 71 mistakes of 6 tokens
SLIPS_UNTIL = MAX_DOCUMENT // 2  # slips have no natural end: a document this long makes no more, so it fits


class Work(NamedTuple):
    """The state of the solution that is being written, and scratch arrays."""

    done: np.ndarray  # int64[72] 1 where a step that stands defines the parameter
    tried: np.ndarray  # int64[72] 1 where a mistake at this position named it
    mask: np.ndarray  # int64[72]
    letter: np.ndarray  # int64[72] number of each defined parameter's letter
    letters: np.ndarray  # int64[letters] token of letter number 0, 1, ...
    value: np.ndarray  # int32[72] as written: what follows from an uncorrected slip differs from the truth
    probs: np.ndarray  # float64[2, 72] of the next sentence: right steps, mistakes
    rows: np.ndarray  # int64[clauses, columns] of the step at hand


@jit
def _write_clauses(x, step, ids, work, count, out, n):
    """The clauses of a step, from `;` or `; so` to before the full stop."""
    for c in range(count):
        row = work.rows[c]
        n = put_step_token(out, n, ids.phrases[vocab.SO if c == count - 1 else vocab.SEMICOLON], step, x)
        n = put_step_token(out, n, work.letters[row[clauses.TARGET_LETTER]], step, x)
        n = put_step_token(out, n, ids.phrases[vocab.IS], step, x)
        operation = row[clauses.OPERATION]
        if operation != clauses.NUMBER:
            for numeric in range(1 if operation == clauses.COPY else 2):
                letter = -1 if numeric else row[clauses.LEFT]
                n = _write_operand(x, step, ids, work, letter, row[clauses.LEFT_VALUE], out, n)
                if operation != clauses.COPY:
                    letter = -1 if numeric else row[clauses.RIGHT]
                    n = put_step_token(out, n, ids.phrases[clauses.sign_role(operation)], step, x)
                    n = _write_operand(x, step, ids, work, letter, row[clauses.RIGHT_VALUE], out, n)
                n = put_step_token(out, n, ids.phrases[vocab.IS], step, x)
        n = put_step_token(out, n, ids.first_number + row[clauses.RESULT], step, x)
    return n


@jit
def _write_operand(x, step, ids, work, letter, value, out, n):
    return put_step_token(out, n, ids.first_number + value if letter < 0 else work.letters[letter], step, x)


@jit
def _subtract_letter_costs(out, logp, letters, first, used, start, stop, n_letters):
    """Each letter is uniform over the unused ones where it first appears, and determined afterwards."""
    for i in range(first, used):
        for n in range(start, stop):
            if out[TOKEN, n] == letters[i]:
                logp[n] -= math.log(n_letters - i)
                break


@jit
def _write_step(s, p, x, step, used, settings, ids, work, out, logp, n):
    """The step that defines slot x; returns (next n, letters used, whether it stands and is not taken back)."""
    begin, first = n, used
    n, defined = put_definition(p, x, step, 0, settings, ids, work.probs, out, logp, n)
    count, used = clauses.expand(
        x, p.n_terms[0], p.terms[0], p.combine[0], p.constant[0], p.constant_op[0], work.value, ids.modulus,
        work.letter, used, work.rows,
    )  # fmt: skip
    last = work.rows[count - 1]
    right = last[clauses.RESULT]
    slip_rate = settings.retry_rate if settings.retry_kind == SLIP and n < SLIPS_UNTIL else 0.0
    last[clauses.RESULT] = slip(s, slip_rate, right, ids.modulus)
    slipped = last[clauses.RESULT] != right
    n = put_step_token(out, n, work.letters[first], step, x)
    start = n - 1
    n = _write_clauses(x, step, ids, work, count, out, n)
    logp[n - 1] = math.log(slip_rate / (ids.modulus - 1) if slipped else 1.0 - slip_rate)
    if settings.random_letters:
        _subtract_letter_costs(out, logp, work.letters, first, used, start, n, ids.n_letters)
    logp[start] += math.log(defined)
    n, stands = close_step(s, step, x, slipped, settings, ids, out, logp, begin, n)
    if stands:
        work.done[x] = 1
        if settings.retry_kind == SLIP:
            work.value[x] = last[clauses.RESULT]
    else:
        used = first
        if settings.random_letters:
            shuffle(s, work.letters[used:], ids.n_letters - used)
    return n, used, stands


@jit
def write_solution(s, p, settings, ids, out, logp, n):
    """Solution, answer and end after a prompt of n tokens; returns the document's length. s: a generator
    (`synth.kernel.rng`); p: a problem, as a batch of one; out: int32[6, capacity], logp likewise."""
    letters = np.arange(ids.first_letter, ids.first_letter + ids.n_letters)
    if settings.random_letters:
        shuffle(s, letters, ids.n_letters)
    work = Work(
        np.zeros(SLOTS, dtype=np.int64), np.zeros(SLOTS, dtype=np.int64), np.zeros(SLOTS, dtype=np.int64),
        np.full(SLOTS, -1, dtype=np.int64), letters, p.value[0].copy(), np.zeros((2, SLOTS)),
        np.zeros((clauses.MAX_CLAUSES, clauses.CLAUSE_COLUMNS), dtype=np.int64),
    )  # fmt: skip
    query = p.scalars[0, QUERY]
    used, step, n_done = 0, 0, 0
    spare_letters = 0 if settings.shortest else ids.n_letters
    while not work.done[query] and next_needed(p, work.done, work.mask, spare_letters) > 0:
        x = p.topo[0, n_done] if settings.published_order else pick(s, work.mask)
        n, step = insert_mistakes(s, p, x, step, settings, ids, work, out, logp, n)
        n, used, stands = _write_step(s, p, x, step, used, settings, ids, work, out, logp, n)
        step += 1
        n_done += 1 if stands else 0
    answer = ids.first_number + work.value[query]
    if p.scalars[0, MISSING] >= 0:
        answer = ids.phrases[vocab.UNDETERMINED]
        n = put(out, n, answer, SOLUTION_SEGMENT, step, -1, 0, 1)
        n = put(out, n, ids.phrases[vocab.STOP], SOLUTION_SEGMENT, step, -1, 0, 1)
    n = put(out, n, vocab.ANSWER, ANSWER_SEGMENT, -1, -1, 0, 1)
    n = put(out, n, answer, ANSWER_SEGMENT, -1, query, 0, 1)
    return put(out, n, vocab.EOS, ANSWER_SEGMENT, -1, -1, 0, 1)
