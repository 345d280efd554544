"""A problem as text for a terminal: sentences, graph of parameters with values, solution with its mistakes."""

import textwrap

import numpy as np

from synth.contexts.sections import cut, render
from synth.dataset import Source
from synth.documents import SOLUTION_SEGMENT, Documents
from synth.problem.arrays import (
    ADD,
    DIFFERENCE,
    EDGES,
    INSTANCES,
    MISSING,
    OPS,
    SLOTS,
    SPLIT_BIN,
    Problems,
    dependencies,
)
from synth.spec import TRAIN_BINS
from synth.world.vocabulary import BACK

WIDTH = 100
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Printer:
    """Formats text, with colours only when asked for."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.colour else text


def _wrapped(text: str, indent: str, hanging: str = "    ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent) + hanging)


def _sentences(text: str) -> list[str]:
    """Split at full stops and question marks; no name holds either."""
    out = text.strip().replace("? ", "?\n").replace(". ", ".\n").split("\n")
    return [s for s in out if s]


def expression(problem: Problems, slot: int, names: dict[int, str]) -> str:
    """The right-hand side of a parameter in plain arithmetic."""
    if slot == problem.scalars[0, MISSING]:
        return "not given"
    n = int(problem.n_terms[0, slot])
    constant = int(problem.constant[0, slot])
    if n == 0:
        return str(constant) if constant >= 0 else "nothing below it"
    terms = [" x ".join(names[int(f)] for f in term if f >= 0) for term in problem.terms[0, slot, :n]]
    text = (" - " if problem.combine[0, slot] == DIFFERENCE else " + ").join(terms)
    if problem.constant_op[0, slot] == 0:
        return text
    sign = "+" if problem.constant_op[0, slot] == ADD else "x"
    return f"{constant} {sign} ({text})" if n > 1 else f"{constant} {sign} {text}"


def graph(problem: Problems, names: dict[int, str], paint: Printer) -> list[str]:
    """The query and what it depends on as an indented list, then what it does not need."""
    lines: list[str] = []
    seen: set[int] = set()

    def visit(slot: int, level: int) -> None:
        head = "  " + "   " * level + f"{names[slot]} = {paint(_number(problem, slot), 'bold')}"
        if slot in seen:
            lines.append(head + paint("   (above)", "dim"))
            return
        seen.add(slot)
        lines.append(head + paint(f"   <- {expression(problem, slot, names)}", "cyan"))
        for below in dependencies(problem, slot):
            if below != slot:  # what is not given rests on itself
                visit(below, level + 1)

    visit(int(problem.query[0]), 0)
    rest = [s for s in range(INSTANCES) if problem.exists[0, s] and s not in seen]
    if rest:
        lines.append(paint("  not needed:", "dim"))
        for s in rest:
            lines.append(paint(f"     {names[s]} = {_number(problem, s)}   <- {expression(problem, s, names)}", "dim"))
    return lines


def _number(problem: Problems, slot: int) -> str:
    value = int(problem.value[0, slot])
    return str(value) if value >= 0 else "undetermined"


def _why(problem: Problems, slot: int, done: set[int], names: dict[int, str]) -> str:
    missing = [names[s] for s in dependencies(problem, slot) if s not in done]
    if missing:
        return f"{missing[0]} is not known yet"
    return "it comes later" if problem.needed[0, slot] else "it is not needed"


def context_lines(world, context: list[int], paint: Printer) -> list[str]:
    """What stands before the problem, a line for each section."""
    if not context:
        return []
    sections = render(world, context).split("\n")
    return [paint("Context", "bold"), *(_wrapped(s, "  ") for s in sections), "", paint("Problem", "bold")]


def show(source: Source, documents: Documents, i: int, index: int, colour: bool) -> str:
    """Document i of `documents` (index `index` of the stream) as text for a terminal."""
    paint, world = Printer(colour), source.world
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    problem = documents.problems.take(i)
    slot_names = problem.slot_names()[0]
    names = {s: world.name_of(*slot_names[s]) for s in range(SLOTS) if problem.exists[0, s]}
    scalars = problem.scalars[0]
    side = "train" if scalars[SPLIT_BIN] < TRAIN_BINS else "test"
    ops, most = int(scalars[OPS]), source.spec.ops
    drawn = "" if source.spec.exact_ops else f" (drawn from 1 to {most}; --exact-ops: always {most})"
    counts = f"{ops} operation{'s' * (ops != 1)}{drawn}, {scalars[EDGES]} edges, arithmetic modulo {world.modulus}"
    lines = [paint(f"Problem {index}", "bold") + f"   {counts}, split bin {scalars[SPLIT_BIN]} ({side})", ""]
    context, prompt = cut(documents.prompt_tokens(i))
    lines += context_lines(world, context, paint)
    text = world.decode(prompt)
    lines += [_wrapped(s, "  ") for s in _sentences(text)]
    lines += [
        "",
        paint("Parameters", "bold") + ", from the question down to what it rests on",
        *graph(problem, names, paint),
        "",
    ]
    lines += [paint("Solution", "bold"), *_solution_lines(world, documents, span, problem, names, paint), ""]
    lines.append(f"{paint('Answer', 'bold')}  {paint(_number(problem, int(problem.query[0])), 'green')}")
    return "\n".join(lines)


def _solution_lines(
    world, documents: Documents, span: slice, problem: Problems, names: dict[int, str], paint: Printer
) -> list[str]:
    tokens, step = documents.tokens[span], documents.step[span]
    inside = documents.segment[span] == SOLUTION_SEGMENT
    lines, done = [], set()
    for k in np.unique(step[inside]):
        here = inside & (step == k)
        slot = int(documents.param[span][here][0])
        text = world.decode(tokens[here]).strip()
        if documents.mistake[span][here].any():
            back = bool((tokens[here] == world.phrases[BACK]).any())
            slip = bool((tokens[here] >= world.first_number).sum() > 2)  # more than the two names
            why = "wrong number" if slip else _why(problem, slot, done, names)
            text += f"   <- mistake, {'taken back' if back else 'not corrected'}: {why}"
            if not back:
                done.add(slot)
            lines.append(paint(_wrapped(text, f"  {k + 1:>2}. "), "red"))
        else:
            done.add(slot)
            lines.append(_wrapped(text, f"  {k + 1:>2}. "))
    return lines
