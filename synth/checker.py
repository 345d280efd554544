"""Judges any solution, however broken, step by step against the known truth; never raises on what a model wrote.

A step gets the first kind of this table whose test it fails; the tests are disjoint by this order and complete, since a
step that fails none is right. Mistakes are MALFORMED and after; the three kinds before are allowed.

    right                       none of the below, and the query needs the parameter
    unneeded                    none of the below, and the query does not need the parameter
    retry                       `Define NAME as BACK.` for a parameter of the problem (computable or not, as published)
    malformed                   no sentence of the grammar (`synth.grammar`), or cut off
    unknown parameter           no parameter of this problem has this name
    repeated                    an earlier step defines the parameter
    not ready                   something the parameter directly depends on is not defined yet
    wrong dependencies          the letters reach something else than exactly what the parameter depends on: too much,
                                too little, a letter that stands for nothing, or a clause that the step never uses
    wrong reference             a letter does not stand for one value: it is given a second meaning, or the numbers are not
                                the letter expression with its letters' values put in
    wrong constant or operator  the expression is not the problem's (as a tree: operands of + and * in any order, sums
                                folded in any way; products are not multiplied out)
    wrong arithmetic            a result is not its number expression mod the modulus
    wrong value                 a number given without arithmetic is not the value: the 0 of what has no parts
    uncorrected mistake         the step is right in itself, and wrong only because an earlier mistake is put in

The whole solution is right (strict) when no step is a mistake, its ending is right, and so is the answer:

    ending   right | early (the query is not defined) | late (goes on after the query, or after the answer) | never (no
             `<eos>`; it wins over the others)
    answer   the number after `<answer>`, -1 when there is none

`published` is the criterion of Part 2.1/2.2's own checker (spec section 3), which does not compare constants and
operators with the problem, lets steps for edges that do not exist pass, skips every sentence with BACK, and needs
neither a final full stop nor `<eos>`. A strictly right solution is always published-right.
Try: `python -m synth.generate --out - | python -m synth.check -`.
"""

import re
from typing import NamedTuple

import numpy as np

from synth.clauses import COPY, LEFT, LEFT_VALUE, MINUS, NUMBER, OPERATION, PLUS, RESULT, RIGHT, RIGHT_VALUE, TARGET_LETTER
from synth.expression import EXPRESSION_COLUMNS, combine, equals_problem, is_number, set_invalid, set_number, set_parameter
from synth.grammar import (
    BACK, CLAUSE_COLUMNS, COMPLETE, COUNT, LEFT_NUMBER, LETTER, MALFORMED_STEP, MODULUS, N_LETTERS, OWNER_TOKEN,
    RIGHT_NUMBER, SECOND_OPERATION, THING_TOKEN, UNSTOPPED, grammar, number_of, parse_step, solution_end, step_end,
)  # fmt: skip
from synth.jit import jit
from synth.problem import CHILD, DEPTH_, INSTANCES, LAYER, OWNER, QUERY, SLOTS, TARGET, Problems, ready
from synth.world import ANSWER, DEFINE, EOS, PAD, STOP, World

KINDS = (
    "right", "unneeded", "retry", "malformed", "unknown parameter", "repeated", "not ready", "wrong dependencies",
    "wrong reference", "wrong constant or operator", "wrong arithmetic", "wrong value", "uncorrected mistake",
)  # fmt: skip
(
    RIGHT, UNNEEDED, RETRY, MALFORMED, UNKNOWN, REPEATED, NOT_READY, WRONG_DEPENDENCIES, WRONG_REFERENCE, WRONG_EXPRESSION,
    WRONG_ARITHMETIC, WRONG_VALUE, UNCORRECTED,
) = range(len(KINDS))  # fmt: skip
ENDINGS = ("right", "early", "late", "never")
ENDED, EARLY, LATE, NEVER = range(len(ENDINGS))

