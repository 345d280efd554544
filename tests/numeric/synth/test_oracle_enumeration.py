"""The oracle's distribution after every prefix is that of a second generator, written from the description alone.

It knows a problem by its JSON record and writes texts, in plain Python, with every choice followed to its end. What the
oracle says after every prefix of every solution of a few small problems is compared with the sum over the ways to get
there. Nothing is drawn, so the comparison is exact.
"""

from collections import defaultdict

import pytest

from synth.dataset import Source
from synth.oracle.next_token import EXACT, Oracle
from synth.problem.records import to_record
from synth.spec import Spec
from synth.world import vocabulary as W

SMALL = {"ops": 3, "edges": 4, "max_width": 2, "max_depth": 3, "names": 4, "modulus": 5, "letters": 4}
ORDERED = {"letter_order": "ordered"}
MISSING = {**ORDERED, "ops": 5, "edges": 5, "letters": 7, "missing_premise": 1.0}
LONGER = {**ORDERED, "shortest": False, "letters": 8}
WORLDS = {
    "letters": {},
    "retry": {"retry_rate": 0.3, "letters": 3},
    "ordered retry": {**ORDERED, "retry_rate": 0.3, "edges": 5},
    "weak": {**ORDERED, "ops": 5, "edges": 6, "letters": 7, "retry_rate": 0.4, "retry_kind": "weak"},
    "miss": {**ORDERED, "retry_rate": 0.3, "retry_kind": "miss"},
    "slip": {**ORDERED, "modulus": 3, "retry_rate": 0.3, "retry_kind": "slip", "uncorrected": 0.4},
    "slip letters": {"modulus": 2, "retry_rate": 0.3, "retry_kind": "slip"},
    "standing slips": {"modulus": 2, "retry_rate": 0.3, "retry_kind": "slip", "uncorrected": 1.0},
    "longer": LONGER,
    "longer retry": {**LONGER, "retry_rate": 0.2},
    "longer weak": {**LONGER, "ops": 4, "edges": 5, "retry_rate": 0.2, "retry_kind": "weak"},
    "longer miss": {**LONGER, "retry_rate": 0.2, "retry_kind": "miss"},
    "longer, few letters": {**LONGER, "letters": 4},
    "missing": {**MISSING, "letters": 5, "letter_order": "random"},
    "missing retry": {**MISSING, "retry_rate": 0.3},
    "missing weak": {**MISSING, "retry_rate": 0.3, "retry_kind": "weak"},
    "missing miss": {**MISSING, "retry_rate": 0.3, "retry_kind": "miss"},
    "missing slip": {**MISSING, "modulus": 2, "retry_rate": 0.3, "retry_kind": "slip", "uncorrected": 0.5},
    "missing longer": {**LONGER, "missing_premise": 1.0, "retry_rate": 0.2},
    "large modulus": {"modulus": 997, "retry_rate": 0.2},
    "question asked again": {**ORDERED, "reask": True, "missing_premise": 0.5, "retry_rate": 0.2, "letters": 10},
}  # fmt: skip
MOST_SLIPS = 2  # in one solution; what comes after more is not followed
LARGEST = 500  # solutions of one problem
ENOUGH = 12  # problems


class TooMany(Exception):
    """A problem has more solutions than the test looks at."""


