"""The prompt of a problem: its sentences and its question, between `<problem>` and `<solution>` (spec section 2)."""

from synth.documents import QUESTION_SEGMENT, SENTENCE_SEGMENT
from synth.kernel.jit import jit
from synth.problem.arrays import ADD, DIFFERENCE, N_SENTENCES, QUERY, name_tokens
from synth.world import vocabulary as vocab
from synth.write.tokens import put, put_name


@jit
def write_sentence(p, x, step, ids, out, n):
    """The problem sentence of instance x (spec section 2)."""
    n = put(out, n, ids.phrases[vocab.THE_NUMBER], SENTENCE_SEGMENT, step, x, 0, 0)
    n = put_name(p, x, out, n, SENTENCE_SEGMENT, step, x)
    count, constant = p.n_terms[0, x], p.constant[0, x]
    kind = 0 if count == 1 else (2 if p.combine[0, x] == DIFFERENCE else 1)
    if constant >= 0:
        n = put(out, n, ids.phrases[vocab.EQUALS], SENTENCE_SEGMENT, step, x, 0, 0)
        n = put(out, n, ids.first_number + constant, SENTENCE_SEGMENT, step, x, 0, 0)
        if count > 0:
            first = vocab.MORE_EACH if p.constant_op[0, x] == ADD else vocab.TIMES_EACH
            n = put(out, n, ids.phrases[first + kind], SENTENCE_SEGMENT, step, x, 0, 0)
    else:
        n = put(out, n, ids.phrases[vocab.EQUALS_EACH + kind], SENTENCE_SEGMENT, step, x, 0, 0)
    for t in range(count):
        if t > 0:
            n = put(
                out,
                n,
                ids.phrases[vocab.AND_EACH if t == count - 1 else vocab.COMMA_EACH],
                SENTENCE_SEGMENT,
                step,
                x,
                0,
                0,
            )
        n = put_name(p, p.terms[0, x, t, 0], out, n, SENTENCE_SEGMENT, step, x)
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