# reach of a letter: int64[2] bit masks over instance slots, and over abstract slots and these two
_FOREIGN, _UNDEFINED = 1 << 24, 1 << 25
# what can be wrong with the clauses of a step, as bits
_UNUSED, _REUSED, _REFERENCE, _ARITHMETIC = 1, 2, 4, 8
# columns of the summary
_STEPS, _FIRST, _RETRIES, _UNNEEDED, _ENDING, _ANSWER, _ANSWER_RIGHT, _PUBLISHED = range(8)


class Verdicts(NamedTuple):
    """Verdicts on N responses with at most S steps; rows are filled with -1 after their last step."""

    right: np.ndarray  # bool[N] strict
    published: np.ndarray  # bool[N] the published criterion
    answer_right: np.ndarray  # bool[N] the written answer is the true one, whatever the steps
    steps: np.ndarray  # int32[N]
    kind: np.ndarray  # int8[N, S] index into KINDS; a mistake when >= MALFORMED
    param: np.ndarray  # int16[N, S] slot that the step names, -1 unknown
    start: np.ndarray  # int32[N, S] first token of the step in the response (check_text: character in the text)
    stop: np.ndarray  # int32[N, S] after the last one
    first_mistake: np.ndarray  # int32[N] step, or -1
    retries: np.ndarray  # int32[N] steps of kind retry
    unneeded: np.ndarray  # int32[N] steps of kind unneeded
    ending: np.ndarray  # int8[N] index into ENDINGS
    answer: np.ndarray  # int32[N] the number written as answer, or -1


@jit
def _find(p, i, names, owner, thing):
    """Slot with these name tokens: (slot, exists). An edge that the structure lacks has a slot too; -1 without any."""
    possible = -1
    for s in range(SLOTS):
        if names[i, s, 0] != owner or names[i, s, 1] != thing:
            continue
        layer = LAYER[s]
        if layer >= p.scalars[i, DEPTH_] or OWNER[s] >= p.widths[i, layer]:
            continue
        if p.exists[i, s] > 0:
            return s, True
        if s < INSTANCES and layer + 1 < p.scalars[i, DEPTH_] and CHILD[s] < p.widths[i, layer + 1]:
            possible = s
        if s >= INSTANCES and TARGET[s] < p.scalars[i, DEPTH_]:
            possible = s
    return possible, False


@jit
def _add_reach(reach, row, s):
    if s < INSTANCES:
        reach[row, 0] |= 1 << s
    else:
        reach[row, 1] |= 1 << (s - INSTANCES)


@jit
def _operand(letter, number, scratch, values, reach, expressions):
    """Row of an operand: the letter's own, or `scratch` filled with the number."""
    if letter >= 0:
        return letter
    values[scratch] = number
    reach[scratch, 0] = 0
    reach[scratch, 1] = 0
    set_number(expressions[scratch], number)
    return scratch


@jit
def _arithmetic(operation, a, b, modulus):
    if operation == PLUS:
        return (a + b) % modulus
    return (a - b) % modulus if operation == MINUS else (a * b) % modulus


@jit
def _work_clause(row, n_letters, modulus, values, reach, expressions, used):
    """Expression, reach and value of a clause into the last scratch row; returns its faults as bits."""
    faults, out = 0, n_letters + 2
    operation = row[OPERATION]
    values[out] = row[RESULT]
    left = _operand(row[LEFT], row[LEFT_NUMBER], n_letters, values, reach, expressions)
    used[left] = 1
    if operation == NUMBER or operation == COPY:
        expressions[out] = expressions[left]
        reach[out] = reach[left]
        return _REFERENCE if operation == COPY and row[RESULT] != values[left] else 0
    right = _operand(row[RIGHT], row[RIGHT_NUMBER], n_letters + 1, values, reach, expressions)
    used[right] = 1
    reach[out, 0] = reach[left, 0] | reach[right, 0]
    reach[out, 1] = reach[left, 1] | reach[right, 1]
    combine(expressions[left], expressions[right], operation, expressions[out])
    if values[left] != row[LEFT_VALUE] or values[right] != row[RIGHT_VALUE] or operation != row[SECOND_OPERATION]:
        faults |= _REFERENCE
    if _arithmetic(row[SECOND_OPERATION], row[LEFT_VALUE], row[RIGHT_VALUE], modulus) != row[RESULT]:
        faults |= _ARITHMETIC
    return faults


