"""What is left to write of a solution step, token by token, believing what has been written so far (for the oracle).

Once a step's parameter and letter are known, its clauses are determined (`synth.problem.clauses`) up to the letters of
its intermediates. The plan is the list of items that the clauses are written with; an item's token is worked out when
its turn comes, from what stands in the clause by then. So after a wrong operand the numbers put in are that operand's,
and after a wrong number the result is that of the numbers as written.
"""

from typing import NamedTuple

import numpy as np

from synth.judge import grammar
from synth.kernel.jit import jit
from synth.problem import clauses
from synth.problem.arrays import SLOTS
from synth.problem.clauses import MAX_CLAUSES, expand
from synth.world import vocabulary as vocab

FIXED, TARGET, LEFT, OPERATION, RIGHT, LEFT_NUMBER, SECOND_OPERATION, RIGHT_NUMBER, RESULT = range(9)  # kinds of item
# A letter's code: its index in the world; LOCAL + i for letter i of this step (0: the parameter's own) while it may
# still be open; CONSTANT where a number stands instead of it; UNDEFINED for an operand that no step has defined.
LOCAL, CONSTANT, UNDEFINED = 1000, -1, -2
UNKNOWN, FRESH = -1, -2  # what `expected` says instead of a token: nothing is determined; any unused letter
# columns of `live`, what stands in each clause: letter codes, constants, signs, numbers (-1: not written yet)
_LEFT, _RIGHT, _LEFT_CONSTANT, _RIGHT_CONSTANT, _SIGN, _SECOND_SIGN, _LEFT_NUMBER, _RIGHT_NUMBER = range(8)


class Plan(NamedTuple):
    """Scratch of one step; every array is int64."""

    scalars: np.ndarray  # [2] number of items, the item at hand
    items: np.ndarray  # [capacity, 2] kind and clause (FIXED: kind and token)
    rows: np.ndarray  # [8, 7] the clauses as the generator would write them
    live: np.ndarray  # [8, 8] the clauses as they stand
    bound: np.ndarray  # [9] letter index of the step's own letters, -1 while open
    number: np.ndarray  # [9] their values, -1 unknown
    letter: np.ndarray  # [72] codes of the parameters' letters


ITEMS, AT = range(2)


