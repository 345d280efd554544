"""Sections before a problem, `[sections] <problem> ... <solution> ...`, and the one builder of them.

A recipe names sections, joined by +: `gold`, `success2+failure1`, `attempt+feedback`; `none` has none. Tokens of each:

    gold              <gold> steps <answer> 4           a right solution (of another order and other letters)
    final             <final> <answer> 4                the right answer alone
    partial           <partial> steps                   the first steps of a right solution
    success1..3       <success> steps <answer> 4        right peers, each behind its marker
    failure1..2       <failure> steps <answer> 2        wrong peers
    attempt           <attempt> steps <answer> 2 <wrong>   an own attempt with its flag, to be revised
    feedback          <feedback> name <wrong arithmetic>   first wrong step of the attempt and its kind
    hint, wrong_hint  <hint> <answer> 4                 a claimed answer that is right, or is not
    concise           <concise>                         asks for the shortest solution

Only token ids are handled here: the same builder serves pretraining and teachers (`synth.contexts.privileged` fills
`Material`).
Source: the contexts of OPSD, SDPO, SDFT and their kin (`python -m train.opd.table` names each paper).

    >>> parse("success2+failure")
    (('success', 2), ('failure', 1))
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from synth.problem.arrays import Integers
from synth.world import vocabulary as vocab

MARKERS = {
    "gold": vocab.GOLD, "final": vocab.FINAL, "partial": vocab.PARTIAL, "success": vocab.SUCCESS,
    "failure": vocab.FAILURE, "attempt": vocab.ATTEMPT, "feedback": vocab.FEEDBACK, "hint": vocab.HINT,
    "wrong_hint": vocab.HINT, "concise": vocab.CONCISE,
}  # fmt: skip
MOST = {"success": 3, "failure": 2}
ACCEPTED = "none, or sections joined by +: " + ", ".join(
    f"{name}1..{MOST[name]}" if name in MOST else name for name in MARKERS
)
Tokens = Integers


class Material(NamedTuple):
    """What the sections of one problem are made of. Responses are the tokens after `<solution>`; None: not at hand."""

    gold: Tokens | None = None
    partial: Tokens | None = None  # the steps to show
    success: Sequence[Tokens] = ()
    failure: Sequence[Tokens] = ()
    attempt: Tokens | None = None
    attempt_right: bool = False
    feedback: Tokens = ()  # as `synth.contexts.privileged.feedback` makes it, empty for a right attempt
    final: int | None = None  # token of the answer
    wrong: int | None = None  # token of another number


def parse(recipe: str) -> tuple[tuple[str, int], ...]:
    """Sections of a recipe with how many of each; ValueError names the first word that is none."""
    if recipe == "none":
        return ()
    found: dict[str, int] = {}
    for word in str(recipe).split("+"):
        match = re.fullmatch(r"([a-z_]+?)(\d*)", word)
        name, count = (match[1], int(match[2] or 1)) if match else ("", 0)
        if name not in MARKERS or name in found or not 1 <= count <= MOST.get(name, 1):
            raise ValueError(f"context={recipe!r}: {word!r} is no section to add; accepted: {ACCEPTED}")
        found[name] = count
    return tuple(found.items())


def mixture(setting: Mapping[str, float] | Sequence) -> tuple[tuple[str, float], ...]:
    """Recipes with their probabilities, from weights by recipe; empty when nothing but `none` is asked for. Raises
    ValueError on an unknown recipe, a negative weight, or weights that sum to nothing."""
    pairs = list(setting.items()) if isinstance(setting, Mapping) else setting
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise ValueError(f"contexts={setting!r} is no mixture; accepted: weights by recipe, {{none: 1, gold: 1}}")
    pairs = sorted((recipe, weight) for recipe, weight in pairs)
    for recipe, weight in pairs:
        parse(recipe)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.0 <= weight < float("inf"):
            raise ValueError(f"contexts.{recipe}={weight!r} is not possible; accepted: a weight of 0 or more")
    total = sum(weight for _, weight in pairs)
    if pairs and total <= 0.0:
        raise ValueError("contexts: all weights are 0; accepted: a positive weight of at least one recipe")
    chosen = tuple((recipe, weight / total) for recipe, weight in pairs if weight > 0.0)
    return () if [recipe for recipe, _ in chosen] == ["none"] else chosen


def written(response: Tokens) -> list[int]:
    """A response without its end: what stands before the first `<eos>` or `<pad>`."""
    tokens = [int(t) for t in response]
    ends = [tokens.index(end) for end in (vocab.EOS, vocab.PAD) if end in tokens]
    return tokens[: min(ends)] if ends else tokens


def build(recipe: str, material: Material) -> list[list[int]]:
    """The sections of a recipe in its order; what the material does not hold is left out. Of peers there are up to the
    number asked for. Teachers give a row without any section no weight."""
    m, sections = material, []
    flag = vocab.RIGHT if m.attempt_right else vocab.WRONG
    one = {
        "gold": None if m.gold is None else written(m.gold),
        "partial": m.partial,
        "attempt": None if m.attempt is None else [*written(m.attempt), flag],
        "feedback": m.feedback if len(m.feedback) else None,
        "concise": [],
    }
    for name, number in (("final", m.final), ("hint", m.final), ("wrong_hint", m.wrong)):
        one[name] = None if number is None else [vocab.ANSWER, number]
    peers = {"success": m.success, "failure": m.failure}
    for name, count in parse(recipe):
        bodies = [written(peer) for peer in peers[name][:count]] if name in MOST else [one[name]]
        sections += [[MARKERS[name], *map(int, body)] for body in bodies if body is not None]
    return sections


def compose(sections: Sequence[Tokens], problem_tokens: Tokens) -> list[int]:
    """A prompt `[sections] <problem> ... <solution>`; ValueError when `problem_tokens` is no prompt without context."""
    prompt = [int(t) for t in problem_tokens]
    if not prompt or prompt[0] != vocab.PROBLEM:
        raise ValueError("problem_tokens do not begin with <problem>; accepted: a prompt without context")
    return [int(t) for section in sections for t in section] + prompt


def cut(prompt: Tokens) -> tuple[list[int], list[int]]:
    """(tokens of the sections, prompt without them); the inverse of `compose`."""
    tokens = [int(t) for t in prompt]
    # the last one: a rollout may hold one, too
    start = len(tokens) - 1 - tokens[::-1].index(vocab.PROBLEM) if vocab.PROBLEM in tokens else 0
    return tokens[:start], tokens[start:]


def render(world: vocab.World, tokens: Tokens) -> str:
    """Text of sections with the names of the markers, a line each: `<gold> Define ... so a = 4. <answer> 4`."""
    text, plain = "", []
    for token in map(int, tokens):
        if token >= len(vocab.SPECIALS):
            plain.append(token)
            continue
        text += world.decode(plain) + ("\n" if token in MARKERS.values() else " ") + vocab.SPECIALS[token]
        plain = []
    return (text + world.decode(plain)).strip()


def read(world: vocab.World, text: str) -> list[int]:
    """Token ids of what `render` wrote; ValueError where it is no text of the world."""
    ids: list[int] = []
    special = "|".join(map(re.escape, vocab.SPECIALS))
    for piece in filter(None, (p.strip() for p in re.split(f"({special})", text))):
        ids += [vocab.SPECIALS.index(piece)] if piece in vocab.SPECIALS else world.encode(" " + piece)
    return ids
