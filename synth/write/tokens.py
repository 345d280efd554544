"""The tokens of a document and, written with each, the truth about it: the pieces that prompt and solution share."""

import math
from typing import NamedTuple

from synth.documents import SOLUTION_SEGMENT
from synth.kernel.jit import jit
from synth.problem.arrays import name_tokens
from synth.world import vocabulary as vocab
from synth.write.step_distribution import name_probs

# rows of a document: the token, and the fields of `synth.documents.Documents` that are aligned with it
TOKEN, SEGMENT, STEP, PARAM, MISTAKE, LOSS = range(6)
MASK_NONE, MASK_NAME, MASK_STEP = range(3)  # which tokens of a mistake carry no loss


class WriteSettings(NamedTuple):
    """How problems and solutions are written: the settings of a `Spec` that the kernels read."""

    question_first: bool
    published_order: bool
    random_letters: bool
    shortest: bool
    retry_kind: int  # index into `synth.write.step_distribution.KINDS`
    retry_rate: float
    uncorrected: float
    mask: int


@jit
def put(out, n, token, segment, step, param, mistake, loss):
    """Write one token with its truth at column n, unless it is -1 (not written in this world). Returns the next n."""
    if token < 0:
        return n
    out[0, n], out[1, n], out[2, n], out[3, n], out[4, n], out[5, n] = token, segment, step, param, mistake, loss
    return n + 1


@jit
def put_name(p, x, out, n, segment, step, param):
    """Write the owner and the thing of slot x; returns the next n."""
    owner, thing = name_tokens(p, x)
    n = put(out, n, owner, segment, step, param, 0, 0)
    return put(out, n, thing, segment, step, param, 0, 0)


@jit
def put_step_token(out, n, token, step, x):
    """Write one token of the step of slot x that is read, right and learned."""
    return put(out, n, token, SOLUTION_SEGMENT, step, x, 0, 1)


@jit
def put_definition(p, x, step, mistake, settings, ids, probs, out, logp, n):
    """`Define NAME as`, with the log-probability of the names.

    probs: of the next sentence (`next_sentence_probs`); unknown in the published order. Returns (next n, P(the
    parameter is defined, and not taken back | its name)).
    """
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
