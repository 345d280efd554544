"""The steps of a plain text: where each begins, its equations in any usual form, and both as sentences of the world.

An equation is `LETTER = letters = numbers = ... = RESULT`; several for one letter are read as one. Expressions are read
by Python's own parser, from letters, whole numbers, +, -, * and brackets alone; one with several operations becomes
several clauses. Variables that are not letters of the world are replaced by unused letters.
"""

import ast
import re
from itertools import chain

import numpy as np

from synth.judge.checker import UNDETERMINED
from synth.problem.arrays import Problems
from synth.world import vocabulary as vocab
from synth.world.vocabulary import World, letter_names

_OPERATORS: dict[type[ast.operator], tuple[str, int]] = {
    ast.Add: ("+", vocab.PLUS), ast.Sub: ("-", vocab.MINUS), ast.Mult: ("*", vocab.TIMES),
}  # fmt: skip
_ALLOWED = (ast.BinOp, ast.Name, ast.Load, ast.Constant, *_OPERATORS)
_NAME = r"[^\W\d]\w*"
_OPERAND = rf"\(*[ \t]*(?:-[ \t]*)?(?:\d+(?!\w|\.\d)|{_NAME})[ \t]*\)*"
_SIDE = rf"{_OPERAND}(?:[ \t]*[-+*][ \t]*{_OPERAND})*"
_EQUATION = re.compile(rf"(?<!\w)(?:{_SIDE})?(?:\s*=\s*{_SIDE})+")
LONGEST_SIDE = 300


def _tree(side: str) -> ast.expr | None:
    """An expression as a tree; None for what is none."""
    try:
        found = ast.parse(side.strip(), mode="eval").body if len(side) <= LONGEST_SIDE else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found if found is not None and all(isinstance(n, _ALLOWED) for n in ast.walk(found)) else None


def _apply(operator: type[ast.operator], a: int, b: int) -> int:
    return a + b if operator is ast.Add else a - b if operator is ast.Sub else a * b


def _number(side: str) -> int | None:
    return int(side) if re.fullmatch(r"-?\s*\d{1,9}", side := side.strip().replace(" ", "")) else None


