"""The exact oracle: the generator's distribution of the next token after any prefix of a solution (ours).

    oracle = Oracle(spec)
    probs = oracle(problems, responses)        # problems N, responses: N token sequences after `<solution>`
    probs.entropy(), probs.logp(tokens), probs.log_probs(world.size), probs.status

Every choice that the problem's text does not determine has a known distribution: the next parameter and the mistakes
before it (`synth.write.mistakes`), a new letter uniform over the unused ones, a slip's wrong number uniform
over the others. So the next token is determined, or has a distribution of a few dozen entries, kept sparse.

A prefix that the generator cannot produce (a student's own mistake, garbage) is answered by a policy:

    continue   believe what is written: a wrong number is the letter's value from here on, a wrong operand the operand;
               where nothing is determined any more (an operand that was never defined) there is no distribution
    correct    as continue, but an impossible step is taken back at once, in worlds that take mistakes back
    abstain    no distribution from the first impossible token on

`status` says for every position which of these it is, so a loss can mask what it does not want.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synth.documents import Documents
from synth.kernel.jit import jit
from synth.oracle.solution_state import POSSIBLE, OracleSettings, consume, emit, restart, state_buffer, to_take_back
from synth.problem.arrays import Integers, Problems, one
from synth.spec import Spec
from synth.world import vocabulary as vocab
from synth.world.vocabulary import CONCISE, World
from synth.write.mistakes import KINDS

POLICIES = ("continue", "correct", "abstain")
STATUSES = ("exact", "continued", "corrected", "abstained")
EXACT, CONTINUED, CORRECTED, ABSTAINED = range(4)


class NextTokenProbs(NamedTuple):
    """Distributions of the next token at P positions: one before every token of N responses, and one after its last.
    Those of response i are rows[i]:rows[i+1]; the entries of position j are starts[j]:starts[j+1]."""

    ids: np.ndarray  # int32[entries] tokens
    probs: np.ndarray  # float64[entries] their probabilities; they sum to one at every position that has any
    starts: np.ndarray  # int64[P+1]
    status: np.ndarray  # int8[P] index into STATUSES
    rows: np.ndarray  # int64[N+1]

    def _positions(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.status)), np.diff(self.starts))

    def at(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, probabilities) of one position."""
        entries = slice(self.starts[position], self.starts[position + 1])
        return self.ids[entries], self.probs[entries]

    def entropy(self) -> np.ndarray:
        """Entropy of the next token at every position, nats, float64[P]; 0 where there is no distribution."""
        return np.bincount(self._positions(), -self.probs * np.log(self.probs), minlength=len(self.status))

    def logp(self, tokens: np.ndarray) -> np.ndarray:
        """log P(tokens[j] at position j), float64[P]; -inf where it cannot come, or nothing is determined."""
        j = self._positions()
        hit = self.ids == np.asarray(tokens)[j]
        with np.errstate(divide="ignore"):
            return np.log(np.bincount(j[hit], self.probs[hit], minlength=len(self.status)))

    def log_probs(self, vocab_size: int, positions: slice = slice(None)) -> np.ndarray:
        """Log-probabilities over a vocabulary, float32[P, vocab_size]; a row of -inf where there is no distribution."""
        first, last, _ = positions.indices(len(self.status))
        out = np.full((last - first, vocab_size), -np.inf, dtype=np.float32)
        entries = slice(self.starts[first], self.starts[last])
        j = np.repeat(np.arange(last - first), np.diff(self.starts[first : last + 1]))
        out[j, self.ids[entries]] = np.log(self.probs[entries])
        return out

    def kl(self, logq: np.ndarray) -> np.ndarray:
        """KL(oracle || model) in nats at every position, float64[P], for a model's log-probabilities [P, size]."""
        j = self._positions()
        terms = self.probs * (np.log(self.probs) - np.asarray(logq)[j, self.ids].astype(np.float64))
        return np.bincount(j, terms, minlength=len(self.status))


@jit
def _with_capacity(array, n):
    """`array`, or a copy of twice its size when n entries do not fit."""
    if n <= array.shape[0]:
        return array
    larger = np.zeros(max(n, 2 * array.shape[0]), dtype=array.dtype)
    larger[: array.shape[0]] = array
    return larger


