"""The oracle's walk through a solution: where it stands after each token, and what the generator would write next.

One `State` per solution. `emit` writes the distribution of the next token, `consume` believes a token and goes on; both
are total: any token may come at any place. What a state holds is what has been written: which parameters are defined,
which letters stand for them, with which numbers, and which names were tried since the last definition.
"""

from typing import NamedTuple

import numpy as np

from synth.judge import grammar as G
from synth.kernel.jit import jit
from synth.oracle import step_plan as PL
from synth.oracle.step_plan import Plan, plan_buffer
from synth.problem import arrays as P
from synth.problem.arrays import SLOTS
from synth.world import vocabulary as W
from synth.write.mistakes import SLIP, branch_law, name_tokens, next_needed

# where the walk stands: at the start of a sentence, after `Define`, after each name, after `as`, inside the clauses,
# after them, after BACK, inside a sentence that is none, after `Undetermined`, after its full stop, after `<answer>`,
# after the answer, after `<eos>`
BEGIN, OWNER, THING, NAMED, CHOOSE, CLAUSE, WHOLE, BACKED, LOST, DENIED, CLOSED, ANSWERING, ANSWERED, OVER = range(14)
# columns of `scalars`: the phase; whether the prefix is possible so far; whether the sentence at hand is; owner token,
# slot and letter of that sentence (-1 none); its last number; whether that is a slip
PHASE, POSSIBLE, SOUND, OWNER_TOKEN, SLOT, LETTER, LAST_NUMBER, SLIPPED = range(8)
# columns of the rules, all as floats: mistake kind, its rate, share left uncorrected, number of letters, whether they
# are random, whether only the shortest solution is written, whether an impossible step is to be taken back
KIND, RATE, UNCORRECTED, LETTERS, RANDOM_LETTERS, SHORTEST, TAKE_BACK = range(7)


class State(NamedTuple):
    """Scratch of one walk; int64 but for `law` and `chances`."""

    scalars: np.ndarray  # [8]
    done: np.ndarray  # [72] 1 where a step has defined the parameter
    tried: np.ndarray  # [72] 1 where a mistake since the last definition named it
    slot_letter: np.ndarray  # [72] letter index of each defined parameter, or -1
    values: np.ndarray  # [letters] believed value of each letter, or -1
    used: np.ndarray  # [letters] 1 where the letter has a meaning
    before: np.ndarray  # [letters] `used` when the sentence began
    mask: np.ndarray  # [72]
    law: np.ndarray  # float64[2, 72] this sentence's right and wrong parameters (`branch_law`)
    plan: Plan
    ids: np.ndarray  # [capacity] tokens that can come next
    chances: np.ndarray  # float64[capacity] their probabilities


def state_buffer(n_letters: int, modulus: int) -> State:
    """Room for one walk."""
    capacity = max(SLOTS, n_letters, modulus) + 2
    arrays = [np.zeros(n, dtype=np.int64) for n in (8, SLOTS, SLOTS, SLOTS, n_letters, n_letters, n_letters, SLOTS)]
    ids = np.zeros(capacity, dtype=np.int64)
    return State(*arrays, np.zeros((2, SLOTS)), plan_buffer(), ids, np.zeros(capacity))


@jit
def restart(st, p, rules):
    """Stand at the start of the solution of problem p."""
    st.scalars[:] = -1
    st.scalars[POSSIBLE] = 1
    st.done[:] = 0
    st.tried[:] = 0
    st.slot_letter[:] = -1
    st.values[:] = -1
    st.used[:] = 0
    _begin(st, p, rules)


@jit
def _begin(st, p, rules):
    """Stand at the start of a sentence and work out its law."""
    s = st.scalars
    s[PHASE], s[SOUND], s[OWNER_TOKEN], s[SLOT], s[LETTER], s[LAST_NUMBER], s[SLIPPED] = BEGIN, 1, -1, -1, -1, -1, 0
    st.before[:] = st.used
    st.law[:] = 0.0
    if not _ends(st, p, rules):
        branch_law(int(rules[KIND]), rules[RATE], p, st.done, st.tried, st.law[0], st.law[1], _room(rules))


@jit
def _room(rules):
    return 0 if rules[SHORTEST] > 0 else int(rules[LETTERS])


@jit
def _ends(st, p, rules):
    """Whether no further step is to come: the query is defined, or nothing that it needs can be."""
    return st.done[p.scalars[0, P.QUERY]] > 0 or next_needed(p, st.done, st.mask, _room(rules)) == 0


@jit
def _one(st, token, chance=1.0):
    st.ids[0], st.chances[0] = token, chance
    return 1


@jit
def _add(st, n, token, chance):
    """Add probability to a token among the n entries; returns the number of entries."""
    for i in range(n):
        if st.ids[i] == token:
            st.chances[i] += chance
            return n
    st.ids[n], st.chances[n] = token, chance
    return n + 1


