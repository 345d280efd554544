"""Mistakes in a solution, and the exact distribution of its next sentence (Part 2.2, sections 2 and 4).

The next parameter is uniform over those that are needed and ready. Before it, with probability p, a wrong parameter is
named and taken back (`Define WRONG as BACK.`), after that a second one with probability p, and so on. A wrong parameter
is uniform over the candidates of the kind of mistake; none is named twice before the same step:

    retry  cannot be computed now (something it depends on is not yet in the solution); needed or not
    weak   is needed and comes later in this solution, except the one about to be written
    miss   is not yet in the solution, except the one about to be written; computable or not
    slip   (ours) has no candidates: instead the last number of a step is wrong with probability p, uniform over the
           others; the step then stands, or is taken back (`... so k = 3 + 4 = 2 BACK.`) and the next one drawn afresh

The writer logs its own probabilities with these functions and the oracle (`synth.oracle`) answers with them.
"""

import math
from typing import NamedTuple

import numpy as np

from synth.documents import SOLUTION_SEGMENT
from synth.kernel.jit import jit
from synth.kernel.rng import below, pick, uniform
from synth.problem.arrays import N_NEEDED, SLOTS, name_tokens, ready
from synth.problem.clauses import clause_count
from synth.world import vocabulary as vocab
from synth.write.prompt import LOSS, MISTAKE, put

RETRY, WEAK, MISS, SLIP = range(4)
KINDS = ("retry", "weak", "miss", "slip")
MASK_NONE, MASK_NAME, MASK_STEP = range(3)  # which tokens of a mistake carry no loss


class WriteSettings(NamedTuple):
    """How problems and solutions are written: the settings of a `Spec` that the kernels read."""

    question_first: bool
    published_order: bool
    random_letters: bool
    shortest: bool
    retry_kind: int  # index into `KINDS`
    retry_rate: float
    uncorrected: float
    mask: int


@jit
def candidates(kind, p, done, excluded, coming, mask):
    """Write the mask of wrong candidates at this position; returns their number. `excluded` marks what was already
    tried at this position. `coming` is the slot written next, or -1 to leave it in, as the distribution needs it."""
    count = 0
    for x in range(SLOTS):
        mask[x] = 0
        if kind == SLIP or not p.exists[0, x] or done[x] or excluded[x] or x == coming:
            continue
        if kind == RETRY and ready(p.n_terms[0], p.terms[0], done, x):
            continue
        if kind != WEAK or p.needed[0, x] > 0:
            mask[x] = 1
            count += 1
    return count


@jit
def next_needed(p, done, mask, letters=0):
    """Write the mask of needed parameters that are ready and not done; returns their number. With `letters`, the number
    of the world's, every ready parameter is in the mask as long as the letters suffice for it and all that is needed (a
    solution that is not the shortest)."""
    mask[:] = 0
    n_terms, terms, constant_op = p.n_terms[0], p.terms[0], p.constant_op[0]
    count, spare = 0, letters
    for i in range(p.scalars[0, N_NEEDED]):
        x = p.topo[0, i]
        if not done[x] and ready(n_terms, terms, done, x):
            mask[x] = 1
            count += 1
    if letters == 0:
        return count
    for x in range(SLOTS):
        if done[x] or p.needed[0, x]:
            spare -= clause_count(x, n_terms, terms, constant_op)
    for x in range(SLOTS):
        if not p.exists[0, x] or done[x] or p.needed[0, x] or not ready(n_terms, terms, done, x):
            continue
        if clause_count(x, n_terms, terms, constant_op) <= spare:
            mask[x] = 1
            count += 1
    return count


@jit
def next_sentence_probs(kind, rate, p, done, excluded, right, wrong, letters=0):
    """P(next sentence defines x) in `right`, P(next sentence is a mistake naming x) in `wrong`; together they sum to 1.

    Exact for solutions whose order is redrawn step by step; both are 0 when nothing is ready. `letters` as in
    `next_needed`. The coming parameter is never a candidate, and a reader does not know it, so the distribution is a
    mean over what it may be: every ready parameter that was not tried, all equally likely, unless (weak, not the
    shortest) only some of these are candidates. With such a one to come there was one candidate fewer, so what was
    tried was likelier to be drawn: that weighs it by |candidates| / |untried candidates|.
    """
    ready_mask = np.zeros(SLOTS, dtype=np.int64)
    n_ready = next_needed(p, done, ready_mask, letters)
    n_tried = 0
    for x in range(SLOTS):
        if excluded[x]:
            ready_mask[x] = 0
            n_tried += 1
    if rate <= 0.0 and n_tried == 0:
        for x in range(SLOTS):
            right[x] = 1.0 / n_ready if ready_mask[x] else 0.0
        wrong[:] = 0.0
        return
    open_mask = np.zeros(SLOTS, dtype=np.int64)
    n_open = candidates(kind, p, done, excluded, -1, open_mask)
    n_in, n_out = 0, 0  # ready ones that are candidates themselves, ready ones that are not
    for x in range(SLOTS):
        right[x], wrong[x] = 0.0, 0.0
        if ready_mask[x] and open_mask[x]:
            n_in += 1
        elif ready_mask[x]:
            n_out += 1
    if n_in + n_out == 0:
        return
    weight = (n_open + n_tried) / n_open if n_in > 0 and n_out > 0 else 1.0
    total = n_out + weight * n_in
    p_in = rate if n_open > 1 else 0.0
    p_out = rate if n_open > 0 else 0.0
    for x in range(SLOTS):
        if ready_mask[x]:
            right[x] = weight * (1.0 - p_in) / total if open_mask[x] else (1.0 - p_out) / total
        if open_mask[x]:
            if n_open > 1:
                wrong[x] = p_in * (n_in - ready_mask[x]) * weight / total / (n_open - 1)
            wrong[x] += p_out * n_out / total / n_open