@jit
def _bind(letter, row, values, reach, expressions):
    """Give a letter the meaning of a scratch row; returns the fault bit when it had one already."""
    fault = _REUSED if values[letter] >= 0 else 0
    values[letter] = values[row]
    reach[letter] = reach[row]
    expressions[letter] = expressions[row]
    return fault


@jit
def _work_step(rows, count, n_letters, modulus, values, reach, expressions, used):
    """All clauses of a step; binds the intermediate letters, leaves the last clause in the last scratch row."""
    faults, out = 0, n_letters + 2
    for c in range(count):
        faults |= _work_clause(rows[c], n_letters, modulus, values, reach, expressions, used)
        if c < count - 1:
            used[rows[c, TARGET_LETTER]] = 0
            faults |= _bind(rows[c, TARGET_LETTER], out, values, reach, expressions)
    for c in range(count - 1):
        if not used[rows[c, TARGET_LETTER]]:
            faults |= _UNUSED
    return faults


@jit
def _reaches_dependencies(p, i, s, exists, reach, out, scratch):
    """Whether the last clause reaches exactly the direct dependencies of s (none, where s does not exist)."""
    reach[scratch, 0] = 0
    reach[scratch, 1] = 0
    if exists:
        for t in range(p.n_terms[i, s]):
            for f in range(2):
                if p.terms[i, s, t, f] >= 0:
                    _add_reach(reach, scratch, p.terms[i, s, t, f])
    return reach[out, 0] == reach[scratch, 0] and reach[out, 1] == reach[scratch, 1]


@jit
def _judge(p, i, s, faults, defined, dependencies_right, expression, value):
    """Kind of a parsed step for the existing parameter s: the tests of the module's table in their order."""
    if defined[s]:
        return REPEATED
    if not ready(p.n_terms[i], p.terms[i], defined, s):
        return NOT_READY
    if not dependencies_right or faults & _UNUSED:
        return WRONG_DEPENDENCIES
    if faults & (_REFERENCE | _REUSED):
        return WRONG_REFERENCE
    if p.n_terms[i, s] == 0 and p.constant[i, s] < 0 and is_number(expression):
        if faults & _ARITHMETIC:
            return WRONG_ARITHMETIC
        if value != p.value[i, s]:
            return WRONG_VALUE
    elif not equals_problem(expression, p.n_terms[i, s], p.terms[i, s], p.combine[i, s], p.constant[i, s], p.constant_op[i, s]):
        return WRONG_EXPRESSION
    if faults & _ARITHMETIC:
        return WRONG_ARITHMETIC
    if value != p.value[i, s]:
        return UNCORRECTED
    return RIGHT if p.needed[i, s] > 0 else UNNEEDED


