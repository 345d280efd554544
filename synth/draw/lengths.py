"""Length of a problem's error-free document, in this lab's tokens or in estimated GPT-2 pieces.

`tokens` counts exactly what `synth.write.document` writes without mistakes. `gpt2` counts the same document as GPT-2's
byte-pair encoding would: every word, number, letter and mark of a template is one piece, `Define` and only it two
(section 6 of the specification), so all but the names is exact. GPT-2's vocabulary cannot be had from the package
index; a name counts `NAME_PIECES`, the one constant fitted: it makes the mean of 50,000 med documents the published
336. Every other published length is then a prediction (tests/numeric/synth/test_published_statistics.py).

Lengths are whole thousandths of a token inside kernels.
"""

import re

import numpy as np

from synth.kernel.jit import jit
from synth.problem import arrays as P
from synth.problem.arrays import ADD, DIFFERENCE, SLOTS, Problems
from synth.problem.clauses import COPY, MINUS, NUMBER, OPERATION, expand
from synth.problem.clauses import PLUS as ADDITION
from synth.world.vocabulary import (
    AND_EACH,
    AS,
    COMMA_EACH,
    DEFINE,
    DOES,
    EQUALS,
    EQUALS_EACH,
    HAVE,
    HOW_MANY,
    IS,
    MORE_EACH,
    PLUS,
    ROLES,
    SEMICOLON,
    SO,
    STOP,
    THE_NUMBER,
    TIMES,
    TIMES_EACH,
    World,
)
from synth.world.vocabulary import MINUS as MINUS_SIGN

UNITS = ("tokens", "gpt2")
NAME_PIECES = 2.80  # GPT-2 pieces of an item or category name, the mean
SCALE = 1000
MARK, NAME, PARAMETER = range(len(ROLES), len(ROLES) + 3)  # in `costs`, after the phrases


def phrase_pieces(text: str) -> int:
    """GPT-2 pieces of a template phrase: words and marks, `Define` twice."""
    return len(re.findall(r"\w+|[^\w\s]", text)) + text.split().count("Define")


def costs(world: World, unit: str) -> np.ndarray:
    """int64[roles + 3]: thousandths of a `unit` for each phrase, a mark (special, number or letter), a name and a
    parameter's two names with the possessive.

    Raises ValueError on an unknown unit.
    """
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
    total = 2 * costs[MARK] + costs[HOW_MANY] + costs[DOES] + costs[HAVE] + 2 * costs[NAME]
    for i in range(p.scalars[0, P.N_SENTENCES]):
        x = p.sentences[0, i]
        n = p.n_terms[0, x]
        kind = 0 if n == 1 else (2 if p.combine[0, x] == DIFFERENCE else 1)
        total += costs[THE_NUMBER] + costs[STOP] + (n + 1) * costs[PARAMETER]
        if p.constant[0, x] >= 0:
            total += costs[EQUALS] + costs[MARK]
            if n > 0:
                total += costs[(MORE_EACH if p.constant_op[0, x] == ADD else TIMES_EACH) + kind]
        else:
            total += costs[EQUALS_EACH + kind]
        if n > 1:
            total += costs[AND_EACH] + (n - 2) * costs[COMMA_EACH]
    return total


@jit
def solution_length(p, costs):
    """The steps of the solution of a batch of one, without answer and end."""
    total = 0
    letter = np.zeros(SLOTS, dtype=np.int64)
    zeros = np.zeros(SLOTS, dtype=np.int64)
    rows = np.zeros((8, 7), dtype=np.int64)
    for i in range(p.scalars[0, P.N_NEEDED]):
        x = p.topo[0, i]
        total += costs[DEFINE] + costs[PARAMETER] + costs[AS] + costs[MARK] + costs[STOP]
        n, _ = expand(x, p.n_terms[0], p.terms[0], p.combine[0], zeros, p.constant_op[0], zeros, 2, letter, 0, rows)
        total += (n - 1) * costs[SEMICOLON] + costs[SO]
        for c in range(n):
            operation = rows[c, OPERATION]
            total += 2 * costs[MARK] + costs[IS]
            if operation == COPY:
                total += costs[MARK] + costs[IS]
            elif operation != NUMBER:
                sign = PLUS if operation == ADDITION else (MINUS_SIGN if operation == MINUS else TIMES)
                total += 2 * (2 * costs[MARK] + costs[sign] + costs[IS])
    return total


@jit
def length(p, costs):
    """The whole error-free document of a batch of one: prompt, solution, `<answer>`, the answer and the end."""
    return prompt_length(p, costs) + solution_length(p, costs) + 3 * costs[MARK]


@jit
def _lengths(a, costs, out):
    for i in range(out.shape[0]):
        p = P.Problems(
            a.scalars[i : i + 1], a.widths[i : i + 1], a.items[i : i + 1], a.categories[i : i + 1],
            a.exists[i : i + 1], a.constant[i : i + 1], a.constant_op[i : i + 1], a.combine[i : i + 1],
            a.n_terms[i : i + 1], a.terms[i : i + 1], a.value[i : i + 1], a.needed[i : i + 1],
            a.sentences[i : i + 1], a.topo[i : i + 1],
        )  # fmt: skip
        out[i, 0], out[i, 1] = length(p, costs), solution_length(p, costs)


def lengths(problems: Problems, world: World, unit: str = "tokens") -> tuple[np.ndarray, np.ndarray]:
    """(documents, solutions): float64[N] each, lengths of the error-free documents and of their solutions' steps.

    Raises ValueError on an unknown unit.
    """
    out = np.zeros((len(problems.scalars), 2), dtype=np.int64)
    _lengths(problems, costs(world, unit), out)
    return out[:, 0] / SCALE, out[:, 1] / SCALE
