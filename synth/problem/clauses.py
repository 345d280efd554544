"""A parameter's solution step as clauses: which letters it combines, in which order, with which numbers.

    Define P as v;  t = x + y = a + b = c;  so v = 12 + t = 12 + c = d

Letters are numbered in order of appearance (v before its intermediates); the caller maps numbers to names. Sums are
folded from the left; an abstract sum of products is written product, product, sum, product, sum, ... ; the constant is
applied last (the order of the published code).
"""

from synth.kernel.jit import jit
from synth.problem.arrays import DIFFERENCE, MULTIPLY
from synth.world import vocabulary as vocab

# columns of a clause row; operation NUMBER has only a result, COPY has a left letter
TARGET_LETTER, OPERATION, LEFT, RIGHT, LEFT_VALUE, RIGHT_VALUE, RESULT = range(7)
NUMBER, COPY, PLUS, MINUS, TIMES = range(5)
MAX_CLAUSES, CLAUSE_COLUMNS = 8, 7


@jit
def sign_role(operation):
    """Role of the phrase that writes PLUS, MINUS or TIMES."""
    return vocab.PLUS + operation - PLUS


@jit
def apply(operation, a, b, modulus):
    """`a operation b`, modulo `modulus`."""
    if operation == PLUS:
        return (a + b) % modulus
    if operation == MINUS:
        return (a - b) % modulus
    return (a * b) % modulus


@jit
def _put(rows, n, target, operation, left, right, a, b, result):
    rows[n, 0], rows[n, 1], rows[n, 2], rows[n, 3] = target, operation, left, right
    rows[n, 4], rows[n, 5], rows[n, 6] = a, b, result


@jit
def _term(terms, x, t, letter, value, modulus, target, rows, n):
    """Letter and value of term t; a product is written as a clause of its own into letter `target`."""
    a = terms[x, t, 0]
    b = terms[x, t, 1]
    if b < 0:
        return letter[a], int(value[a]), n
    result = apply(TIMES, int(value[a]), int(value[b]), modulus)
    _put(rows, n, target, TIMES, letter[a], letter[b], value[a], value[b], result)
    return target, result, n + 1


@jit
def expand(x, n_terms, terms, combine, constant, constant_op, value, modulus, letter, used, rows):
    """Write the clauses of parameter x into `rows`; letter[x] = `used`; returns (number of clauses, letters used). The
    arrays are those of one problem; `letter[y]` must be set for everything x depends on."""
    v = used
    letter[x] = v
    used += 1
    count = n_terms[x]
    with_constant = constant_op[x] > 0
    n = 0
    if count == 0:
        _put(rows, 0, v, NUMBER, -1, -1, -1, -1, max(int(constant[x]), 0))
        return 1, used
    alone = count == 1 and not with_constant
    product_target = v if alone else used
    acc, acc_value, n = _term(terms, x, 0, letter, value, modulus, product_target, rows, 0)
    if alone:
        if n == 0:
            _put(rows, 0, v, COPY, acc, -1, acc_value, -1, acc_value)
        return 1, used
    used += n
    for t in range(1, count):
        before = n
        other, other_value, n = _term(terms, x, t, letter, value, modulus, used, rows, n)
        used += n - before
        target = v
        if with_constant or t < count - 1:
            target = used
            used += 1
        operation = MINUS if combine[x] == DIFFERENCE else PLUS
        result = apply(operation, acc_value, other_value, modulus)
        _put(rows, n, target, operation, acc, other, acc_value, other_value, result)
        n += 1
        acc, acc_value = target, result
    if with_constant:
        operation = TIMES if constant_op[x] == MULTIPLY else PLUS
        number = int(constant[x])
        _put(rows, n, v, operation, -1, acc, number, acc_value, apply(operation, number, acc_value, modulus))
        n += 1
    return n, used


@jit
def clause_count(x, n_terms, terms, constant_op):
    """How many clauses, and so letters and operations, the step of parameter x has; the length that `expand` gives."""
    count = n_terms[x] - 1 + (1 if constant_op[x] > 0 else 0)
    for t in range(n_terms[x]):
        if terms[x, t, 1] >= 0:
            count += 1
    return max(count, 1)