@jit
def _check_one(p, i, names, g, tokens, length, bare, kind, param, start, stop, head, rows, defined, values, reach, expressions, used):
    """Judge one response; writes its steps and returns its summary as a tuple in the order of the summary's columns."""
    n_letters, query = g[N_LETTERS], p.scalars[i, QUERY]
    scratch, out = n_letters, n_letters + 2
    defined[:] = 0
    values[:] = -1
    reach[:, 0] = 0
    reach[:, 1] = _UNDEFINED
    for letter in range(n_letters):
        set_invalid(expressions[letter])
    end = solution_end(tokens, length)
    n, first, retries, unneeded, late = 0, -1, 0, 0, False
    last_slot, last_value, published, unstopped = -1, -1, True, False
    at = 0
    while at < end:
        after = step_end(tokens, at, end, g)
        parsed = parse_step(tokens, at, after, g, head, rows)
        with_back = False
        for t in range(at, after):
            with_back = with_back or (g[BACK] >= 0 and tokens[t] == g[BACK])
        s, exists = -1, False
        if head[OWNER_TOKEN] >= 0:
            s, exists = _find(p, i, names, head[OWNER_TOKEN], head[THING_TOKEN])
        late = late or defined[query] > 0
        verdict = MALFORMED
        published = published and not unstopped  # only the last step may lack its full stop
        if parsed == MALFORMED_STEP:
            published = published and with_back
        elif head[LETTER] < 0:
            if parsed == COMPLETE:
                verdict = RETRY if exists else UNKNOWN
        else:
            unstopped = parsed == UNSTOPPED
            faults = _work_step(rows, head[COUNT], n_letters, g[MODULUS], values, reach, expressions, used)
            dependencies_right = _reaches_dependencies(p, i, s, exists, reach, out, scratch)
            if values[head[LETTER]] >= 0:
                faults |= _REUSED
            published = published and s >= 0 and dependencies_right and faults & ~_UNUSED == 0
            if parsed == COMPLETE:
                verdict = UNKNOWN
                if exists:
                    verdict = _judge(p, i, s, faults, defined, dependencies_right, expressions[out], values[out])
            last_slot, last_value = s, values[out]
            reach[out, 0] = 0
            reach[out, 1] = 0 if exists else _FOREIGN
            if exists:
                _add_reach(reach, out, s)
                set_parameter(expressions[out], s)
                defined[s] = 1
            else:
                set_invalid(expressions[out])
            _bind(head[LETTER], out, values, reach, expressions)
        kind[n], param[n], start[n], stop[n] = verdict, s if exists else -1, at, after
        retries += 1 if verdict == RETRY else 0
        unneeded += 1 if verdict == UNNEEDED else 0
        if verdict >= MALFORMED and first < 0:
            first = n
        n += 1
        at = after

    answer, supplied, ended = -1, False, bare
    if bare:
        answer = last_value
    else:
        if end < length and tokens[end] == ANSWER:
            supplied = True
            at = end + 1
            if at < length:
                answer = number_of(g, tokens[at])
                at += 1 if answer >= 0 else 0
            while at < length and tokens[at] != EOS and tokens[at] != PAD:
                late = True
                at += 1
        ended = at < length and tokens[at] == EOS
    ending = ENDED
    if not ended:
        ending = NEVER
    elif not defined[query]:
        ending = EARLY
    elif late:
        ending = LATE
    truth = p.value[i, query]
    published = published and last_slot == query and last_value == truth and (not supplied or answer == truth)
    return n, first, retries, unneeded, ending, answer, 1 if answer == truth else 0, 1 if published else 0


@jit
def _check_all(p, names, g, tokens, lengths, bare, kind, param, start, stop, summary):
    n_letters = g[N_LETTERS]
    head = np.zeros(4, dtype=np.int64)
    rows = np.zeros((tokens.shape[1] + 1, CLAUSE_COLUMNS), dtype=np.int64)
    defined = np.zeros(SLOTS, dtype=np.int64)
    # one row per letter, then two scratch rows for numbers and one for the clause at work
    values = np.zeros(n_letters + 3, dtype=np.int64)
    reach = np.zeros((n_letters + 3, 2), dtype=np.int64)
    expressions = np.zeros((n_letters + 3, EXPRESSION_COLUMNS), dtype=np.int64)
    used = np.zeros(n_letters + 3, dtype=np.int64)
    for i in range(tokens.shape[0]):
        result = _check_one(
            p, i, names, g, tokens[i], lengths[i], bare, kind[i], param[i], start[i], stop[i], head, rows, defined, values,
            reach, expressions, used,
        )  # fmt: skip
        for c in range(8):
            summary[i, c] = result[c]
