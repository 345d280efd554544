"""Rewards of a response in free text: for its answer, and for its steps.

    answer = 1 where the stated answer is the true one, else 0
    steps  = d / max(n, d + m)

n is the number of parameters that the question needs, d how many of them the response defines rightly before its first
mistake, m is 1 where it makes one. So the step reward is the share of the solution that is right up to the first wrong
step: 1 only for all needed steps and no mistake, 0 for an answer without steps; steps that are not needed, or are taken
back, change nothing. What counts as a step and as a mistake is the checker's word (`synth.judge.checker`) under one of
two readings (`synth.judge.free_text`).
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from synth.judge.checker import RIGHT, reason
from synth.judge.free_text import judge
from synth.problem.arrays import Problems
from synth.problem.records import from_record, world_of
from synth.world.vocabulary import World

Response = str | Sequence[Mapping[str, Any]]  # a text, or the messages of a chat


class Score(NamedTuple):
    """What a response earns, and why."""

    answer: float  # 0 or 1
    steps: float  # 0 to 1
    right: bool  # the whole solution: every step, the ending and the answer
    reason: str  # "right", or why it is not: the kind of the first mistake, its ending, "wrong answer"
    read: str  # the steps as they were read

    def reward(self, answer: float = 0.5, steps: float = 0.5) -> float:
        """A weighted sum of both."""
        return answer * self.answer + steps * self.steps


@lru_cache(maxsize=4096)
def _problem(record: str) -> tuple[Problems, World]:
    parsed = json.loads(record)
    return from_record(parsed), world_of(parsed)


def text_of(response: Response) -> str:
    """The text of a response: itself, or the content of the last message of a chat."""
    if isinstance(response, str):
        return response
    content = response[-1].get("content") if response else ""
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return "".join(part.get("text") or "" for part in parts)


def score(record: Mapping[str, Any] | str, response: Response, reading: str = "tolerant") -> Score:
    """The score of a response to the problem of a JSON record (`synth.store.records`, or its text). Raises ValueError
    for a record that is none, or an unknown reading; never for a response."""
    problem, world = _problem(record if isinstance(record, str) else json.dumps(record))
    verdicts, read = judge(problem, world, text_of(response), reading)
    first, kinds = int(verdicts.first_mistake[0]), verdicts.kind[0]
    done = int((kinds[: first if first >= 0 else None] == RIGHT).sum())
    most = max(int((problem.needed[0] > 0).sum()), done + (first >= 0))
    right = bool(verdicts.right[0])
    steps = done / most if most else float(right)
    return Score(float(verdicts.answer_right[0]), steps, right, reason(verdicts, 0), read)
