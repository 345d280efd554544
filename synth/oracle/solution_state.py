"""Where the oracle stands in a solution after each token, and what the generator would write next.

One `State` per solution. `emit` writes the distribution of the next token, `consume` believes a token and goes on; both
are total: any token may come at any place. A state holds what has been written: which parameters are defined, which
letters stand for them, with which numbers, and which names were tried as mistakes since the last definition. What is
answered after a token that the generator cannot write is the policy of `synth.oracle.next_token`.
"""

from typing import NamedTuple

import numpy as np

from synth.judge import grammar
from synth.kernel.jit import jit
from synth.oracle import step_plan
from synth.oracle.step_plan import Plan, plan_buffer
from synth.problem.arrays import QUERY, SLOTS, name_tokens
from synth.world import vocabulary as vocab
from synth.write.mistakes import SLIP, next_needed, next_sentence_probs

# Where the walk stands. BEGIN: at the start of a sentence; OWNER: after `Define`; THING: after the name's first part;
# NAMED: after the whole name; CHOOSE: after `as`; CLAUSE, WHOLE: inside the clauses, after them; BACKED: after BACK;
# LOST: inside a sentence that is none; DENIED, CLOSED: after `Undetermined`, after its full stop; ANSWERING: after
# `<answer>`; ANSWERED: after the answer; OVER: after `<eos>`.
BEGIN, OWNER, THING, NAMED, CHOOSE, CLAUSE, WHOLE, BACKED, LOST, DENIED, CLOSED, ANSWERING, ANSWERED, OVER = range(14)
# Columns of `scalars`. PHASE: where the walk stands; POSSIBLE, SOUND: whether the prefix, and the current sentence, are
# possible so far; OWNER_TOKEN, SLOT, LETTER: of the current sentence (-1: none); LAST_NUMBER: its last number, and
# SLIPPED: whether that is a slip; SPARE_LETTERS: letters that the solution may use for steps that are not needed.
PHASE, POSSIBLE, SOUND, OWNER_TOKEN, SLOT, LETTER, LAST_NUMBER, SLIPPED, SPARE_LETTERS = range(9)


class OracleSettings(NamedTuple):
    """What the walk needs to know of a `Spec` and of the policy."""

    retry_kind: int  # index into `synth.write.mistakes.KINDS`
    retry_rate: float
    uncorrected: float
    letters: int
    random_letters: bool
    take_back: bool  # whether an impossible step is to be taken back


class State(NamedTuple):
    """Scratch of one walk; int64 but for `probs` and `token_probs`."""

    scalars: np.ndarray  # [9]
    done: np.ndarray  # [72] 1 where a step has defined the parameter
    tried: np.ndarray  # [72] 1 where a mistake since the last definition named it
    slot_letter: np.ndarray  # [72] letter index of each defined parameter, or -1
    values: np.ndarray  # [letters] believed value of each letter, or -1
    used: np.ndarray  # [letters] 1 where the letter has a meaning
    before: np.ndarray  # [letters] `used` when the sentence began
    mask: np.ndarray  # [72]
    probs: np.ndarray  # float64[2, 72] this sentence's right and wrong parameters (`next_sentence_probs`)
    plan: Plan
    ids: np.ndarray  # [capacity] tokens that can come next
    token_probs: np.ndarray  # float64[capacity] their probabilities


def state_buffer(n_letters: int, modulus: int) -> State:
    """An empty state for a world of so many letters and numbers."""
    capacity = max(SLOTS, n_letters, modulus) + 2
    arrays = [np.zeros(n, dtype=np.int64) for n in (9, SLOTS, SLOTS, SLOTS, n_letters, n_letters, n_letters, SLOTS)]
    ids = np.zeros(capacity, dtype=np.int64)
    return State._make([*arrays, np.zeros((2, SLOTS)), plan_buffer(), ids, np.zeros(capacity)])


@jit
def restart(state, p, settings, shortest):
    """Stand at the start of the solution of problem p; shortest: whether it has needed steps only."""
    state.scalars[:] = -1
    state.scalars[SPARE_LETTERS] = 0 if shortest else settings.letters
    state.scalars[POSSIBLE] = 1
    state.done[:] = 0
    state.tried[:] = 0
    state.slot_letter[:] = -1
    state.values[:] = -1
    state.used[:] = 0
    _begin(state, p, settings)


@jit
def _begin(state, p, settings):
    """Stand at the start of a sentence and work out the distribution of what it says."""
    s = state.scalars
    s[PHASE], s[SOUND], s[OWNER_TOKEN], s[SLOT], s[LETTER], s[LAST_NUMBER], s[SLIPPED] = BEGIN, 1, -1, -1, -1, -1, 0
    state.before[:] = state.used
    state.probs[:] = 0.0
    if not _ends(state, p):
        kind, rate, right, wrong = settings.retry_kind, settings.retry_rate, state.probs[0], state.probs[1]
        next_sentence_probs(kind, rate, p, state.done, state.tried, right, wrong, s[SPARE_LETTERS])