@jit
def _emit_begin(st, p, g, rules):
    if not _ends(st, p, rules):
        return _one(st, g[W.DEFINE]) if g[W.DEFINE] >= 0 else _emit_name(st, p, -1)
    if st.done[p.scalars[0, P.QUERY]]:
        return _one(st, W.ANSWER)
    return _one(st, g[W.UNDETERMINED])


@jit
def _emit_name(st, p, owner):
    """Owner tokens by their total probability, or the thing tokens that go with `owner`."""
    n, total = 0, 0.0
    for x in range(SLOTS):
        chance = st.law[0, x] + st.law[1, x]
        if chance > 0.0:
            a, b = name_tokens(p, x)
            if owner < 0 or a == owner:
                n = _add(st, n, a if owner < 0 else b, chance)
                total += chance
    for i in range(n):
        st.chances[i] /= total
    return n


@jit
def _emit_letters(st, n, g, rules, chance):
    """Any unused letter with the same probability, or the first unused one where letters come in order."""
    free, letters = 0, int(rules[LETTERS])
    for i in range(letters):
        free += 1 if st.used[i] == 0 else 0
    for i in range(letters):
        if st.used[i] == 0:
            st.ids[n] = g[G.FIRST_LETTER] + i
            st.chances[n] = chance / free if rules[RANDOM_LETTERS] > 0 else chance
            n += 1
            if rules[RANDOM_LETTERS] == 0:
                break
    return n


@jit
def _defined(st):
    """P(the named parameter is defined | its name); 1 where the name could not have been written."""
    x = st.scalars[SLOT]
    total = st.law[0, x] + st.law[1, x] if x >= 0 else 0.0
    return st.law[0, x] / total if total > 0.0 else 1.0


@jit
def _emit_choice(st, g, rules):
    defined = _defined(st)
    n = _one(st, g[W.BACK], 1.0 - defined) if defined < 1.0 else 0
    total = _emit_letters(st, n, g, rules, defined) if defined > 0.0 else n
    if total == n:  # no letter is left
        st.chances[0] = 1.0
    return total


@jit
def _emit_clause(st, g, rules):
    token = PL.expected(st.plan, st.values, g)
    if token == PL.FRESH:
        return _emit_letters(st, 0, g, rules, 1.0)
    if token == PL.UNKNOWN:
        return 0
    if rules[KIND] != SLIP or rules[RATE] <= 0.0 or not PL.at_result(st.plan):
        return _one(st, token)
    n = _one(st, token, 1.0 - rules[RATE])
    for i in range(g[G.MODULUS]):
        number = g[G.FIRST_NUMBER] + i
        if number != token:
            n = _add(st, n, number, rules[RATE] / (g[G.MODULUS] - 1))
    return n


@jit
def _emit_whole(st, g, rules):
    if st.scalars[SLIPPED] == 0:
        return _one(st, g[W.STOP])
    n = 0
    if rules[UNCORRECTED] < 1.0:
        n = _add(st, n, g[W.BACK], 1.0 - rules[UNCORRECTED])
    if rules[UNCORRECTED] > 0.0:
        n = _add(st, n, g[W.STOP], rules[UNCORRECTED])
    return n


@jit
def _emit_answer(st, p, g, rules):
    query = p.scalars[0, P.QUERY]
    if st.done[query]:
        letter = st.slot_letter[query]
        value = st.values[letter] if letter >= 0 else -1
        return _one(st, g[G.FIRST_NUMBER] + value) if value >= 0 else 0
    return _one(st, g[W.UNDETERMINED]) if next_needed(p, st.done, st.mask, _room(rules)) == 0 else 0


@jit
def to_take_back(st, rules):
    """Whether the sentence at hand cannot be and the policy is to take it back here."""
    phase = st.scalars[PHASE]
    inside = phase in (CHOOSE, CLAUSE, WHOLE, LOST)
    return rules[TAKE_BACK] > 0 and rules[RATE] > 0.0 and st.scalars[SOUND] == 0 and inside


@jit
def emit(st, p, g, rules):
    """Write the distribution of the next token to `ids` and `chances`; returns its size, 0 where none is determined."""
    phase = st.scalars[PHASE]
    if to_take_back(st, rules):
        return _one(st, g[W.BACK])
    if phase == BEGIN:
        return _emit_begin(st, p, g, rules)
    if phase == OWNER:
        return _emit_name(st, p, -1)
    if phase == THING:
        return _emit_name(st, p, st.scalars[OWNER_TOKEN])
    if phase == NAMED:
        return _one(st, g[W.AS])
    if phase == CHOOSE:
        return _emit_choice(st, g, rules)
    if phase == CLAUSE:
        return _emit_clause(st, g, rules)
    if phase == WHOLE:
        return _emit_whole(st, g, rules)
    if phase in (BACKED, DENIED):
        return _one(st, g[W.STOP])
    if phase == CLOSED:
        return _one(st, W.ANSWER)
    if phase == ANSWERING:
        return _emit_answer(st, p, g, rules)
    return _one(st, W.EOS) if phase == ANSWERED else 0