def plan_buffer() -> Plan:
    """An empty plan."""
    shapes = (2, (12 * MAX_CLAUSES, 2), (MAX_CLAUSES, 7), (MAX_CLAUSES, 8), MAX_CLAUSES + 1, MAX_CLAUSES + 1, SLOTS)
    return Plan(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


@jit
def _add(plan, kind, argument):
    if kind != FIXED or argument >= 0:  # a phrase that the world does not write is no item
        n = plan.scalars[ITEMS]
        plan.items[n, 0], plan.items[n, 1] = kind, argument
        plan.scalars[ITEMS] = n + 1


@jit
def build(plan, p, x, own, slot_letter, ids):
    """Plan the step that defines slot x of problem p with letter index `own`; slot_letter[y] < 0 where undefined."""
    for y in range(SLOTS):
        plan.letter[y] = slot_letter[y] if slot_letter[y] >= 0 else UNDEFINED
    count, _ = expand(
        x, p.n_terms[0], p.terms[0], p.combine[0], p.constant[0], p.constant_op[0], p.value[0], ids.modulus,
        plan.letter, LOCAL, plan.rows,
    )  # fmt: skip
    plan.scalars[:] = 0
    plan.bound[:] = -1
    plan.number[:] = -1
    plan.bound[0] = own
    for c in range(count):
        row, live = plan.rows[c], plan.live[c]
        live[:] = -1
        live[_LEFT], live[_RIGHT] = row[clauses.LEFT], row[clauses.RIGHT]
        live[_SIGN], live[_SECOND_SIGN] = row[clauses.OPERATION], row[clauses.OPERATION]
        if row[clauses.LEFT] == CONSTANT:
            live[_LEFT_CONSTANT] = row[clauses.LEFT_VALUE]
        _add(plan, FIXED, ids.phrases[vocab.SO] if c == count - 1 else ids.phrases[vocab.SEMICOLON])
        _add(plan, TARGET, c)
        _add(plan, FIXED, ids.phrases[vocab.IS])
        if row[clauses.OPERATION] != clauses.NUMBER:
            _add(plan, LEFT, c)
            if row[clauses.OPERATION] != clauses.COPY:
                for kind in range(OPERATION, RIGHT + 1):
                    _add(plan, kind, c)
                _add(plan, FIXED, ids.phrases[vocab.IS])
                for kind in range(LEFT_NUMBER, RIGHT_NUMBER + 1):
                    _add(plan, kind, c)
            _add(plan, FIXED, ids.phrases[vocab.IS])
        _add(plan, RESULT, c)


@jit
def finished(plan):
    """Whether every item has been written."""
    return plan.scalars[AT] == plan.scalars[ITEMS]


@jit
def at_result(plan):
    """Whether the step's last number comes next."""
    return plan.scalars[AT] == plan.scalars[ITEMS] - 1


@jit
def _letter_token(plan, code, constant, ids):
    if code == CONSTANT:
        return ids.first_number + constant if constant >= 0 else UNKNOWN
    if code >= LOCAL:
        code = plan.bound[code - LOCAL]
    return ids.first_letter + code if code >= 0 else UNKNOWN


@jit
def _number(plan, code, constant, values):
    """Believed value of an operand, -1 unknown."""
    if code == CONSTANT:
        return constant
    if code >= LOCAL:
        return plan.number[code - LOCAL]
    return values[code] if code >= 0 else -1


@jit
def _result(plan, c, values, modulus):
    row, live = plan.rows[c], plan.live[c]
    if row[clauses.OPERATION] == clauses.NUMBER:
        return row[clauses.RESULT]
    if row[clauses.OPERATION] == clauses.COPY:
        return _number(plan, live[_LEFT], live[_LEFT_CONSTANT], values)
    return clauses.apply(live[_SECOND_SIGN], live[_LEFT_NUMBER], live[_RIGHT_NUMBER], modulus)


@jit
def expected(plan, values, ids):
    """Token of the item at hand, or UNKNOWN, or FRESH; values[letter index] are the believed values of letters."""
    kind, c = plan.items[plan.scalars[AT]]
    if kind == FIXED:
        return c
    live = plan.live[c]
    if kind == TARGET:
        letter = plan.bound[plan.rows[c, clauses.TARGET_LETTER] - LOCAL]
        return ids.first_letter + letter if letter >= 0 else FRESH
    if kind in (OPERATION, SECOND_OPERATION):
        return ids.phrases[clauses.sign_role(live[_SIGN])]
    right = 1 if kind in (RIGHT, RIGHT_NUMBER) else 0
    code, constant = live[_LEFT + right], live[_LEFT_CONSTANT + right]
    if kind in (LEFT, RIGHT):
        return _letter_token(plan, code, constant, ids)
    number = _result(plan, c, values, ids.modulus) if kind == RESULT else _number(plan, code, constant, values)
    return ids.first_number + number if number >= 0 else UNKNOWN


@jit
def _take_operand(plan, c, right, token, ids):
    """Believe an operand; when it is the other side's of a sum or product, that side gets this one's."""
    live = plan.live[c]
    code, constant = grammar.letter_of(ids, token), grammar.number_of(ids, token)
    if code < 0 and constant < 0:
        return False
    if code < 0:
        code = CONSTANT
    for i in range(len(plan.bound)):
        if code >= 0 and plan.bound[i] == code:
            code = LOCAL + i
    if not right and live[_SIGN] != clauses.MINUS and code == live[_RIGHT] and constant == live[_RIGHT_CONSTANT]:
        live[_RIGHT], live[_RIGHT_CONSTANT] = live[_LEFT], live[_LEFT_CONSTANT]
    if code != live[_LEFT + right] or code == CONSTANT:
        live[_LEFT + right], live[_LEFT_CONSTANT + right] = code, constant
    return True


@jit
def take(plan, token, values, used, ids):
    """Believe `token` at the item at hand and go on; False when it cannot stand there (the step is lost). Binds letters
    and their values: writes values[letter] and used[letter]."""
    kind, c = plan.items[plan.scalars[AT]]
    plan.scalars[AT] += 1
    if kind == FIXED:
        return token == c
    live = plan.live[c]
    if kind in (LEFT, RIGHT):
        return _take_operand(plan, c, 1 if kind == RIGHT else 0, token, ids)
    if kind in (OPERATION, SECOND_OPERATION):
        operation = grammar.sign_of(ids, token)
        if operation >= 0:
            live[_SECOND_SIGN] = operation
            live[_SIGN] = operation if kind == OPERATION else live[_SIGN]
        return operation >= 0
    target = plan.rows[c, clauses.TARGET_LETTER] - LOCAL
    if kind == TARGET:
        letter = grammar.letter_of(ids, token)
        if letter >= 0 and plan.bound[target] < 0:
            plan.bound[target] = letter
            used[letter] = 1
        return letter >= 0
    number = grammar.number_of(ids, token)
    if kind != RESULT:
        live[_LEFT_NUMBER if kind == LEFT_NUMBER else _RIGHT_NUMBER] = number
    else:
        plan.number[target] = number
        if number >= 0:
            values[plan.bound[target]] = number
    return number >= 0
