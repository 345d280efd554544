"""What a teacher reads before it scores a response: MOPD's seven contexts, an eighth of ours, and their controls.

    base                          nothing
    solution                      one right peer
    another_solution              another right peer
    failure                       one wrong peer
    solution_failure              a right and a wrong one
    solution_another_failure      two right ones and a wrong one
    all_solutions                 up to three right ones
    failure_verdict               a wrong peer as an attempt, with the checker's word on its first mistake (ours)

Controls: what stands in a section is not what its marker says, or is chosen in another way.

    random_peer                   as solution; a peer drawn from all, right or wrong
    unrelated                     as solution; a right response to another problem
    successes_matched             as solution_another_failure; the wrong peer is a right one of about as many tokens
    verifier_ordered              as solution_another_failure; the shortest right ones, and the wrong one that goes
                                  right for longest, instead of random ones

A peer is another response to the same problem with other tokens. `another` is never the first one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probes.analyses.responses import Written
from synth.contexts import sections as S
from synth.contexts.privileged import feedback

CONTEXTS = (
    "base", "solution", "another_solution", "failure", "solution_failure", "solution_another_failure", "all_solutions",
    "failure_verdict",
)  # fmt: skip
CONTROLS = ("random_peer", "unrelated", "successes_matched", "verifier_ordered")
MOST = S.MOST["success"]


class Peers(NamedTuple):
    """Response numbers for one scored response, in a random order. `foreign`: right ones of other problems."""

    right: list[int]
    wrong: list[int]
    foreign: list[int]


def peers_of(written: Written, rng: np.random.Generator) -> list[Peers]:
    """The peers of every response."""
    texts = [tuple(S.written(response)) for response in written.responses]
    right = written.verdicts.right
    all_right = np.flatnonzero(right)
    found = []
    for n, text in enumerate(texts):
        mine = rng.permutation(np.flatnonzero(written.row == written.row[n]))
        others = list({texts[m]: int(m) for m in mine if texts[m] != text}.values())
        foreign = all_right[written.row[all_right] != written.row[n]]
        picked = [int(rng.choice(foreign))] if len(foreign) else []
        found.append(Peers([m for m in others if right[m]], [m for m in others if not right[m]], picked))
    return found


def sections(name: str, written: Written, peers: Peers, rng: np.random.Generator) -> list[int] | None:
    """The tokens of a context, None where something that it needs is not there."""
    right, wrong = peers.right, peers.wrong
    if name == "base":
        return []
    if name == "solution":
        return _shown(written, right[:1], []) if right else None
    if name == "another_solution":
        return _shown(written, right[1:2], []) if len(right) > 1 else None
    if name == "failure":
        return _shown(written, [], wrong[:1]) if wrong else None
    if name == "solution_failure":
        return _shown(written, right[:1], wrong[:1]) if right and wrong else None
    if name == "all_solutions":
        return _shown(written, right[:MOST], []) if right else None
    if name == "failure_verdict":
        return _verdict(written, wrong[0]) if wrong else None
    if name == "random_peer":
        everyone = right + wrong
        return _shown(written, [everyone[rng.integers(len(everyone))]], []) if everyone else None
    if name == "unrelated":
        return _shown(written, peers.foreign, []) if peers.foreign else None
    if len(right) < 2 or not wrong:
        return None
    if name == "successes_matched":
        near = sorted(right[2:], key=lambda m: abs(len(written.responses[m]) - len(written.responses[wrong[0]])))
        return _shown(written, [*right[:2], near[0]], []) if near else None
    if name == "verifier_ordered":
        right = sorted(right, key=lambda m: (written.verdicts.unneeded[m], len(written.responses[m])))
        wrong = sorted(wrong, key=lambda m: -_good_steps(written, m))
    return _shown(written, right[:2], wrong[:1])


def _good_steps(written: Written, n: int) -> int:
    """Steps before the first mistake; all, where only the end is wrong."""
    first = int(written.verdicts.first_mistake[n])
    return first if first >= 0 else int(written.verdicts.steps[n])


def _shown(written: Written, right: Sequence[int], wrong: Sequence[int]) -> list[int]:
    material = S.Material(success=[written.responses[m] for m in right], failure=[written.responses[m] for m in wrong])
    recipe = [f"{name}{len(rows)}" for name, rows in (("success", right), ("failure", wrong)) if rows]
    return _flat("+".join(recipe), material)


def _verdict(written: Written, n: int) -> list[int]:
    word = feedback(written.documents.problems.take(int(written.row[n])), written.verdicts, n)
    return _flat("attempt+feedback", S.Material(attempt=S.written(written.responses[n]), feedback=word))


def _flat(recipe: str, material: S.Material) -> list[int]:
    return [int(token) for section in S.build(recipe, material) for token in section]
