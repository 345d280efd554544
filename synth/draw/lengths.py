"""Length of a problem's error-free document, in this lab's tokens or in estimated GPT-2 pieces.

`tokens` counts exactly what `synth.write` writes without mistakes. `gpt2` counts the same document as GPT-2's
byte-pair encoding would: every word, number, letter and mark of a template is one piece, `Define` and only it two
(Part 2.1, appendix), so all but the names is exact. GPT-2's vocabulary cannot be had from the package
index; a name counts `NAME_PIECES`, the one constant fitted: it makes the mean of 50,000 med documents the published
336. Every other published length is then a prediction (tests/numeric/synth/test_published_statistics.py).

Lengths are whole thousandths of a token inside kernels.
"""

import re

import numpy as np

from synth.kernel.jit import jit
from synth.problem.arrays import ADD, DIFFERENCE, N_NEEDED, N_SENTENCES, SLOTS, Problems, one
from synth.problem.clauses import CLAUSE_COLUMNS, COPY, MAX_CLAUSES, NUMBER, OPERATION, expand, sign_role
from synth.world import vocabulary as vocab
from synth.world.vocabulary import ROLES, World

UNITS = ("tokens", "gpt2")
NAME_PIECES = 2.80  # GPT-2 pieces of an item or category name, the mean
SCALE = 1000
MARK, NAME, PARAMETER = range(len(ROLES), len(ROLES) + 3)  # in `costs`, after the phrases


def phrase_pieces(text: str) -> int:
    """GPT-2 pieces of a template phrase: words and marks, `Define` twice."""
    return len(re.findall(r"\w+|[^\w\s]", text)) + text.split().count("Define")


def costs(world: World, unit: str) -> np.ndarray:
    """int64[roles + 3]: thousandths of a `unit` for each phrase, a mark (special, number or letter), a name and a
    parameter's two names with the possessive. Raises ValueError on an unknown unit."""
    if unit not in UNITS:
        raise ValueError(f"length_unit={unit!r} is unknown; accepted: {', '.join(UNITS)}")
    if unit == "tokens":
        each = [int(i >= 0) for i in world.phrases]
        name, parameter = 1.0, 2.0
    else:
        each = [phrase_pieces(world.vocabulary[i]) if i >= 0 else 0 for i in world.phrases]
        name, parameter = NAME_PIECES, 2 * NAME_PIECES + 1  # 's is a piece of its own
    return np.array([round(SCALE * c) for c in (*each, 1, name, parameter)], dtype=np.int64)


@jit
def prompt_length(p, costs):
    """`<problem>` ... `<solution>` of a batch of one."""
    total = 2 * costs[MARK] + costs[vocab.HOW_MANY] + costs[vocab.DOES] + costs[vocab.HAVE] + 2 * costs[NAME]
    for i in range(p.scalars[0, N_SENTENCES]):
        x = p.sentences[0, i]
        n = p.n_terms[0, x]
        kind = 0 if n == 1 else (2 if p.combine[0, x] == DIFFERENCE else 1)
        total += costs[vocab.THE_NUMBER] + costs[vocab.STOP] + (n + 1) * costs[PARAMETER]
        if p.constant[0, x] >= 0:
            total += costs[vocab.EQUALS] + costs[MARK]
            if n > 0:
                total += costs[(vocab.MORE_EACH if p.constant_op[0, x] == ADD else vocab.TIMES_EACH) + kind]
        else:
            total += costs[vocab.EQUALS_EACH + kind]
        if n > 1:
            total += costs[vocab.AND_EACH] + (n - 2) * costs[vocab.COMMA_EACH]
    return total


@jit
def solution_length(p, costs):
    """The steps of the solution of a batch of one, without answer and end."""
    total = 0
    letter = np.zeros(SLOTS, dtype=np.int64)
    zeros = np.zeros(SLOTS, dtype=np.int64)
    rows = np.zeros((MAX_CLAUSES, CLAUSE_COLUMNS), dtype=np.int64)
    for i in range(p.scalars[0, N_NEEDED]):
        x = p.topo[0, i]
        total += costs[vocab.DEFINE] + costs[PARAMETER] + costs[vocab.AS] + costs[MARK] + costs[vocab.STOP]
        n, _ = expand(x, p.n_terms[0], p.terms[0], p.combine[0], zeros, p.constant_op[0], zeros, 2, letter, 0, rows)
        total += (n - 1) * costs[vocab.SEMICOLON] + costs[vocab.SO]
        for c in range(n):
            operation = rows[c, OPERATION]
            total += 2 * costs[MARK] + costs[vocab.IS]
            if operation == COPY:
                total += costs[MARK] + costs[vocab.IS]
            elif operation != NUMBER:
                total += 2 * (2 * costs[MARK] + costs[sign_role(operation)] + costs[vocab.IS])
    return total


@jit
def length(p, costs):
    """The whole error-free document of a batch of one: prompt, solution, `<answer>`, the answer and the end."""
    return prompt_length(p, costs) + solution_length(p, costs) + 3 * costs[MARK]


@jit
def _lengths(problems, costs, out):
    for i in range(out.shape[0]):
        p = one(problems, i)
        out[i, 0], out[i, 1] = length(p, costs), solution_length(p, costs)


def lengths(problems: Problems, world: World, unit: str = "tokens") -> tuple[np.ndarray, np.ndarray]:
    """(documents, solutions): float64[N] each, lengths of the error-free documents and of their solutions' steps.
    Raises ValueError on an unknown unit."""
    out = np.zeros((len(problems.scalars), 2), dtype=np.int64)
    _lengths(problems, costs(world, unit), out)
    return out[:, 0] / SCALE, out[:, 1] / SCALE
