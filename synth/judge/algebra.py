"""What the letters of a solution mean: each one's value, the parameters it reaches, its expression in normal form.

Two expressions are the same when they are one tree up to the order of operands of + and *, and the folding of sums and
differences: `(12 + x) - y` is `12 + (x - y)`; but `5 * x + 5 * y` is not `5 * (x + y)`. A normal form is the constant,
how it is applied, and the multiset of signed terms, a term being one or two parameters. What no problem can contain
(sums of two numbers, products of sums, ...) has no normal form and equals nothing. Nothing is ever cancelled.
"""

from typing import NamedTuple

import numpy as np

from synth.judge import grammar
from synth.kernel.jit import jit
from synth.problem import clauses
from synth.problem.arrays import ADD, DIFFERENCE, INSTANCES, MAX_TERMS, MULTIPLY, SLOTS

# a normal form: HAS_FORM 0 or 1, number of terms, 0 | ADD | MULTIPLY, the constant, then one signed key per term
HAS_FORM, N_TERMS, CONSTANT_OP, CONSTANT, FIRST_KEY = range(5)
FORM_COLUMNS = FIRST_KEY + MAX_TERMS
BASE = SLOTS + 1  # key of a term: (a + 1) * BASE + (b + 1) with a <= b, or (a + 1) * BASE when it is one parameter
# reach: bit masks over instance slots (column 0), and over abstract slots and these two (column 1)
FOREIGN, UNDEFINED = 1 << 24, 1 << 25
# what can be wrong with the clauses of a step, as bits
UNUSED, REUSED, REFERENCE, ARITHMETIC = 1, 2, 4, 8


class Letters(NamedTuple):
    """Meaning of every letter; then come two rows for numbers, one for the clause at hand, one for a mask."""

    value: np.ndarray  # int64[letters + 4], -1 while the letter stands for nothing
    reach: np.ndarray  # int64[letters + 4, 2]
    form: np.ndarray  # int64[letters + 4, columns]
    used: np.ndarray  # int64[letters + 4] 1 when an operand since it was bound


def letters_buffer(n_letters: int) -> Letters:
    """Empty `Letters` for n letters."""
    rows = n_letters + 4
    return Letters(*(np.zeros(shape, dtype=np.int64) for shape in (rows, (rows, 2), (rows, FORM_COLUMNS), rows)))


@jit
def _copy(source, target):
    # plain loops over a few numbers compile several times faster than array expressions
    for c in range(len(source)):
        target[c] = source[c]


@jit
def _clear(target):
    for c in range(len(target)):
        target[c] = 0


@jit
def forget(letters):
    """Clear the meaning of every letter."""
    for letter in range(len(letters.value)):
        letters.value[letter] = -1
        letters.reach[letter, 0] = 0
        letters.reach[letter, 1] = UNDEFINED
        _clear(letters.form[letter])


@jit
def _join(a, b, operation, out):
    """Normal form of a + b or a - b."""
    count = a[N_TERMS] + b[N_TERMS]
    constants = a[CONSTANT_OP] + b[CONSTANT_OP]
    if count > MAX_TERMS or constants > ADD or (operation == clauses.MINUS and b[CONSTANT_OP] != 0):
        return
    out[HAS_FORM], out[N_TERMS], out[CONSTANT_OP] = 1, count, constants
    out[CONSTANT] = a[CONSTANT] + b[CONSTANT]
    for t in range(a[N_TERMS]):
        out[FIRST_KEY + t] = a[FIRST_KEY + t]
    for t in range(b[N_TERMS]):
        out[FIRST_KEY + a[N_TERMS] + t] = -b[FIRST_KEY + t] if operation == clauses.MINUS else b[FIRST_KEY + t]


@jit
def _product_key(a, b):
    """Key of the product of two forms that are one parameter each, or 0."""
    for form in (a, b):
        if form[N_TERMS] != 1 or form[CONSTANT_OP] != 0 or form[FIRST_KEY] < 0 or form[FIRST_KEY] % BASE != 0:
            return 0
    return min(a[FIRST_KEY], b[FIRST_KEY]) + max(a[FIRST_KEY], b[FIRST_KEY]) // BASE


@jit
def combine(a, b, operation, out):
    """Write the normal form of `a operation b` into `out`."""
    _clear(out)
    if a[HAS_FORM] == 0 or b[HAS_FORM] == 0:
        return
    if operation != clauses.TIMES:
        _join(a, b, operation, out)
        return
    if a[N_TERMS] == 0 or b[N_TERMS] == 0:
        number, other = (a, b) if a[N_TERMS] == 0 else (b, a)
        if other[N_TERMS] > 0 and other[CONSTANT_OP] == 0:
            _copy(other, out)
            out[CONSTANT_OP], out[CONSTANT] = MULTIPLY, number[CONSTANT]
        return
    key = _product_key(a, b)
    if key > 0:
        out[HAS_FORM], out[N_TERMS], out[FIRST_KEY] = 1, 1, key


@jit
def _problem_key(terms, combination, t):
    """Key of term t of the problem's expression (terms int[4, 2])."""
    a, b = terms[t, 0] + 1, terms[t, 1] + 1
    key = min(a, b) * BASE + max(a, b) if b > 0 else a * BASE
    return -key if combination == DIFFERENCE and t == 1 else key