def _letters(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _value(tree: ast.expr, modulus: int) -> int:
    """The value of an expression of numbers modulo the modulus."""
    if isinstance(tree, ast.BinOp):
        return _apply(type(tree.op), _value(tree.left, modulus), _value(tree.right, modulus)) % modulus
    return tree.value % modulus if isinstance(tree, ast.Constant) and type(tree.value) is int else 0


class Steps:
    """Reads the steps of one text for one problem; `read` may be called once."""

    def __init__(self, problem: Problems, world: World) -> None:
        self.world, self.phrase = world, world.phrase
        slots = np.flatnonzero(problem.possible()[0] & (problem.exists[0] > 0))
        names = sorted((world.name_of(*problem.slot_names()[0, s]) for s in slots), key=len, reverse=True)
        self.names = {" ".join(name.casefold().split()): name for name in names}
        known = "|".join(r"\s+".join(map(re.escape, name.split())) for name in names)
        self._known = re.compile(rf"(?i:(?<!\w)(?:{known})(?!\w))")
        begin, joint, self.back, self.word = (
            self.phrase(role).strip() for role in (vocab.DEFINE, vocab.AS, vocab.BACK, vocab.UNDETERMINED)
        )
        # A name that this problem lacks still counts if it is capitalised as the problem's names are; "define each
        # number's letter as" is prose.
        capital = all(part.strip()[:1].isupper() for name in names for part in name.split(world.possessive))
        first = "[A-Z]" if capital else ""
        part = rf"{first}[^.;:\n=]{{1,60}}?"
        other = rf"{part}{re.escape(world.possessive)}\s+{part}" if begin and joint else r"(?!)"
        begin = rf"(?i:{re.escape(begin)})\s*:?\s+(?i:the\s+number\s+of\s+(?:each\s+)?)?" if begin else ""
        joint = rf"\s+(?i:{re.escape(joint)})\s+" if joint else r"\s+"
        back = re.escape(self.back) if self.back else r"(?!)"
        self._head = re.compile(rf"(?<!\w){begin}(?P<name>(?i:{known})|{other}){joint}(?P<letter>{back}(?!\w)|{_NAME})")
        self.value: dict[str, int] = {}  # of each letter, as the text says
        self.letter: dict[str, str] = {}  # the world's, for each letter of the text
        self.letter_of: dict[str, str] = {}  # the text's letter, for each parameter that it defines
        self.clauses: list[str] = []

    def heads(self, text: str) -> list[re.Match[str]]:
        """Where steps begin."""
        return list(self._head.finditer(text))

    def undetermined_in(self, words: str) -> int | None:
        """UNDETERMINED when the words say that the query is."""
        return UNDETERMINED if self.word and self.word.casefold() in words.casefold() else None

    def read(self, text: str, answer: int | None) -> str:
        """The steps as sentences, and `Undetermined.` where the text or the answer says so."""
        heads = self.heads(text)
        self._choose_letters(heads, text)
        ends = [*(h.start() for h in heads[1:]), len(text)]
        says = re.compile(rf"(?<!\w){re.escape(self.word)}(?!\w)" if self.word else r"(?!)")
        undetermined = self.phrase(vocab.UNDETERMINED) + self.phrase(vocab.STOP)
        sentences = [undetermined] if says.search(text[: heads[0].start()] if heads else text) else []
        for head, end in zip(heads, ends, strict=bool(heads)):
            body = text[head.end() : end]
            sentences.append(self._sentence(head, body))
            if says.search(body):
                sentences.append(undetermined)
        if answer == UNDETERMINED and undetermined not in sentences:
            sentences.append(undetermined)
        return "".join(sentences)

    def _choose_letters(self, heads: list[re.Match[str]], text: str) -> None:
        """Letters of the world stay, others get free ones; those that first occur inside equations get theirs there."""
        self.own = set(letter_names(self.world.n_letters))
        seen = set(re.findall(_NAME, text))
        self.free = iter(name for name in letter_names(self.world.n_letters) if name not in seen)
        for head in heads:
            self._name(head["letter"])

    def _name(self, letter: str) -> str:
        if letter not in self.letter:
            self.letter[letter] = letter if letter in self.own else next(self.free, letter)
        return self.letter[letter]

    def _sentence(self, head: re.Match[str], body: str) -> str:
        """One step as a sentence of the world; without equations that can be read it is malformed."""
        name = " ".join(head["name"].split())
        name = self.names.get(name.casefold(), name)
        begin = f"{self.phrase(vocab.DEFINE)} {name}{self.phrase(vocab.AS)}"
        stop, letter = self.phrase(vocab.STOP), head["letter"]
        if letter == self.back:
            return f"{begin} {self.back}{stop}"
        self.letter_of[name] = letter
        self.clauses = []
        own = self._read_equations(letter, self._with_letters(body))
        if own is None:
            return f"{begin} {self._name(letter)}{stop}"
        parts = [
            *(self.phrase(vocab.SEMICOLON) + clause for clause in self.clauses),
            self.phrase(vocab.SO) + own,
        ]
        taken_back = self.back and re.search(rf"(?<!\w){re.escape(self.back)}(?!\w)", body)
        return f"{begin} {self._name(letter)}{''.join(parts)}{f' {self.back}' if taken_back else ''}{stop}"

    def _with_letters(self, body: str) -> str:
        """The text behind a head with parameter names replaced by their letters, operator words by signs."""
        for role, sign in ((vocab.IS, "="), *((role, sign) for sign, role in _OPERATORS.values())):
            if (word := self.phrase(role).strip()) and word != sign:
                body = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", sign, body)

        def letter(match: re.Match[str]) -> str:
            return self.letter_of.get(self.names[" ".join(match[0].casefold().split())], " ")

        return re.sub(r"(?<![\w.])(\d+)[ \t]*(?=[(]|[^\W\d_])", r"\1 * ", self._known.sub(letter, body))

    def _read_equations(self, letter: str, body: str) -> str | None:
        """The clause of a step's letter; those of the letters it uses go to `clauses`. None when there is none."""
        sides: dict[str, list[str]] = {}
        target = letter
        for found in _EQUATION.finditer(body):
            first, *others = (side.strip() for side in found[0].split("="))
            if re.fullmatch(_NAME, first):
                target = first
            elif first:
                continue  # a calculation on the side
            sides.setdefault(target, []).extend(others)
        trees = {t: [tree for side in s if (tree := _tree(side)) is not None] for t, s in sides.items()}
        if letter not in sides:
            return None
        wanted = self._reached(letter, trees)
        for other in [t for t in sides if t in wanted and t != letter]:
            if other in self.value and all(_number(side) == self.value[other] for side in sides[other]):
                continue  # said again
            if (clause := self._clause(other, sides[other])) is None:
                return None
            self.clauses.append(clause)
        return self._clause(letter, sides[letter])

    @staticmethod
    def _reached(letter: str, trees: dict[str, list[ast.expr]]) -> set[str]:
        """The letters that an equation for `letter` uses, directly or through others."""
        found, new = {letter}, {letter}
        while new:
            new = set(chain.from_iterable(_letters(tree) for t in new for tree in trees.get(t, []))) - found
            found |= new
        return found

    def _clause(self, letter: str, sides: list[str]) -> str | None:
        """`letter = ... = result` as the world writes it; None for what cannot be read."""
        trees = [_tree(side) if _number(side) is None else None for side in sides]
        numbers = [_number(side) for side in sides]
        result = numbers[-1]
        if result is None or any(t is None and n is None for t, n in zip(trees, numbers, strict=True)):
            return None
        symbolic = [t for t in trees if t is not None and _letters(t)]
        numeric = [t for t in trees if t is not None and not _letters(t)]
        if len(symbolic) > 1 or (symbolic and trees[0] is not symbolic[0]):
            return None
        modulus = self.world.modulus
        shape, first = next(iter([*symbolic, *numeric]), None), next(iter(numeric), None)
        said = [*(_value(t, modulus) for t in numeric), *(n % modulus for n in numbers if n is not None)]
        seen = isinstance(first, ast.BinOp) and said[0] != result % modulus  # left to the checker, which sees both
        if not seen and any(value != result % modulus for value in said):
            return None
        written = ("", 0) if shape is None else self._write(shape, first)
        if written is None:
            return None
        self.value[letter] = result
        equals = self.phrase(vocab.IS)
        return f" {self._name(letter)}{equals}{written[0]}{equals if written[0] else ''} {result}"

    def _write(self, shape: ast.expr, numbers: ast.expr | None) -> tuple[str, int] | None:
        """`a + b = 3 + 4` and its value, or `a` where the step only copies `a`, with clauses for inner operations; None
        where the numbers stand in another expression than the letters."""
        if not isinstance(shape, ast.BinOp):
            return (f" {self._name(shape.id)}", 0) if isinstance(shape, ast.Name) else None
        if not isinstance(numbers, ast.BinOp | None):
            return None
        left = self._operand(shape.left, numbers.left if numbers else None)
        right = self._operand(shape.right, numbers.right if numbers else None)
        if left is None or right is None:
            return None
        put_in = type(numbers.op if numbers else shape.op)
        signs = [self.phrase(_OPERATORS[operator][1]) for operator in (type(shape.op), put_in)]
        value = _apply(put_in, left[1], right[1]) % self.world.modulus
        return f" {left[0]}{signs[0]} {right[0]}{self.phrase(vocab.IS)} {left[1]}{signs[1]} {right[1]}", value

    def _operand(self, shape: ast.expr, numbers: ast.expr | None) -> tuple[str, int] | None:
        """An operand's text and its number."""
        if isinstance(shape, ast.BinOp):
            written, fresh = self._write(shape, numbers), next(self.free, None)
            if written is None or fresh is None:
                return None
            equals = self.phrase(vocab.IS)
            self.clauses.append(f" {fresh}{equals}{written[0]}{equals} {written[1]}")
            return fresh, written[1]
        if isinstance(numbers, ast.BinOp):
            return None
        put_in = numbers if numbers is not None else shape
        known = self.value.get(put_in.id) if isinstance(put_in, ast.Name) else getattr(put_in, "value", None)
        if type(known) is not int:
            return None
        return (self._name(shape.id) if isinstance(shape, ast.Name) else str(getattr(shape, "value", ""))), known