@jit
def name_probs(p, probs, owner, thing):
    """(P(owner token), P(thing token | owner), P(the parameter is defined | both names)). probs: float64[2, 72], what
    `next_sentence_probs` wrote to `right` and `wrong`."""
    with_owner, with_both, defined = 0.0, 0.0, 0.0
    for x in range(SLOTS):
        total = probs[0, x] + probs[1, x]
        if total > 0.0:
            a, b = name_tokens(p, x)
            if a == owner:
                with_owner += total
                if b == thing:
                    with_both += total
                    defined += probs[0, x]
    return with_owner, with_both / with_owner, defined / with_both


@jit
def put_step_token(out, n, token, step, x):
    """Write one token of the step of slot x that is read, right and learned."""
    return put(out, n, token, SOLUTION_SEGMENT, step, x, 0, 1)


@jit
def put_definition(p, x, step, mistake, settings, ids, probs, out, logp, n):
    """`Define NAME as`, with the log-probability of the names. probs: of the next sentence (`next_sentence_probs`);
    unknown in the published order. Returns (next n, P(the parameter is defined, and not taken back | its name))."""
    owner, thing = name_tokens(p, x)
    if settings.published_order:
        p_owner, p_thing, p_defined = math.nan, math.nan, math.nan
    else:
        p_owner, p_thing, p_defined = name_probs(p, probs, owner, thing)
    name_loss = 0 if mistake and settings.mask != MASK_NONE else 1
    rest_loss = 0 if mistake and settings.mask == MASK_STEP else 1
    n = put(out, n, ids.phrases[vocab.DEFINE], SOLUTION_SEGMENT, step, x, mistake, rest_loss)
    n = put(out, n, owner, SOLUTION_SEGMENT, step, x, mistake, name_loss)
    logp[n - 1] = math.log(p_owner)
    n = put(out, n, thing, SOLUTION_SEGMENT, step, x, mistake, name_loss)
    logp[n - 1] = math.log(p_thing)
    n = put(out, n, ids.phrases[vocab.AS], SOLUTION_SEGMENT, step, x, mistake, rest_loss)
    return n, p_defined


@jit
def insert_mistakes(s, p, x, step, settings, ids, work, out, logp, n):
    """Mistakes that name a wrong parameter before the step of slot x, and the distribution of the sentence after them.
    Returns (next n, next step) and leaves the distribution in `work.probs`."""
    work.tried[:] = 0
    kind, rate = settings.retry_kind, settings.retry_rate
    letters = 0 if settings.shortest else ids.n_letters
    while True:
        if not settings.published_order:
            next_sentence_probs(kind, rate, p, work.done, work.tried, work.probs[0], work.probs[1], letters)
        if rate <= 0.0 or candidates(kind, p, work.done, work.tried, x, work.mask) == 0 or uniform(s) >= rate:
            return n, step
        wrong = pick(s, work.mask)
        work.tried[wrong] = 1
        n, defined = put_definition(p, wrong, step, 1, settings, ids, work.probs, out, logp, n)
        n = put(out, n, ids.phrases[vocab.BACK], SOLUTION_SEGMENT, step, wrong, 1, 1)
        logp[n - 1] = math.log(1.0 - defined)
        n = put(out, n, ids.phrases[vocab.STOP], SOLUTION_SEGMENT, step, wrong, 1, 1)
        step += 1


@jit
def slip(s, rate, right, modulus):
    """The number written as result: the right one, or with probability `rate` one of the others."""
    if rate <= 0.0 or uniform(s) >= rate:
        return right
    wrong = below(s, modulus - 1)
    return wrong + 1 if wrong >= right else wrong


@jit
def close_step(s, step, x, slipped, settings, ids, out, logp, begin, n):
    """`BACK .` after a slip that is taken back, else the full stop; returns (next n, whether the step stands)."""
    back = slipped and uniform(s) >= settings.uncorrected
    if slipped and settings.mask != MASK_NONE:
        out[LOSS, n - 1] = 0
    if back and settings.mask == MASK_STEP:
        out[LOSS, begin:n] = 0
    if back:
        n = put(out, n, ids.phrases[vocab.BACK], SOLUTION_SEGMENT, step, x, 1, 1)
        logp[n - 1] += math.log(1.0 - settings.uncorrected)
    n = put_step_token(out, n, ids.phrases[vocab.STOP], step, x)
    if slipped:
        out[MISTAKE, begin:n] = 1
        if not back:
            logp[n - 1] += math.log(settings.uncorrected)
    return n, not back