@jit
def consume(st, p, g, rules, token, n):
    """Believe `token`, whose distribution (n entries) `emit` has just written, and go on."""
    s = st.scalars
    found = False
    for i in range(n):
        found = found or (st.ids[i] == token and st.chances[i] > 0.0)
    if not found:
        s[POSSIBLE], s[SOUND] = 0, 0
    if G.number_of(g, token) >= 0:
        s[LAST_NUMBER] = G.number_of(g, token)
    phase = s[PHASE]
    if phase == OVER or token == W.EOS or token == W.PAD:
        s[PHASE] = OVER
    elif token == W.ANSWER:
        _leave(st, p)
        s[PHASE] = ANSWERING
    elif phase in (ANSWERING, ANSWERED):
        s[PHASE] = ANSWERED if phase == ANSWERING else LOST
    elif token == g[W.UNDETERMINED]:
        s[PHASE] = DENIED
    elif token == g[W.STOP]:
        _stop(st, p, rules)
    elif token == g[W.BACK] and phase in (CHOOSE, CLAUSE, WHOLE, LOST):
        _take_back(st)
    elif token == g[W.DEFINE] or (g[W.DEFINE] < 0 and phase == BEGIN):
        if phase != BEGIN:
            _leave(st, p)
            _begin(st, p, rules)
        s[PHASE] = OWNER
        if token != g[W.DEFINE]:
            _consume_step(st, p, g, rules, token)
    else:
        _consume_step(st, p, g, rules, token)


@jit
def _consume_step(st, p, g, rules, token):
    """Go on inside a sentence that defines something."""
    s = st.scalars
    phase = s[PHASE]
    s[PHASE] = LOST
    if phase == OWNER and token >= g[G.FIRST_NAME]:
        s[OWNER_TOKEN], s[PHASE] = token, THING
    elif phase == THING and token >= g[G.FIRST_NAME]:
        for x in range(SLOTS):
            if p.exists[0, x]:
                a, b = name_tokens(p, x)
                if a == s[OWNER_TOKEN] and b == token:
                    s[SLOT] = x
        s[PHASE] = NAMED if g[W.AS] >= 0 else CHOOSE
    elif phase == NAMED and token == g[W.AS]:
        s[PHASE] = CHOOSE
    elif phase == CHOOSE and G.letter_of(g, token) >= 0:
        _name_letter(st, p, g, G.letter_of(g, token))
    elif phase == CLAUSE:
        _consume_clause(st, g, rules, token)


@jit
def _name_letter(st, p, g, letter):
    s, x = st.scalars, st.scalars[SLOT]
    s[LETTER] = letter
    st.used[letter] = 1
    given = x >= 0 and not (p.n_terms[0, x] > 0 and p.terms[0, x, 0, 0] == x)  # a missing premise has no expression
    if given:
        PL.build(st.plan, p, x, letter, st.slot_letter, g)
        s[PHASE] = CLAUSE


@jit
def _consume_clause(st, g, rules, token):
    s = st.scalars
    wanted = PL.expected(st.plan, st.values, g)
    last = PL.at_result(st.plan)
    if PL.take(st.plan, token, st.values, st.used, g):
        s[PHASE] = WHOLE if PL.finished(st.plan) else CLAUSE
        s[SLIPPED] = 1 if last and rules[KIND] == SLIP and wanted >= 0 and token != wanted else 0


@jit
def _define(st):
    """Believe the step at hand: its letter stands for its parameter, with the last number it gave."""
    s = st.scalars
    x, letter = s[SLOT], s[LETTER]
    if letter >= 0 and s[LAST_NUMBER] >= 0:
        st.values[letter] = s[LAST_NUMBER]
        if x >= 0:
            st.done[x] = 1
            st.slot_letter[x] = letter
            st.tried[:] = 0


@jit
def _leave(st, p):
    """A sentence is left without its full stop: what it defined is believed all the same."""
    phase = st.scalars[PHASE]
    if phase in (CLAUSE, WHOLE, LOST):
        _define(st)


@jit
def _stop(st, p, rules):
    s = st.scalars
    if s[PHASE] == DENIED:
        s[PHASE] = CLOSED
        return
    _leave(st, p)
    _begin(st, p, rules)


@jit
def _take_back(st):
    """The letters of the sentence are free again; a mistaken name that was taken back at once counts as tried."""
    s = st.scalars
    for i in range(len(st.used)):
        if st.used[i] and not st.before[i]:
            st.used[i] = 0
            st.values[i] = -1
    if s[PHASE] == CHOOSE and s[SLOT] >= 0 and st.law[1, s[SLOT]] > 0.0:  # else it could have been a right step
        st.tried[s[SLOT]] = 1
    s[LETTER] = -1
    s[PHASE] = BACKED
