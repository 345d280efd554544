"""A problem as text for a terminal: sentences, graph of parameters with values, solution with its mistakes."""

import textwrap

import numpy as np

from synth.contexts.context_tokens import cut, render
from synth.dataset import Source
from synth.documents import SOLUTION_SEGMENT, Documents
from synth.problem import arrays as A
from synth.problem.arrays import INSTANCES, SLOTS, Problems, dependencies
from synth.spec import TRAIN_BINS
from synth.world.vocabulary import BACK, World

WIDTH = 100
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent) + "    ")


def expression(problem: Problems, slot: int, names: dict[int, str]) -> str:
    """The right-hand side of a parameter in plain arithmetic."""
    n, constant, operation = (int(a[0, slot]) for a in (problem.n_terms, problem.constant, problem.constant_op))
    if slot == problem.scalars[0, A.MISSING]:
        return "not given"
    if n == 0:
        return str(constant) if constant >= 0 else "nothing below it"
    terms = [" x ".join(names[int(f)] for f in term if f >= 0) for term in problem.terms[0, slot, :n]]
    text = (" - " if problem.combine[0, slot] == A.DIFFERENCE else " + ").join(terms)
    if operation == 0:
        return text
    return f"{constant} {'+' if operation == A.ADD else 'x'} " + (f"({text})" if n > 1 else text)


class Page:
    """One problem as lines of text; colours only when asked for."""

    def __init__(self, problem: Problems, world: World, colour: bool) -> None:
        self.problem, self.world, self.colour = problem, world, colour
        tokens = problem.slot_names()[0]
        self.names = {s: world.name_of(*tokens[s]) for s in range(SLOTS) if problem.exists[0, s]}

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.colour else text

    def number(self, slot: int) -> str:
        """The value of a parameter."""
        value = int(self.problem.value[0, slot])
        return str(value) if value >= 0 else "undetermined"

    def graph(self) -> list[str]:
        """The query and what it depends on as an indented list, then what it does not need."""
        lines: list[str] = []
        seen: set[int] = set()

        def visit(slot: int, level: int) -> None:
            head = "  " + "   " * level + f"{self.names[slot]} = {self.paint(self.number(slot), 'bold')}"
            if slot in seen:
                lines.append(head + self.paint("   (above)", "dim"))
                return
            seen.add(slot)
            lines.append(head + self.paint(f"   <- {expression(self.problem, slot, self.names)}", "cyan"))
            for below in dependencies(self.problem, slot):
                if below != slot:  # what is not given rests on itself
                    visit(below, level + 1)

        visit(int(self.problem.query[0]), 0)
        rest = [s for s in range(INSTANCES) if self.problem.exists[0, s] and s not in seen]
        texts = [f"{self.names[s]} = {self.number(s)}   <- {expression(self.problem, s, self.names)}" for s in rest]
        return lines + [self.paint(line, "dim") for line in ["  not needed:", *("     " + t for t in texts)] if rest]

    def why(self, slot: int, done: set[int]) -> str:
        """Why a step that names this parameter is a mistake."""
        missing = [self.names[s] for s in dependencies(self.problem, slot) if s not in done]
        if missing:
            return f"{missing[0]} is not known yet"
        return "it comes later" if self.problem.needed[0, slot] else "it is not needed"

    def solution(self, documents: Documents, i: int) -> list[str]:
        """The steps of the solution in document i, mistakes marked."""
        span, world = slice(documents.offsets[i], documents.offsets[i + 1]), self.world
        tokens, step = documents.tokens[span], documents.step[span]
        inside = documents.segment[span] == SOLUTION_SEGMENT
        lines, done = [], set()
        for k in np.unique(step[inside]):
            here = inside & (step == k)
            slot, text = int(documents.param[span][here][0]), world.decode(tokens[here]).strip()
            wrong = bool(documents.mistake[span][here].any())
            back = wrong and bool((tokens[here] == world.phrases[BACK]).any())
            if wrong:
                slip = (tokens[here] >= world.first_number).sum() > 2  # more than the two names
                why = "wrong number" if slip else self.why(slot, done)
                text += f"   <- mistake, {'taken back' if back else 'not corrected'}: {why}"
            if not back:
                done.add(slot)
            line = _wrapped(text, f"  {k + 1:>2}. ")
            lines.append(self.paint(line, "red") if wrong else line)
        return lines


def show(source: Source, documents: Documents, i: int, index: int, colour: bool) -> str:
    """Document i of `documents` (index `index` of the stream) as text for a terminal."""
    world, problem, most = source.world, documents.problems.take(i), source.spec.ops
    page = Page(problem, world, colour)
    ops, edges, split_bin = (int(problem.scalars[0, column]) for column in (A.OPS, A.EDGES, A.SPLIT_BIN))
    drawn = "" if source.spec.exact_ops else f" (drawn from 1 to {most}; --exact-ops: always {most})"
    side = "train" if split_bin < TRAIN_BINS else "test"
    counts = f"{ops} operation{'s' * (ops != 1)}{drawn}, {edges} edges, arithmetic modulo {world.modulus}"
    context, prompt = cut(documents.prompt_tokens(i))
    sentences = world.decode(prompt).strip().replace("? ", "?\n").replace(". ", ".\n").split("\n")
    problem_head = [page.paint("Context", "bold"), *map(_wrapped, render(world, context).split("\n")), ""]
    lines = [
        page.paint(f"Problem {index}", "bold") + f"   {counts}, split bin {split_bin} ({side})", "",
        *([*problem_head, page.paint("Problem", "bold")] if context else []),
        *(_wrapped(sentence) for sentence in sentences if sentence), "",
        page.paint("Parameters", "bold") + ", from the question down to what it rests on", *page.graph(), "",
        page.paint("Solution", "bold"), *page.solution(documents, i), "",
        f"{page.paint('Answer', 'bold')}  {page.paint(page.number(int(problem.query[0])), 'green')}",
    ]  # fmt: skip
    return "\n".join(lines)