@jit
def _walk(problems, tokens, offsets, shortest, ids, settings, abstain, state, starts, status):
    """Walk through every response i, which is as short as it can be where shortest[i]; fills `starts` and `status`.
    Returns (token ids, their probabilities)."""
    entries = np.zeros(4 * status.shape[0] + 1024, dtype=np.int32)
    probs = np.zeros(entries.shape[0])
    total, j = 0, 0
    for i in range(offsets.shape[0] - 1):
        p = one(problems, i)
        restart(state, p, settings, shortest[i])
        for t in range(offsets[i], offsets[i + 1] + 1):
            n = emit(state, p, ids, settings)
            kept = 0 if abstain and state.scalars[POSSIBLE] == 0 else n
            if kept == 0:
                status[j] = ABSTAINED
            elif to_take_back(state, settings):
                status[j] = CORRECTED
            else:
                status[j] = EXACT if state.scalars[POSSIBLE] else CONTINUED
            entries, probs = _with_capacity(entries, total + kept), _with_capacity(probs, total + kept)
            entries[total : total + kept] = state.ids[:kept]
            probs[total : total + kept] = state.token_probs[:kept]
            total += kept
            j += 1
            starts[j] = total
            if t < offsets[i + 1]:
                consume(state, p, ids, settings, tokens[t], n)
    return entries[:total].copy(), probs[:total].copy()


class Oracle:
    """The generator's own distribution of solutions, for the settings of a spec. world: of the problems, where it is
    not the spec's own (a record's, `synth.problem.records.world_of`). Raises ValueError when the policy is unknown, the
    spec's solutions have no closed form (published order), or the world's sentences have no end. Exact up to documents
    of 16,384 tokens, which make no more slips (`synth.write.solution`): only a slip rate above 0.9 gets there."""

    def __init__(self, spec: Spec, policy: str = "continue", world: World | None = None) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy={policy!r} is unknown; accepted: {', '.join(POLICIES)}")
        if spec.solution_order != "uniform":
            raise ValueError(f"solution_order={spec.solution_order!r} has no closed form; accepted: uniform")
        self.spec, self.world, self.policy = spec, world or spec.load_world(), policy
        if self.world.modulus != spec.modulus or self.world.n_letters < spec.letters:
            raise ValueError(
                f"modulus={spec.modulus}, letters={spec.letters} do not fit the world given; accepted: "
                f"modulus={self.world.modulus}, at most {self.world.n_letters} letters"
            )
        if self.world.phrases[vocab.STOP] < 0:
            raise ValueError(
                f"world={self.world.name!r} has no oracle, since its phrase `stop` is empty; accepted: a world that "
                "writes the end of a sentence"
            )
        self._settings = OracleSettings(
            KINDS.index(spec.retry_kind), float(spec.retry_rate), float(spec.uncorrected), spec.letters,
            spec.letter_order == "random", policy == "correct",
        )  # fmt: skip
        self._state = state_buffer(self.world.n_letters, self.world.modulus)

    def __call__(
        self, problems: Problems, responses: Sequence[Integers], shortest: np.ndarray | None = None
    ) -> NextTokenProbs:
        """The distribution of every next token of responses[i] (token ids after `<solution>`) to problem i. shortest:
        bool[N], which solutions have no unneeded steps; default all as the spec says."""
        offsets = np.cumsum([0, *(len(r) for r in responses)], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(r, dtype=np.int64) for r in responses)])
        return self.walk(problems, flat, offsets, shortest)

    def walk(
        self, problems: Problems, tokens: np.ndarray, offsets: np.ndarray, shortest: np.ndarray | None = None
    ) -> NextTokenProbs:
        """The same for responses laid end to end: int64 tokens[offsets[i]:offsets[i+1]]."""
        n, abstain = len(offsets) - 1, self.policy == "abstain"
        if n != len(problems.scalars):
            raise ValueError(f"{n} responses for {len(problems.scalars)} problems; accepted: one for each")
        starts, status = np.zeros(len(tokens) + n + 1, dtype=np.int64), np.zeros(len(tokens) + n, dtype=np.int8)
        shortest = np.full(n, self.spec.shortest) if shortest is None else shortest
        ids, probs = _walk(
            problems, tokens, offsets, shortest, self.world.ids, self._settings, abstain, self._state, starts, status
        )
        return NextTokenProbs(ids, probs, starts, status, offsets + np.arange(len(offsets)))

    def documents(self, documents: Documents) -> NextTokenProbs:
        """The distributions along the solutions of documents; where a context asks for `<concise>`, of the shortest."""
        rows = range(len(documents))
        shortest = np.array([self.spec.shortest or CONCISE in documents.prompt_tokens(i) for i in rows], dtype=bool)
        return self(documents.problems, [documents.response(i) for i in rows], shortest)

    def entropy(self, documents: Documents) -> np.ndarray:
        """Sum of the entropies at the branching points of each document, nats, float64[N]. Its mean is the entropy of a
        solution given its problem, which is also the mean negative log-probability; this sum varies less."""
        probs = self.documents(documents)
        return np.add.reduceat(probs.entropy(), probs.rows[:-1])
