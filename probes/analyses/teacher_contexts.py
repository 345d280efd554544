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

from probes.analyses.responses import Responses
from synth.contexts import context_tokens as S
from synth.contexts.privileged import feedback

MOST = S.MOST["success"]
# Context -> which right peers it shows, how many there must be, and how many wrong ones it shows.
SHOWN = {
    "solution": (slice(0, 1), 1, 0),
    "another_solution": (slice(1, 2), 2, 0),
    "failure": (slice(0, 0), 0, 1),
    "solution_failure": (slice(0, 1), 1, 1),
    "solution_another_failure": (slice(0, 2), 2, 1),
    "all_solutions": (slice(0, MOST), 1, 0),
}
CONTEXTS = ("base", *SHOWN, "failure_verdict")
CONTROLS = ("random_peer", "unrelated", "successes_matched", "verifier_ordered")


class Peers(NamedTuple):
    """Response numbers for one scored response, in a random order. `foreign`: a right one of another problem."""

    right: list[int]
    wrong: list[int]
    foreign: list[int]


def peers_of(responses: Responses, rng: np.random.Generator) -> list[Peers]:
    """The peers of every response."""
    texts = [tuple(S.written(tokens)) for tokens in responses.tokens]
    right = responses.verdicts.right
    all_right = np.flatnonzero(right)
    found = []
    for n, text in enumerate(texts):
        same_problem = rng.permutation(np.flatnonzero(responses.row == responses.row[n]))
        others = list({texts[m]: int(m) for m in same_problem if texts[m] != text}.values())
        foreign = all_right[responses.row[all_right] != responses.row[n]]
        picked = [int(rng.choice(foreign))] if len(foreign) else []
        found.append(Peers([m for m in others if right[m]], [m for m in others if not right[m]], picked))
    return found


def context_tokens(name: str, responses: Responses, peers: Peers, rng: np.random.Generator) -> list[int] | None:
    """The tokens of a context, None where something that it needs is not there."""
    right, wrong = peers.right, peers.wrong
    if name == "base":
        return []
    if name == "failure_verdict":
        return _with_verdict(responses, wrong[0]) if wrong else None
    if name == "random_peer":
        everyone = right + wrong
        return _shown(responses, [everyone[rng.integers(len(everyone))]], []) if everyone else None
    if name == "unrelated":
        return _shown(responses, peers.foreign, []) if peers.foreign else None
    chosen, least, n_wrong = SHOWN.get(name, SHOWN["solution_another_failure"])
    if len(right) < least or len(wrong) < n_wrong:
        return None
    if name == "successes_matched":
        lengths = responses.lengths
        near = sorted(right[2:], key=lambda m: abs(lengths[m] - lengths[wrong[0]]))
        return _shown(responses, [*right[:2], near[0]], []) if near else None
    if name == "verifier_ordered":
        right = sorted(right, key=lambda m: (responses.verdicts.unneeded[m], len(responses.tokens[m])))
        first, steps = responses.verdicts.first_mistake, responses.verdicts.steps
        wrong = sorted(wrong, key=lambda m: -(first[m] if first[m] >= 0 else steps[m]))  # good steps, all but the end
    return _shown(responses, right[chosen], wrong[:n_wrong])


def _shown(responses: Responses, right: Sequence[int], wrong: Sequence[int]) -> list[int]:
    material = S.Material(success=[responses.tokens[m] for m in right], failure=[responses.tokens[m] for m in wrong])
    recipe = [f"{name}{len(rows)}" for name, rows in (("success", right), ("failure", wrong)) if rows]
    return [int(token) for section in S.build("+".join(recipe), material) for token in section]


def _with_verdict(responses: Responses, n: int) -> list[int]:
    text = feedback(responses.documents.problems.take(int(responses.row[n])), responses.verdicts, n)
    material = S.Material(attempt=S.written(responses.tokens[n]), feedback=text)
    return [int(token) for section in S.build("attempt+feedback", material) for token in section]