class Enumeration:
    """Every solution of one problem under a spec, from its record: `found` is [(text, ended, probability)].

    ended: the whole response is there; False where the enumeration gave up.
    """

    def __init__(self, record: dict, spec: Spec, letters: str):
        self.spec, self.letters, self.query = spec, letters, record["query"]
        self.parameters = {q["name"]: q for q in record["parameters"]}
        self.needs = {
            name: {factor for term in q["terms"] for factor in term} | ({name} if not q.get("given", True) else set())
            for name, q in self.parameters.items()
        }
        derivable: set[str] = set()
        while more := {name for name, needs in self.needs.items() if needs <= derivable} - derivable:
            derivable |= more
        asked, at = {self.query}, [self.query]
        while at:
            fresh = self.needs[at.pop()] - asked
            asked |= fresh
            at += fresh
        self.needed = asked & derivable
        self.cost = {name: self._cost(q) for name, q in self.parameters.items()}
        self.found: list[tuple[str, bool, float]] = []
        self._sentence("", {}, frozenset(), 0, 1.0)

    @staticmethod
    def _cost(q: dict) -> int:
        return max(1, len(q["terms"]) - 1 + sum(len(t) > 1 for t in q["terms"]) + (q["combine_constant"] is not None))

    def _end(self, text: str, ended: bool, p: float) -> None:
        self.found.append((text, ended, p))
        if len(self.found) > LARGEST:
            raise TooMany

    def _choices(self, known: dict) -> list[str]:
        ready = [n for n, needs in self.needs.items() if n not in known and needs <= known.keys()]
        if self.spec.shortest:
            return [n for n in ready if n in self.needed]
        spare = len(self.letters) - sum(self.cost[n] for n in known.keys() | self.needed)
        return [n for n in ready if n in self.needed or self.cost[n] <= spare]

    def _sentence(self, text: str, known: dict, used: frozenset, slips: int, p: float) -> None:
        """known: name -> (letter, value as written); used: letters that have a meaning."""
        if self.query in known:
            return self._end(f"{text}<answer> {known[self.query][1]}", True, p)
        choices = self._choices(known)
        if not choices:
            return self._end(f"{text} Undetermined.<answer> Undetermined", True, p)
        for name in choices:
            self._mistakes(text, known, used, slips, name, frozenset(), p / len(choices))

    def _mistakes(self, text: str, known: dict, used: frozenset, slips: int, name: str, tried: frozenset, p: float):
        spec = self.spec
        wrong = [n for n in self.parameters if n not in known and n not in tried and n != name]
        if spec.retry_kind == "retry":
            wrong = [n for n in wrong if not self.needs[n] <= known.keys()]
        elif spec.retry_kind == "weak":
            wrong = [n for n in wrong if n in self.needed]
        if spec.retry_kind == "slip" or spec.retry_rate == 0.0 or not wrong:
            return self._define(text, known, used, slips, name, p)
        for other in wrong:
            share = p * spec.retry_rate / len(wrong)
            self._mistakes(f"{text} Define {other} as BACK.", known, used, slips, name, tried | {other}, share)
        self._define(text, known, used, slips, name, p * (1.0 - spec.retry_rate))

    def _fresh(self, used: frozenset) -> list[tuple[str, float]]:
        free = [c for c in self.letters if c not in used]
        return [(c, 1.0 / len(free)) for c in free] if self.spec.letter_order == "random" else [(free[0], 1.0)]

    def _define(self, text: str, known: dict, used: frozenset, slips: int, name: str, p: float) -> None:
        for v, share in self._fresh(used):
            before = (text, used)
            self._clauses(f"{text} Define {name} as {v};", name, v, known, used | {v}, slips, self._folds(name), [],
                          p * share, before)  # fmt: skip

    def _folds(self, name: str) -> list[tuple]:
        """The clauses of a step as (left, operation, right), operands names or ("t", i): the i-th clause before."""
        q, done = self.parameters[name], []

        def term(factors):
            if len(factors) == 1:
                return factors[0]
            done.append((factors[0], "*", factors[1]))
            return ("t", len(done) - 1)

        total = None
        for i, factors in enumerate(q["terms"]):
            other = term(factors)
            if i == 0:
                total = other
            else:
                done.append((total, "-" if q["combine"] == "difference" else "+", other))
                total = ("t", len(done) - 1)
        if q["combine_constant"] is not None:
            done.append((q["constant"], "+" if q["combine_constant"] == "add" else "*", total))
        elif not done:
            done.append((q["constant"] or 0, None, None) if total is None else (total, None, None))
        return done

    def _clauses(self, text, name, v, known, used, slips, folds, made, p, before) -> None:
        """made: (letter, value) of the clauses written."""
        left, operation, right = folds[len(made)]
        last = len(made) == len(folds) - 1

        def operand(x):
            if isinstance(x, int):
                return str(x), x
            return made[x[1]] if isinstance(x, tuple) else known[x]

        for letter, share in [(v, 1.0)] if last else self._fresh(used):
            a, value = operand(left)
            clause = f"{' so' if last else ''} {letter} ="
            if operation is None:
                clause += "" if isinstance(left, int) else f" {a} ="
            else:
                b, other = operand(right)
                clause += f" {a} {operation} {b} = {value} {operation} {other} ="
                value = {"+": value + other, "-": value - other, "*": value * other}[operation] % self.spec.modulus
            if last:
                return self._result(text + clause, name, v, value, known, used, slips, p, before)
            self._clauses(f"{text}{clause} {value};", name, v, known, used | {letter}, slips, folds,
                          [*made, (letter, value)], p * share, before)  # fmt: skip

    def _result(self, text, name, v, value, known, used, slips, p, before) -> None:
        spec = self.spec
        rate = spec.retry_rate if spec.retry_kind == "slip" else 0.0
        self._sentence(f"{text} {value}.", {**known, name: (v, value)}, used, slips, p * (1.0 - rate))
        for wrong in range(spec.modulus if rate else 0):
            if wrong != value:
                share = p * rate / (spec.modulus - 1)
                if slips == MOST_SLIPS:
                    self._end(f"{text} {wrong}", False, share)
                    continue
                if spec.uncorrected > 0.0:
                    stands = {**known, name: (v, wrong)}
                    self._sentence(f"{text} {wrong}.", stands, used, slips + 1, share * spec.uncorrected)
                if spec.uncorrected < 1.0:
                    taken_back = (f"{text} {wrong} BACK.", known, before[1], slips + 1)
                    self._sentence(*taken_back, share * (1.0 - spec.uncorrected))


