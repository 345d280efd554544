"""Judges any solution, however broken, step by step against the known truth; never raises on what a model wrote.

A step gets the first kind of this table whose test it fails; the tests are disjoint by this order and complete, since a
step that fails none is right. Mistakes are MALFORMED and after; the three kinds before are allowed.

    right                       none of the below, and the query needs the parameter
    unneeded                    none of the below, and the query does not need the parameter
    retry                       `Define NAME as BACK.`, or a whole step that ends with BACK and so binds nothing, for a
                                parameter of the problem (computable or not, as published)
    malformed                   no sentence of the grammar (`synth.judge.grammar`), or cut off
    unknown parameter           no parameter of this problem has this name
    repeated                    an earlier step defines the parameter
    not ready                   something the parameter directly depends on is not defined yet
    wrong dependencies          the letters reach something else than exactly what the parameter depends on: too much,
                                too little, a letter that stands for nothing, or a clause that the step never uses
    wrong reference             a letter does not stand for one value: it is given a second meaning, or the numbers are
                                not the letter expression with its letters' values put in
    wrong constant or operator  the expression is not the problem's (as a tree: operands of + and * in any order, sums
                                folded in any way; products are not multiplied out)
    wrong arithmetic            a result is not its number expression mod the modulus
    wrong value                 a number given without arithmetic is not the value: the 0 of what has no parts
    uncorrected mistake         the step is right in itself, and wrong only because an earlier mistake is put in

The whole solution is right (strict) when no step is a mistake, its ending is right, and so is the answer; `reason`
names the first of these that fails.

    ending   right | early (the query is not defined) | late (goes on after the query, or after the answer) | never (no
             `<eos>`; it wins over the others)
    answer   the number after `<answer>`, UNDETERMINED for that word, -1 when there is neither

Where a premise is missing, the sentence `Undetermined.` takes the query's place: it is no step, it must come once all
that can be derived of what the query needs is defined (else early), and nothing may follow it (else late); the right
answer is that word. In a complete problem the sentence defines nothing, so that the solution ends early.

`published` is the criterion of the checker of Parts 2.1 and 2.2, which does not compare constants and
operators with the problem, lets steps for edges that do not exist pass, skips every sentence with BACK, and needs
neither a final full stop nor `<eos>`; it is carried over to missing premises, which the papers do not have. A strictly
right solution is always published-right.
Try: `python -m synth.generate --out - | python -m synth.check -`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synth.documents import pad_rows
from synth.judge import algebra, grammar
from synth.kernel.jit import jit
from synth.problem.arrays import MISSING, SLOTS, Integers, Problems
from synth.problem.clauses import RESULT
from synth.world import vocabulary as vocab

KINDS = (
    "right", "unneeded", "retry", "malformed", "unknown parameter", "repeated", "not ready", "wrong dependencies",
    "wrong reference", "wrong constant or operator", "wrong arithmetic", "wrong value", "uncorrected mistake",
)  # fmt: skip
(
    RIGHT, UNNEEDED, RETRY, MALFORMED, UNKNOWN, REPEATED, NOT_READY, WRONG_DEPENDENCIES, WRONG_REFERENCE,
    WRONG_EXPRESSION, WRONG_ARITHMETIC, WRONG_VALUE, UNCORRECTED,
) = range(len(KINDS))  # fmt: skip
ENDINGS = ("right", "early", "late", "never")
ENDED, EARLY, LATE, NEVER = range(len(ENDINGS))
UNDETERMINED = -2  # as an answer: the word, instead of a number

# columns of what is known of a slot; status: 0, no name of this problem; an edge that it lacks; a parameter
_STATUS, _OWNER, _THING, _N_TERMS, _COMBINE, _CONSTANT, _CONSTANT_OP, _VALUE, _NEEDED = range(9)
_POSSIBLE, _EXISTS = 1, 2
# columns of a step as the kernels write it, and of the summary of a solution
_KIND, _PARAM, _START, _STOP = range(4)
_STEPS, _FIRST, _RETRIES, _UNNEEDED, _ENDING, _ANSWER, _PUBLISHED = range(7)


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
    answer: np.ndarray  # int32[N] the number written as answer, -1 none, UNDETERMINED for that word


class _Work(NamedTuple):
    """Scratch arrays of the kernels, made once per call."""

    head: np.ndarray  # int64[4] head of the step at hand
    rows: np.ndarray  # int64[T + 1, columns] its clauses
    defined: np.ndarray  # int64[72] 1 where a step defined the parameter
    letters: algebra.Letters


def _facts(problems: Problems) -> np.ndarray:
    """What the kernels need to know of every slot, int32[N, 72, columns]."""
    possible = problems.possible()
    status = np.where(possible & (problems.exists > 0), _EXISTS, np.where(possible, _POSSIBLE, 0))
    names = problems.slot_names()
    columns = [status, names[..., 0], names[..., 1], problems.n_terms, problems.combine]
    columns += [problems.constant, problems.constant_op, problems.value, problems.needed]
    return np.stack(columns, axis=-1, dtype=np.int32, casting="unsafe")


@jit
def _find(facts, owner, thing):
    """Slot with these name tokens, an existing one if there is any, or -1."""
    found = -1
    for s in range(SLOTS):
        if owner >= 0 and facts[s, _OWNER] == owner and facts[s, _THING] == thing:
            if facts[s, _STATUS] == _EXISTS:
                return s
            if facts[s, _STATUS] == _POSSIBLE:
                found = s
    return found


@jit
def _kind(fact, s, terms, letters, defined, faults, reached, value):
    """Kind of a sentence that defines the existing parameter s: the tests of the table above, in their order."""
    if defined[s]:
        return REPEATED
    for t in range(fact[_N_TERMS]):
        if not defined[terms[t, 0]] or (terms[t, 1] >= 0 and not defined[terms[t, 1]]):
            return NOT_READY
    if not reached or faults & algebra.UNUSED:
        return WRONG_DEPENDENCIES
    if faults & (algebra.REFERENCE | algebra.REUSED):
        return WRONG_REFERENCE
    form = letters.form[letters.form.shape[0] - 2]
    if not algebra.equals_problem(form, fact[_N_TERMS], terms, fact[_COMBINE], fact[_CONSTANT], fact[_CONSTANT_OP]):
        return WRONG_EXPRESSION
    if faults & algebra.ARITHMETIC:
        return WRONG_ARITHMETIC
    if value != fact[_VALUE]:
        return WRONG_VALUE if fact[_N_TERMS] == 0 else UNCORRECTED
    return RIGHT if fact[_NEEDED] > 0 else UNNEEDED


@jit
def _judge_step(facts, terms, s, parsed, ids, work):
    """Judge the parsed sentence for slot s and note what it defines: (kind, whether it passes as published)."""
    letter, count = work.head[grammar.LETTER], work.head[grammar.COUNT]
    exists = s >= 0 and facts[s, _STATUS] == _EXISTS
    if parsed == grammar.MALFORMED_STEP or (letter < 0 and parsed == grammar.UNSTOPPED):
        return MALFORMED, False
    if letter < 0:
        return RETRY if exists else UNKNOWN, True
    fact, factors = facts[max(s, 0)], terms[max(s, 0)]
    faults = algebra.work_step(work.letters, work.rows, count, ids.modulus)
    reached = algebra.reaches(work.letters, fact[_N_TERMS] if exists else 0, factors)
    passes = s >= 0 and reached and faults & (algebra.REFERENCE | algebra.REUSED | algebra.ARITHMETIC) == 0
    kind = MALFORMED
    if parsed == grammar.COMPLETE:
        kind = UNKNOWN
        if exists:
            value = work.rows[count - 1, RESULT]
            kind = _kind(fact, s, factors, work.letters, work.defined, faults, reached, value)
    algebra.define(work.letters, letter, s if exists else -1)
    if exists:
        work.defined[s] = 1
    return kind, passes


@jit
def _read_answer(tokens, end, length):
    """Read what follows the steps: (position of the answer's number or -1, goes on after it, ended by `<eos>`)."""
    at, number, goes_on = end, -1, False
    if at < length and tokens[at] == vocab.ANSWER:
        number = at + 1 if at + 1 < length else -1
        at += 1
        if number >= 0 and tokens[at] != vocab.EOS and tokens[at] != vocab.PAD:
            at += 1
        while at < length and tokens[at] != vocab.EOS and tokens[at] != vocab.PAD:
            goes_on = True
            at += 1
    return number, goes_on, at < length and tokens[at] == vocab.EOS


@jit
def _contains(tokens, start, stop, phrase):
    at = start
    while at < stop and tokens[at] != phrase:
        at += 1
    return phrase >= 0 and at < stop


@jit
def _complete(facts, query, missing, defined):
    """Whether all is defined that must be: the query, or where a premise is missing whatever can still be derived."""
    if missing < 0:
        return defined[query] > 0
    for s in range(SLOTS):
        if facts[s, _NEEDED] > 0 and not defined[s]:
            return False
    return True


@jit
def _answer_of(ids, token):
    if token >= 0 and token == ids.phrases[vocab.UNDETERMINED]:
        return UNDETERMINED
    return grammar.number_of(ids, token)


@jit
def _judge(facts, terms, query, missing, ids, tokens, length, bare, steps, work, summary):
    """Judge one response: writes its steps int32[S, 4] and its summary."""
    work.defined[:] = 0
    algebra.forget(work.letters)
    end = grammar.solution_end(tokens, length)
    n, at, first, retries, unneeded = 0, 0, -1, 0, 0
    late, published, unstopped, last_slot, last_value = False, True, False, -1, -1
    said, in_time = False, False  # whether it says Undetermined, and if so once all that can be derived is
    while at < end:
        after = grammar.step_end(tokens, at, end, ids)
        late = late or work.defined[query] > 0 or said
        published = published and not unstopped
        says = grammar.says_undetermined(tokens, at, after, ids)
        if says > 0:
            published = published and missing >= 0
            in_time = not said and _complete(facts, query, missing, work.defined)
            said, last_slot, last_value = True, -1, UNDETERMINED
        if says == grammar.COMPLETE:
            at = after
            continue
        parsed = grammar.parse_step(tokens, at, after, ids, work.head, work.rows)
        s = _find(facts, work.head[grammar.OWNER_TOKEN], work.head[grammar.THING_TOKEN])
        kind, passes = _judge_step(facts, terms, s, parsed, ids, work)
        # the published checker splits at full stops, so only the last may lack, and skips whatever contains BACK
        published = published and (passes or says > 0 or _contains(tokens, at, after, ids.phrases[vocab.BACK]))
        if parsed != grammar.MALFORMED_STEP and work.head[grammar.LETTER] >= 0:
            last_slot, last_value = s, work.rows[work.head[grammar.COUNT] - 1, RESULT]
        unstopped = parsed == grammar.UNSTOPPED
        exists = s >= 0 and facts[s, _STATUS] == _EXISTS
        steps[n, _KIND], steps[n, _PARAM], steps[n, _START], steps[n, _STOP] = kind, s if exists else -1, at, after
        retries += 1 if kind == RETRY else 0
        unneeded += 1 if kind == UNNEEDED else 0
        if kind >= MALFORMED and first < 0:
            first = n
        n += 1
        at = after

    complete = _complete(facts, query, missing, work.defined)
    answer, truth, ended = last_value, facts[query, _VALUE], True
    if missing >= 0:
        complete, truth = in_time, UNDETERMINED
    if not bare:
        number, goes_on, ended = _read_answer(tokens, end, length)
        late = late or goes_on
        answer = _answer_of(ids, tokens[number]) if number >= 0 else -1
        published = published and (end == length or tokens[end] != vocab.ANSWER or answer == truth)
    if missing >= 0:
        published = published and in_time and not late
    else:
        published = published and last_slot == query and last_value == truth
    summary[_STEPS], summary[_FIRST], summary[_RETRIES], summary[_UNNEEDED] = n, first, retries, unneeded
    summary[_ENDING] = NEVER if not ended else EARLY if not complete else LATE if late else ENDED
    summary[_ANSWER], summary[_PUBLISHED] = answer, 1 if published else 0


@jit
def _judge_all(facts, terms, queries, missing, ids, tokens, lengths, bare, steps, work, summary):
    for i in range(tokens.shape[0]):
        _judge(facts[i], terms[i], queries[i], missing[i], ids, tokens[i], lengths[i], bare, steps[i], work, summary[i])


def _most_steps(tokens: np.ndarray, world: vocab.World) -> int:
    """An upper bound on the number of steps in any row: each ends at a full stop, or where the next begins."""
    marks = world.phrases[[vocab.DEFINE, vocab.UNDETERMINED, vocab.STOP]]
    if marks[0] < 0:
        return tokens.shape[1]
    return int(np.sum([(tokens == mark).sum(axis=1) for mark in marks if mark >= 0], axis=0).max(initial=0)) + 1


def _last_flag(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int[N]: the place behind the last verdict flag of each response before its end, 0 where there is none."""
    inside = (np.arange(tokens.shape[1]) < lengths[:, None]) & ~(np.cumsum(tokens == vocab.EOS, axis=1) > 0)
    inside[:, 2:] &= tokens[:, :-2] == vocab.ANSWER  # what is judged is an answer
    inside[:, :2] = False
    place = np.arange(1, tokens.shape[1] + 1)
    return np.where(inside & np.isin(tokens, (vocab.RIGHT, vocab.WRONG)), place, 0).max(axis=1, initial=0)


def check(
    problems: Problems, world: vocab.World, tokens: np.ndarray, lengths: np.ndarray, *, bare: bool = False
) -> Verdicts:
    """Judge N responses, the tokens after `<solution>`: int[N, T] of which the first lengths[i] count. What follows the
    first `<eos>` or `<pad>` is ignored, and so is what stands before the last verdict on an own answer (`<answer> n
    <right>` or `<wrong>`): a revised one counts. With `bare` the tokens are the steps alone: their end is the end, and
    the value of the last step (or Undetermined) is the answer. Raises ValueError when N is not the same everywhere."""
    tokens = np.ascontiguousarray(tokens, dtype=np.int64)
    lengths = np.clip(np.asarray(lengths, dtype=np.int64), 0, tokens.shape[1] if tokens.ndim == 2 else 0)
    n = len(problems.value)
    if tokens.ndim != 2 or tokens.shape[0] != n or lengths.shape != (n,):
        raise ValueError(f"tokens {tokens.shape} and lengths {lengths.shape} do not belong to {n} problems")
    begins = _last_flag(tokens, lengths)
    if begins.any():
        at = np.minimum(np.arange(tokens.shape[1]) + begins[:, None], tokens.shape[1] - 1)
        tokens, lengths = np.take_along_axis(tokens, at, axis=1), lengths - begins
    columns = (problems.terms, problems.query, problems.scalars[:, MISSING])
    terms, queries, missing = (np.require(column, np.int32, ["C", "W"]) for column in columns)
    head, rows = np.zeros(4, dtype=np.int64), np.zeros((tokens.shape[1] + 1, grammar.CLAUSE_COLUMNS), dtype=np.int64)
    work = _Work(head, rows, np.zeros(SLOTS, dtype=np.int64), algebra.letters_buffer(world.n_letters))
    steps = np.full((n, _most_steps(tokens, world), 4), -1, dtype=np.int32)
    summary = np.zeros((n, 7), dtype=np.int32)
    _judge_all(_facts(problems), terms, queries, missing, world.ids, tokens, lengths, bare, steps, work, summary)
    steps = steps[:, : summary[:, _STEPS].max(initial=0)]
    answer_right = summary[:, _ANSWER] == np.where(missing < 0, problems.answer, UNDETERMINED)
    return Verdicts(
        right=(summary[:, _FIRST] < 0) & (summary[:, _ENDING] == ENDED) & answer_right,
        published=summary[:, _PUBLISHED] > 0,
        answer_right=answer_right,
        steps=summary[:, _STEPS],
        kind=steps[:, :, _KIND].astype(np.int8),
        param=steps[:, :, _PARAM].astype(np.int16),
        start=np.where(steps[:, :, _START] < 0, -1, steps[:, :, _START] + begins[:, None]).astype(np.int32),
        stop=np.where(steps[:, :, _STOP] < 0, -1, steps[:, :, _STOP] + begins[:, None]).astype(np.int32),
        first_mistake=summary[:, _FIRST],
        retries=summary[:, _RETRIES],
        unneeded=summary[:, _UNNEEDED],
        ending=summary[:, _ENDING].astype(np.int8),
        answer=summary[:, _ANSWER],
    )


def check_responses(problems: Problems, world: vocab.World, responses: Sequence[Integers]) -> Verdicts:
    """`check` on N responses of different lengths, the tokens after `<solution>`."""
    return check(problems, world, pad_rows(responses), np.array([len(r) for r in responses], dtype=np.int64))


def reason(verdicts: Verdicts, i: int) -> str:
    """Why solution i is wrong: the kind of its first mistake, `ends early|late|never`, `wrong answer`; or `right`."""
    first = verdicts.first_mistake[i]
    if first >= 0:
        return KINDS[verdicts.kind[i, first]]
    if verdicts.ending[i] != ENDED:
        return f"ends {ENDINGS[verdicts.ending[i]]}"
    return "right" if verdicts.answer_right[i] else "wrong answer"
