"""The prompt of a problem: its sentences and its question, between `<problem>` and `<solution>`.

With every token the truth about it is written, in the rows of `out`, int32[6, capacity].
"""

from synth.documents import QUESTION_SEGMENT, SENTENCE_SEGMENT
from synth.kernel.jit import jit
from synth.problem.arrays import ADD, DIFFERENCE, N_SENTENCES, QUERY, name_tokens
from synth.world import vocabulary as vocab

# rows of a document: the token, and the fields of `synth.documents.Documents` that are aligned with it
TOKEN, SEGMENT, STEP, PARAM, MISTAKE, LOSS = range(6)


@jit
def put(out, n, token, segment, step, param, mistake, loss):
    """Write one token with its truth at column n, unless it is -1 (not written in this world). Returns the next n."""
    if token < 0:
        return n
    out[0, n], out[1, n], out[2, n], out[3, n], out[4, n], out[5, n] = token, segment, step, param, mistake, loss
    return n + 1


@jit
def _put_name(p, y, step, x, out, n):
    owner, thing = name_tokens(p, y)
    n = put(out, n, owner, SENTENCE_SEGMENT, step, x, 0, 0)
    return put(out, n, thing, SENTENCE_SEGMENT, step, x, 0, 0)


@jit
def write_sentence(p, x, step, ids, out, n):
    """The problem sentence of instance x."""
    n = put(out, n, ids.phrases[vocab.THE_NUMBER], SENTENCE_SEGMENT, step, x, 0, 0)
    n = _put_name(p, x, step, x, out, n)
    count, constant, link = p.n_terms[0, x], p.constant[0, x], vocab.EQUALS_EACH
    if constant >= 0:
        n = put(out, n, ids.phrases[vocab.EQUALS], SENTENCE_SEGMENT, step, x, 0, 0)
        n = put(out, n, ids.first_number + constant, SENTENCE_SEGMENT, step, x, 0, 0)
        link = vocab.MORE_EACH if p.constant_op[0, x] == ADD else vocab.TIMES_EACH
    if count > 0 or constant < 0:
        link += 0 if count == 1 else (2 if p.combine[0, x] == DIFFERENCE else 1)
        n = put(out, n, ids.phrases[link], SENTENCE_SEGMENT, step, x, 0, 0)
    for t in range(count):
        if t > 0:
            joint = ids.phrases[vocab.AND_EACH if t == count - 1 else vocab.COMMA_EACH]
            n = put(out, n, joint, SENTENCE_SEGMENT, step, x, 0, 0)
        n = _put_name(p, p.terms[0, x, t, 0], step, x, out, n)
    return put(out, n, ids.phrases[vocab.STOP], SENTENCE_SEGMENT, step, x, 0, 0)


@jit
def write_question(p, ids, out, n):
    """`How many THING does OWNER have?`"""
    x = p.scalars[0, QUERY]
    owner, thing = name_tokens(p, x)
    n = put(out, n, ids.phrases[vocab.HOW_MANY], QUESTION_SEGMENT, -1, x, 0, 0)
    n = put(out, n, thing, QUESTION_SEGMENT, -1, x, 0, 0)
    n = put(out, n, ids.phrases[vocab.DOES], QUESTION_SEGMENT, -1, x, 0, 0)
    n = put(out, n, owner, QUESTION_SEGMENT, -1, x, 0, 0)
    return put(out, n, ids.phrases[vocab.HAVE], QUESTION_SEGMENT, -1, x, 0, 0)


@jit
def write_prompt(p, question_first, ids, out):
    """`<problem>` ... `<solution>`; returns the prompt's length."""
    n = put(out, 0, vocab.PROBLEM, SENTENCE_SEGMENT, -1, -1, 0, 0)
    if question_first:
        n = write_question(p, ids, out, n)
    for i in range(p.scalars[0, N_SENTENCES]):
        n = write_sentence(p, p.sentences[0, i], i, ids, out, n)
    if not question_first:
        n = write_question(p, ids, out, n)
    return put(out, n, vocab.SOLUTION, QUESTION_SEGMENT, -1, -1, 0, 0)
