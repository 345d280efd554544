"""Inserting mistakes into a solution, and taking them back (Part 2.2, sections 2 and 4).

Before every step, with probability p, a wrong parameter is named and taken back (`Define WRONG as BACK.`), then again
with probability p; `synth.write.step_distribution` says which parameters may be named.

With `slip` (ours) no wrong parameter is named; instead the last number of a step is wrong with probability p, uniform
over the others. The step is then taken back (`... so k = 3 + 4 = 2 BACK.`) and the next one drawn afresh, or it stands.
"""

import math

from synth.documents import SOLUTION_SEGMENT
from synth.kernel.bits import pick
from synth.kernel.jit import jit
from synth.kernel.rng import below, uniform
from synth.world import vocabulary as vocab
from synth.write.step_distribution import candidates, next_sentence_probs
from synth.write.tokens import LOSS, MASK_NONE, MASK_STEP, MISTAKE, put, put_definition, put_step_token


@jit
def insert_mistakes(s, p, x, step, settings, ids, work, out, logp, n):
    """Mistakes that name a wrong parameter before the step of slot x; returns (next n, next step).

    Leaves in `work.probs` the distribution of the sentence that comes after them.
    """
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
