"""Which side of the train/test split a problem is on: bins 0..16 are train, 17..22 test (Part 2.1).

By template (published): the bin is the SHA-256, modulo 23, of the solution with each name replaced by its kind, each
number by 0, and letters renamed in order of appearance. The template is written from the parameters, not by replacing
strings, so a name inside another name does no harm. A problem whose solution may have several orders has several
templates. They must all be on one side, so one text is hashed for all of them: its steps in an order that depends on
the expressions alone, and of several parameters with the same expression only one.

By problem: the bin is a hash of all sentences and the question, names and numbers included, in any order.
"""

import numpy as np

from synth.kernel.jit import jit
from synth.kernel.rng import mix, sha256_mod
from synth.problem import clauses
from synth.problem.arrays import DIFFERENCE, INSTANCES, N_NEEDED, N_SENTENCES, QUERY, SLOTS, name_tokens

BINS = 23
MAX_TEXT = 8192  # the longest template has 72 steps and 64 clauses: below 4,000 bytes


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)


DEFINE_INSTANCE, DEFINE_ABSTRACT = _bytes(" Define Inst as "), _bytes(" Define Inter as ")
CLAUSE, LAST_CLAUSE, IS, STOP = _bytes(". "), _bytes(". so "), _bytes(" = "), _bytes(".")
SIGNS = np.stack([_bytes(" + "), _bytes(" - "), _bytes(" * ")])


@jit
def _write(text, n, piece):
    text[n : n + piece.shape[0]] = piece
    return n + piece.shape[0]


