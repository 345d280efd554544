"""An independent judge and an independent writer of solutions, on English text and JSON records only.

`is_right` compares polynomials over the integers, `write` draws any right solution: any topological order, any letters,
any order and folding of operands. Nothing of `synth.judge.checker` and the kernels under it is used. Slow, and short.
"""

import re

LETTER, NUMBER = "[a-zA-Z]{1,2}", r"\d+"
OPERAND = f"(?:{LETTER}|{NUMBER})"
CLAUSE = f"(?:{NUMBER}|{LETTER} = {NUMBER}|{OPERAND} [-+*] {OPERAND} = {NUMBER} [-+*] {NUMBER} = {NUMBER})"
BACK = re.compile(rf"Define (.+?) as (?:BACK|({LETTER})(?:; {LETTER} = {CLAUSE})*; so (?:\2) = {CLAUSE} BACK)")
SIGNS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def _add(a: dict, b: dict, sign: int = 1) -> dict:
    total = dict(a)
    for monomial, coefficient in b.items():
        total[monomial] = total.get(monomial, 0) + sign * coefficient
    return {m: c for m, c in total.items() if c}


def _multiply(a: dict, b: dict) -> dict:
    total: dict = {}
    for m, c in a.items():
        for n, d in b.items():
            total = _add(total, {tuple(sorted(m + n)): c * d})
    return total


def expected(parameter: dict) -> dict:
    """The problem's expression of a parameter as a polynomial: sorted tuple of names -> coefficient."""
    total: dict = {}
    for t, term in enumerate(parameter["terms"]):
        total = _add(total, {tuple(sorted(term)): 1}, -1 if parameter["combine"] == "difference" and t == 1 else 1)
    if parameter["constant"] is None:
        return total
    constant = {(): parameter["constant"]} if parameter["constant"] else {}
    return _multiply(total, constant) if parameter["combine_constant"] == "mul" else _add(total, constant)


def is_right(record: dict, text: str, answer: int | None) -> bool:
    """Whether a solution is right: every step by itself, the query last, the answer.

    Where a premise is missing, the last sentence is `Undetermined`, after all that is needed, and the answer is None.
    """
    parameters = {p["name"]: p for p in record["parameters"]}
    polynomial: dict[str, dict] = {}
    value: dict[str, int] = {}
    defined: list[str] = []
    if not (text.startswith(" ") and text.endswith(".")) or answer != record["answer"]:
        return False
    sentences = text[1:-1].split(". ")
    complete = record.get("missing") is None
    if not complete and sentences.pop() != "Undetermined":
        return False
    for position, sentence in enumerate(sentences):
        back = BACK.fullmatch(sentence)
        if back:
            if back[1] not in parameters or (complete and position == len(sentences) - 1):
                return False
            continue
        head = re.fullmatch(r"Define (.+?) as ([a-zA-Z]{1,2})((?:; .+?)*?); so (.+)", sentence)
        if not head or head[1] not in parameters or head[1] in defined:
            return False
        parameter = parameters[head[1]]
        if not parameter.get("given", True):
            return False
        if any(factor not in defined for term in parameter["terms"] for factor in term):
            return False
        clauses = [*head[3].split("; ")[1:], head[4]]
        unused = set()
        for clause in clauses:
            parts = clause.split(" = ")
            if parts[0] in value or not re.fullmatch("[a-zA-Z]{1,2}", parts[0]) or not re.fullmatch(r"\d+", parts[-1]):
                return False
            result = int(parts[-1])
            if len(parts) == 2:
                form, true = {(): result} if result else {}, result
            else:
                letters, numbers = parts[1].split(" "), parts[2].split(" ")
                operands = letters[::2]
                if not all(o.isdecimal() or o in value for o in operands):
                    return False
                if (len(letters), len(parts)) not in ((1, 3), (3, 4)):
                    return False
                known = [int(o) if o.isdecimal() else value[o] for o in operands]
                forms = [({(): int(o)} if int(o) else {}) if o.isdecimal() else polynomial[o] for o in operands]
                unused -= set(operands)
                if len(operands) == 1:
                    if operands[0].isdecimal():
                        return False
                    form, true = forms[0], known[0]
                else:
                    sign = letters[1]
                    if sign not in SIGNS or numbers != [str(known[0]), sign, str(known[1])]:
                        return False
                    true = SIGNS[sign](*known) % record["modulus"]
                    form = _multiply(*forms) if sign == "*" else _add(*forms, 1 if sign == "+" else -1)
            if result != true:
                return False
            value[parts[0]], polynomial[parts[0]] = result, form
            unused.add(parts[0])
        if unused != {head[2]} or form != expected(parameter) or result != parameter["value"]:
            return False
        polynomial[head[2]] = {(head[1],): 1}
        defined.append(head[1])
        if head[1] == record["query"] and position < len(sentences) - 1:
            return False
    if not complete:
        return {p["name"] for p in record["parameters"] if p["needed"]} <= set(defined)
    return bool(defined) and defined[-1] == record["query"]