@jit
def equals_problem(form, n_terms, terms, combination, constant, constant_op):
    """Whether a normal form is the problem's expression of one parameter; where that is empty, any lone number is."""
    if form[HAS_FORM] == 0 or form[N_TERMS] != n_terms:
        return False
    if n_terms == 0:
        return constant < 0 or form[CONSTANT] == constant
    if form[CONSTANT_OP] != constant_op or (constant_op > 0 and form[CONSTANT] != constant):
        return False
    for t in range(n_terms):
        key, here, there = _problem_key(terms, combination, t), 0, 0
        for u in range(n_terms):
            here += 1 if form[FIRST_KEY + u] == key else 0
            there += 1 if _problem_key(terms, combination, u) == key else 0
        if here != there:
            return False
    return True


@jit
def _operand(letters, letter, number, scratch):
    """Row of an operand: the letter's own, or `scratch` filled with the number."""
    if letter >= 0:
        return letter
    letters.value[scratch] = number
    _clear(letters.reach[scratch])
    form = letters.form[scratch]
    _clear(form)
    form[HAS_FORM], form[CONSTANT_OP], form[CONSTANT] = 1, ADD, number
    return scratch


@jit
def _work_clause(letters, row, modulus):
    """Meaning of one clause into the row for the clause at hand; returns its faults as bits."""
    scratch = letters.value.shape[0] - 4
    out = scratch + 2
    operation = row[clauses.OPERATION]
    letters.value[out] = row[clauses.RESULT]
    left = _operand(letters, row[clauses.LEFT], row[grammar.LEFT_NUMBER], scratch)
    letters.used[left] = 1
    if operation in (clauses.NUMBER, clauses.COPY):
        _copy(letters.form[left], letters.form[out])
        _copy(letters.reach[left], letters.reach[out])
        return REFERENCE if letters.value[left] != row[clauses.RESULT] else 0
    right = _operand(letters, row[clauses.RIGHT], row[grammar.RIGHT_NUMBER], scratch + 1)
    letters.used[right] = 1
    for c in range(2):
        letters.reach[out, c] = letters.reach[left, c] | letters.reach[right, c]
    combine(letters.form[left], letters.form[right], operation, letters.form[out])
    put_in = letters.value[left] == row[clauses.LEFT_VALUE] and letters.value[right] == row[clauses.RIGHT_VALUE]
    faults = 0 if put_in and operation == row[grammar.SECOND_OPERATION] else REFERENCE
    a, b = row[clauses.LEFT_VALUE], row[clauses.RIGHT_VALUE]
    right_result = clauses.apply(row[grammar.SECOND_OPERATION], a, b, modulus)
    return faults if right_result == row[clauses.RESULT] else faults | ARITHMETIC


@jit
def _bind(letters, letter):
    """Give a letter the meaning of the clause at hand; returns the fault bit when it had a meaning already."""
    out = letters.value.shape[0] - 2
    fault = REUSED if letters.value[letter] >= 0 else 0
    letters.value[letter] = letters.value[out]
    _copy(letters.reach[out], letters.reach[letter])
    _copy(letters.form[out], letters.form[letter])
    letters.used[letter] = 0
    return fault


@jit
def work_step(letters, rows, count, modulus):
    """Meaning of a step's clauses: binds the intermediate letters, leaves the last clause in row -2; returns faults."""
    faults = 0
    for c in range(count):
        faults |= _work_clause(letters, rows[c], modulus)
        if c < count - 1:
            faults |= _bind(letters, rows[c, clauses.TARGET_LETTER])
    for c in range(count - 1):
        if letters.used[rows[c, clauses.TARGET_LETTER]] == 0:
            faults |= UNUSED
    return faults | (REUSED if letters.value[rows[count - 1, clauses.TARGET_LETTER]] >= 0 else 0)


@jit
def _reach_slot(reach, s):
    if s < INSTANCES:
        reach[0] |= np.int64(1) << np.int64(s)
    else:
        reach[1] |= np.int64(1) << np.int64(s - INSTANCES)


@jit
def reaches(letters, n_terms, terms):
    """Whether the clause at hand reaches exactly the parameters in terms[:n_terms]."""
    out = letters.value.shape[0] - 2
    wanted = letters.reach[out + 1]
    _clear(wanted)
    for t in range(n_terms):
        for f in range(2):
            if terms[t, f] >= 0:
                _reach_slot(wanted, terms[t, f])
    return letters.reach[out, 0] == wanted[0] and letters.reach[out, 1] == wanted[1]


@jit
def define(letters, letter, s):
    """From here on the letter stands for parameter s (-1: for one that the problem does not have)."""
    out = letters.value.shape[0] - 2
    _clear(letters.reach[out])
    _clear(letters.form[out])
    if s >= 0:
        _reach_slot(letters.reach[out], s)
        letters.form[out, HAS_FORM], letters.form[out, N_TERMS], letters.form[out, FIRST_KEY] = 1, 1, (s + 1) * BASE
    else:
        letters.reach[out, 1] = FOREIGN
    _bind(letters, letter)