@jit
def _operand(text, n, letter):
    """Letter number 0, 1, ... (a..z, A..Z, then doubled), or 0 for a number (-1)."""
    code = letter % 52
    code = 48 if letter < 0 else code + 97 if code < 26 else code + 39
    for _ in range(1 + max(letter, 0) // 52):
        text[n] = code
        n += 1
    return n


@jit
def write_template(order, count, n_terms, terms, combine, constant_op, text):
    """Template text of the steps order[:count] as bytes in `text`; returns its length."""
    letter = np.full(SLOTS, -1, dtype=np.int64)
    zeros = np.zeros(SLOTS, dtype=np.int64)
    rows = np.zeros((clauses.MAX_CLAUSES, clauses.CLAUSE_COLUMNS), dtype=np.int64)
    used, n = 0, 0
    for i in range(count):
        x = order[i]
        n_clauses, used = clauses.expand(x, n_terms, terms, combine, zeros, constant_op, zeros, 2, letter, used, rows)
        n = _write(text, n, DEFINE_INSTANCE if x < INSTANCES else DEFINE_ABSTRACT)
        n = _operand(text, n, letter[x])
        for c in range(n_clauses):
            n = _write(text, n, LAST_CLAUSE if c == n_clauses - 1 else CLAUSE)
            n = _operand(text, n, rows[c, clauses.TARGET_LETTER])
            n = _write(text, n, IS)
            operation = rows[c, clauses.OPERATION]
            for numeric in range(0 if operation == clauses.NUMBER else 1 if operation == clauses.COPY else 2):
                n = _operand(text, n, -1 if numeric else rows[c, clauses.LEFT])
                if operation != clauses.COPY:
                    n = _write(text, n, SIGNS[operation - clauses.PLUS])
                    n = _operand(text, n, -1 if numeric else rows[c, clauses.RIGHT])
                n = _write(text, n, IS)
            n = _operand(text, n, -1)
        n = _write(text, n, STOP)
    return n


@jit
def _canonical(p, order, terms):
    """Order-free form of the needed graph: one representative of each unfolded expression, sorted by (height, hash).
    Writes representatives to `order` and their terms, pointing at representatives and sorted where the operation
    commutes, to `terms`; returns how many there are."""
    hashes = np.zeros(SLOTS, dtype=np.int64)
    height = np.zeros(SLOTS, dtype=np.int64)
    same = np.zeros(SLOTS, dtype=np.int64)  # representative of each slot
    count = 0
    for i in range(p.scalars[0, N_NEEDED]):
        x = p.topo[0, i]
        n = p.n_terms[0, x]
        h = mix(17 if x < INSTANCES else 29, int(p.constant_op[0, x]))
        h = mix(h, int(p.combine[0, x]) * 8 + n)
        total = 0
        for t in range(n):
            product = 1
            for f in range(2):
                y = p.terms[0, x, t, f]
                if y >= 0:
                    height[x] = max(height[x], height[y] + 1)
                    product += mix(41, hashes[y])
                    terms[x, t, f] = same[y]
            if terms[x, t, 1] >= 0 and hashes[terms[x, t, 1]] < hashes[terms[x, t, 0]]:
                terms[x, t, 0], terms[x, t, 1] = terms[x, t, 1], terms[x, t, 0]
            if p.combine[0, x] == DIFFERENCE:
                h = mix(h, product & 0xFFFFFFFF)
            else:
                total += mix(53, product & 0xFFFFFFFF)
        hashes[x] = mix(h, total & 0xFFFFFFFF)
        if p.combine[0, x] != DIFFERENCE:
            for t in range(1, n):
                u = t
                while u > 0 and _before(hashes, terms, x, u, u - 1):
                    for f in range(2):
                        terms[x, u, f], terms[x, u - 1, f] = terms[x, u - 1, f], terms[x, u, f]
                    u -= 1
        same[x] = x
        place = count
        for j in range(count):
            y = order[j]
            if hashes[y] == hashes[x]:
                same[x] = y
                place = -1
                break
            if height[x] < height[y] or (height[x] == height[y] and hashes[x] < hashes[y]):
                place = min(place, j)
        if place >= 0:
            for j in range(count, place, -1):
                order[j] = order[j - 1]
            order[place] = x
            count += 1
    return count


@jit
def _before(hashes, terms, x, t, u):
    """Whether term t of x sorts before term u (by the hashes of their factors)."""
    a, b = hashes[terms[x, t, 0]], hashes[terms[x, u, 0]]
    if a != b or terms[x, t, 1] < 0:
        return a < b
    return hashes[terms[x, t, 1]] < hashes[terms[x, u, 1]]


@jit
def template_residue(p, published, modulus):
    """SHA-256 of the solution template of a batch of one, modulo `modulus` (below 2**31). `published`: in the order of
    construction, as written."""
    text = np.empty(MAX_TEXT, dtype=np.uint8)
    if published:
        n = write_template(
            p.topo[0], p.scalars[0, N_NEEDED], p.n_terms[0], p.terms[0], p.combine[0], p.constant_op[0], text
        )
    else:
        order = np.zeros(SLOTS, dtype=np.int32)
        terms = np.full((SLOTS, 4, 2), -1, dtype=np.int32)
        count = _canonical(p, order, terms)
        n = write_template(order, count, p.n_terms[0], terms, p.combine[0], p.constant_op[0], text)
    return sha256_mod(text, n, modulus)


@jit
def _name_hash(p, x):
    owner, thing = name_tokens(p, x)
    return mix(mix(61, int(owner)), int(thing))


@jit
def problem_bin(p):
    """Bin of the whole problem of a batch of one, whatever the order of sentences and of the operands of a sum."""
    total = 0
    for i in range(p.scalars[0, N_SENTENCES]):
        x = p.sentences[0, i]
        h = mix(mix(_name_hash(p, x), int(p.constant_op[0, x])), int(p.constant[0, x]) + 1)
        h = mix(h, int(p.combine[0, x]))
        operands = 0
        for t in range(p.n_terms[0, x]):
            operand = _name_hash(p, p.terms[0, x, t, 0])
            if p.combine[0, x] == DIFFERENCE:
                operand = mix(operand, t)
            operands += mix(71, operand)
        total += mix(h, operands & 0xFFFFFFFF)
    return mix(mix(83, total & 0xFFFFFFFF), _name_hash(p, p.scalars[0, QUERY])) % BINS