@jit
def _ends(state, p):
    """Whether no further step is to come: the query is defined, or no parameter that it needs can be computed now."""
    letters = state.scalars[SPARE_LETTERS]
    return state.done[p.scalars[0, QUERY]] > 0 or next_needed(p, state.done, state.mask, letters) == 0


@jit
def _one(state, token, chance=1.0):
    state.ids[0], state.token_probs[0] = token, chance
    return 1


@jit
def _add(state, n, token, chance):
    """Add probability to a token among the n entries; returns the number of entries."""
    for i in range(n):
        if state.ids[i] == token:
            state.token_probs[i] += chance
            return n
    state.ids[n], state.token_probs[n] = token, chance
    return n + 1


@jit
def _emit_begin(state, p, ids):
    if _ends(state, p):
        return _one(state, vocab.ANSWER if state.done[p.scalars[0, QUERY]] else ids.phrases[vocab.UNDETERMINED])
    return _one(state, ids.phrases[vocab.DEFINE]) if ids.phrases[vocab.DEFINE] >= 0 else _emit_name(state, p, -1)


@jit
def _emit_name(state, p, owner):
    """Owner tokens by their total probability, or the thing tokens that go with `owner`."""
    n, total = 0, 0.0
    for x in range(SLOTS):
        chance = state.probs[0, x] + state.probs[1, x]
        if chance > 0.0:
            a, b = name_tokens(p, x)
            if owner < 0 or a == owner:
                n = _add(state, n, a if owner < 0 else b, chance)
                total += chance
    for i in range(n):
        state.token_probs[i] /= total
    return n


@jit
def _emit_letters(state, n, ids, settings, chance):
    """Any unused letter with the same probability, or the first unused one where letters come in order."""
    free, letters = 0, settings.letters
    for i in range(letters):
        free += 1 if state.used[i] == 0 else 0
    for i in range(letters):
        if state.used[i] == 0:
            state.ids[n] = ids.first_letter + i
            state.token_probs[n] = chance / free if settings.random_letters else chance
            n += 1
            if not settings.random_letters:
                break
    return n


@jit
def _emit_choice(state, ids, settings):
    """A letter with P(the named parameter is defined | its name), else BACK; only letters after a name that the
    generator could not have written here."""
    x = state.scalars[SLOT]
    both = state.probs[0, x] + state.probs[1, x] if x >= 0 else 0.0
    defined = state.probs[0, x] / both if both > 0.0 else 1.0
    n = _one(state, ids.phrases[vocab.BACK], 1.0 - defined) if defined < 1.0 else 0
    total = _emit_letters(state, n, ids, settings, defined) if defined > 0.0 else n
    if total == n:  # no letter is left
        state.token_probs[0] = 1.0
    return total


@jit
def _emit_clause(state, ids, settings):
    token = step_plan.expected(state.plan, state.values, ids)
    if token == step_plan.FRESH:
        return _emit_letters(state, 0, ids, settings, 1.0)
    if token == step_plan.UNKNOWN:
        return 0
    if settings.retry_kind != SLIP or settings.retry_rate <= 0.0 or not step_plan.at_result(state.plan):
        return _one(state, token)
    n = _one(state, token, 1.0 - settings.retry_rate)
    for i in range(ids.modulus):
        number = ids.first_number + i
        if number != token:
            n = _add(state, n, number, settings.retry_rate / (ids.modulus - 1))
    return n


@jit
def _emit_whole(state, ids, settings):
    if state.scalars[SLIPPED] == 0:
        return _one(state, ids.phrases[vocab.STOP])
    n = 0
    if settings.uncorrected < 1.0:
        n = _add(state, n, ids.phrases[vocab.BACK], 1.0 - settings.uncorrected)
    if settings.uncorrected > 0.0:
        n = _add(state, n, ids.phrases[vocab.STOP], settings.uncorrected)
    return n


@jit
def _emit_answer(state, p, ids, settings):
    query = p.scalars[0, QUERY]
    if state.done[query]:
        letter = state.slot_letter[query]
        value = state.values[letter] if letter >= 0 else -1
        return _one(state, ids.first_number + value) if value >= 0 else 0
    return _one(state, ids.phrases[vocab.UNDETERMINED]) if _ends(state, p) else 0


@jit
def to_take_back(state, settings):
    """Whether the current sentence is impossible and the policy takes it back at this token."""
    phase = state.scalars[PHASE]
    inside = phase in (CHOOSE, CLAUSE, WHOLE, LOST)
    return settings.take_back and settings.retry_rate > 0.0 and state.scalars[SOUND] == 0 and inside