def in_tokens(world: W.World, text: str, ended: bool) -> tuple[int, ...]:
    steps, _, answer = text.partition("<answer>")
    return (*world.encode(steps), *((W.ANSWER, *world.encode(answer), W.EOS) if ended else ()))


@pytest.mark.parametrize("name", WORLDS)
def test_every_prefix_of_every_solution(name):
    spec = Spec(**{**SMALL, **WORLDS[name]})
    source, oracle = Source(spec, seed=5, split="all"), Oracle(spec)
    letters = "".join(t.strip() for t in source.world.vocabulary[source.world.first_letter : source.world.first_name])
    compared = branching = 0
    for index in range(500):
        if compared == ENOUGH:
            break
        problem = source.problems([index])
        try:
            found = Enumeration(to_record(problem, source.world, "pq"), spec, letters).found
        except TooMany:
            continue
        assert sum(p for *_, p in found) == pytest.approx(1.0)
        after: dict[tuple, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        rows = [in_tokens(source.world, text, ended) for text, ended, _ in found]
        given_up = {row for row, (_, ended, _) in zip(rows, found, strict=True) if not ended}
        for row, (_, _, p) in zip(rows, found, strict=True):
            for t, token in enumerate(row):
                after[row[:t]][token] += p
        problems = problem.repeat(len(rows))
        next_token = oracle(problems, rows)
        seen = set()
        for i, row in enumerate(rows):
            for t in range(len(row)):
                if row[:t] in seen or row[:t] in given_up:
                    continue
                seen.add(row[:t])
                j = next_token.rows[i] + t
                here = slice(next_token.starts[j], next_token.starts[j + 1])
                said = dict(zip(next_token.ids[here].tolist(), next_token.probs[here].tolist(), strict=True))
                total = sum(after[row[:t]].values())
                wanted = {token: p / total for token, p in after[row[:t]].items()}
                assert next_token.status[j] == EXACT
                assert said.keys() == wanted.keys(), source.world.decode(row[:t])
                assert all(abs(p - wanted[token]) < 1e-12 for token, p in said.items()), source.world.decode(row[:t])
                branching += len(wanted) > 1
        compared += any(len(tokens) > 1 for tokens in after.values())
    assert compared == ENOUGH and branching >= 20