class Writer:
    """Writes right solutions of one record; `random` is a numpy Generator."""

    def __init__(self, record: dict, letters: list[str], random) -> None:
        self.record, self.random, self.modulus = record, random, record["modulus"]
        self.parameters = {p["name"]: p for p in record["parameters"]}
        self.letters = [str(x) for x in random.permutation(letters)]
        self.letter: dict[str, str] = {}

    def steps(self, unneeded: int = 0) -> list[tuple[str, str]]:
        """(name, sentence without its full stop) of a random topological order, with up to `unneeded` more steps."""
        needed = {p["name"] for p in self.parameters.values() if p["needed"]}
        order: list[str] = []
        given = [n for n, p in self.parameters.items() if p.get("given", True)]
        while needed - set(order):
            ready = [n for n in given if n not in order and self._factors(n) <= set(order)]
            extra = [n for n in ready if n not in needed]
            ready = [n for n in ready if n in needed]
            if extra and unneeded > 0 and self.random.random() < 0.5:
                ready, unneeded = extra, unneeded - 1
            order.append(ready[self.random.integers(len(ready))])
        return [(name, self.sentence(name)) for name in order]

    def _factors(self, name: str) -> set[str]:
        return {factor for term in self.parameters[name]["terms"] for factor in term}

    def sentence(self, name: str) -> str:
        """One step: the parameter's expression as a random tree, its clauses in the order of evaluation."""
        p = self.parameters[name]
        tree = self._tree(p)
        target = self.letters.pop()
        clauses: list[str] = []
        if isinstance(tree, tuple):
            self._write(tree, target, clauses)
        elif isinstance(tree, int):
            clauses.append(f"{target} = {tree}")
        else:
            clauses.append(f"{target} = {self.letter[tree]} = {self.parameters[tree]['value']}")
        self.letter[name] = target
        return f" Define {name} as {target}" + "".join(f"; {c}" for c in clauses[:-1]) + f"; so {clauses[-1]}"

    def _tree(self, p: dict):
        terms = [t[0] if len(t) == 1 else self._swap("*", *t) for t in p["terms"]]
        if not terms:
            return p["constant"] or 0
        added = p["combine_constant"] == "add"
        if p["combine"] == "difference":
            x, y = terms
            if added and self.random.random() < 0.5:
                return ("-", self._swap("+", p["constant"], x), y)
            tree = ("-", x, y)
            return self._swap("+", p["constant"], tree) if added else self._scaled(p, tree)
        if added:
            terms.append(p["constant"])
        while len(terms) > 1:
            a, b = (terms.pop(self.random.integers(len(terms))) for _ in range(2))
            if isinstance(a, int) and isinstance(b, int):
                terms += [a, b]
            else:
                terms.append(("+", a, b))
        return self._scaled(p, terms[0])

    def _scaled(self, p: dict, tree):
        return self._swap("*", p["constant"], tree) if p["combine_constant"] == "mul" else tree

    def _swap(self, sign: str, a, b):
        return (sign, a, b) if self.random.random() < 0.5 else (sign, b, a)

    def _write(self, tree, target: str, clauses: list[str]) -> int:
        sides = []
        for side in tree[1:]:
            if isinstance(side, int):
                sides.append((str(side), side))
            elif isinstance(side, str):
                sides.append((self.letter[side], self.parameters[side]["value"]))
            else:
                letter = self.letters.pop()
                sides.append((letter, self._write(side, letter, clauses)))
        (a, x), (b, y) = sides
        result = SIGNS[tree[0]](x, y) % self.modulus
        clauses.append(f"{target} = {a} {tree[0]} {b} = {x} {tree[0]} {y} = {result}")
        return result