@jit
def emit(state, p, ids, settings):
    """Write the distribution of the next token to `state`; returns its size, 0 where none is determined."""
    phase = state.scalars[PHASE]
    if to_take_back(state, settings):
        return _one(state, ids.phrases[vocab.BACK])
    if phase == BEGIN:
        return _emit_begin(state, p, ids)
    if phase in (OWNER, THING):
        return _emit_name(state, p, state.scalars[OWNER_TOKEN] if phase == THING else -1)
    if phase == NAMED:
        return _one(state, ids.phrases[vocab.AS])
    if phase == CHOOSE:
        return _emit_choice(state, ids, settings)
    if phase == CLAUSE:
        return _emit_clause(state, ids, settings)
    if phase == WHOLE:
        return _emit_whole(state, ids, settings)
    if phase in (BACKED, DENIED):
        return _one(state, ids.phrases[vocab.STOP])
    if phase == CLOSED:
        return _one(state, vocab.ANSWER)
    if phase == ANSWERING:
        return _emit_answer(state, p, ids, settings)
    return _one(state, vocab.EOS) if phase == ANSWERED else 0


@jit
def consume(state, p, ids, settings, token, n):
    """Accepts `token`, likely or not, and updates the state. n: size of the distribution that `emit` has just left."""
    s = state.scalars
    found = False
    for i in range(n):
        found = found or (state.ids[i] == token and state.token_probs[i] > 0.0)
    if not found:
        s[POSSIBLE], s[SOUND] = 0, 0
    if grammar.number_of(ids, token) >= 0:
        s[LAST_NUMBER] = grammar.number_of(ids, token)
    phase = s[PHASE]
    if phase == OVER or token == vocab.EOS or token == vocab.PAD:
        s[PHASE] = OVER
    elif token == vocab.ANSWER:
        _leave(state)
        s[PHASE] = ANSWERING
    elif phase in (ANSWERING, ANSWERED):
        s[PHASE] = ANSWERED if phase == ANSWERING else LOST
    elif token == ids.phrases[vocab.UNDETERMINED]:
        s[PHASE] = DENIED
    elif token == ids.phrases[vocab.STOP] and phase == DENIED:
        s[PHASE] = CLOSED
    elif token == ids.phrases[vocab.STOP]:
        _leave(state)
        _begin(state, p, settings)
    elif token == ids.phrases[vocab.BACK] and phase in (CHOOSE, CLAUSE, WHOLE, LOST):
        _take_back(state)
    elif token == ids.phrases[vocab.DEFINE] or (ids.phrases[vocab.DEFINE] < 0 and phase == BEGIN):
        if phase != BEGIN:
            _leave(state)
            _begin(state, p, settings)
        s[PHASE] = OWNER
        if token != ids.phrases[vocab.DEFINE]:
            _consume_step(state, p, ids, settings, token)
    else:
        _consume_step(state, p, ids, settings, token)


@jit
def _consume_step(state, p, ids, settings, token):
    """Go on inside a sentence that defines something."""
    s = state.scalars
    phase, x, letter = s[PHASE], s[SLOT], grammar.letter_of(ids, token)
    s[PHASE] = LOST
    if phase == OWNER and token >= ids.first_name:
        s[OWNER_TOKEN], s[PHASE] = token, THING
    elif phase == THING and token >= ids.first_name:
        for y in range(SLOTS):
            if p.exists[0, y]:
                a, b = name_tokens(p, y)
                if a == s[OWNER_TOKEN] and b == token:
                    s[SLOT] = y
        s[PHASE] = NAMED if ids.phrases[vocab.AS] >= 0 else CHOOSE
    elif phase == NAMED and token == ids.phrases[vocab.AS]:
        s[PHASE] = CHOOSE
    elif phase == CHOOSE and letter >= 0:
        s[LETTER] = letter
        state.used[letter] = 1
        missing = x >= 0 and p.n_terms[0, x] > 0 and p.terms[0, x, 0, 0] == x  # it has no expression
        if x >= 0 and not missing:
            step_plan.build(state.plan, p, x, letter, state.slot_letter, ids)
            s[PHASE] = CLAUSE
    elif phase == CLAUSE:
        wanted, last = step_plan.expected(state.plan, state.values, ids), step_plan.at_result(state.plan)
        if step_plan.take(state.plan, token, state.values, state.used, ids):
            s[PHASE] = WHOLE if step_plan.finished(state.plan) else CLAUSE
            s[SLIPPED] = 1 if last and settings.retry_kind == SLIP and wanted >= 0 and token != wanted else 0


@jit
def _leave(state):
    """The sentence ends, with its full stop or without: what it defined is believed, with the last number it gave."""
    s = state.scalars
    x, letter = s[SLOT], s[LETTER]
    if s[PHASE] in (CLAUSE, WHOLE, LOST) and letter >= 0 and s[LAST_NUMBER] >= 0:
        state.values[letter] = s[LAST_NUMBER]
        if x >= 0:
            state.done[x] = 1
            state.slot_letter[x] = letter
            state.tried[:] = 0


@jit
def _take_back(state):
    """The letters of the sentence are free again; a mistaken name that was taken back at once counts as tried."""
    s = state.scalars
    for i in range(len(state.used)):
        if state.used[i] and not state.before[i]:
            state.used[i] = 0
            state.values[i] = -1
    if s[PHASE] == CHOOSE and s[SLOT] >= 0 and state.probs[1, s[SLOT]] > 0.0:  # else it could have been a right step
        state.tried[s[SLOT]] = 1
    s[LETTER] = -1
    s[PHASE] = BACKED
