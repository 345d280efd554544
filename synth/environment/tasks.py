"""Problems as prompts for a language model that has never seen this world.

Task i is a pure function of the settings, the seed and i. The prompt states the modulus, the meaning of the sentences,
the format and worked examples, which come from the training side of the split and a stream of their own.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from synth.dataset import Source
from synth.environment.rewards import Response, Score, score
from synth.judge.free_text import READINGS, gold_answer
from synth.spec import Spec, preset
from synth.store.records import record
from synth.world import vocabulary as vocab

TEMPLATE = Path(__file__).with_name("instructions.jinja")
FORMS = ("chat", "text", "native")
EXAMPLES = "examples"  # the stream of the worked examples
SHOWN_OPS = 3  # operations of an example, where the settings allow as many


class Task(NamedTuple):
    """One problem for a model."""

    index: int
    prompt: str | list[dict[str, str]]  # messages in the form chat
    completion: str  # a right response: for supervised training
    answer: str
    record: dict[str, Any]  # the problem, for `synth.environment.rewards.score`


@dataclass(frozen=True)
class Environment:
    """An endless list of tasks. Raises ValueError, naming the setting, for one that is not possible.

    form: chat (messages), text (the same as one string), native (the markers of the models trained here). Harder tasks
    are another environment: `at(ops=12)`.
    """

    spec: Spec
    seed: int = 0
    split: str = "train"
    examples: int = 2
    form: str = "chat"
    reading: str = "tolerant"

    def __post_init__(self) -> None:
        for setting, accepted in (("form", FORMS), ("reading", READINGS)):
            if getattr(self, setting) not in accepted:
                raise ValueError(f"{setting}={getattr(self, setting)!r} is unknown; accepted: {', '.join(accepted)}")
        if not 0 <= self.examples <= 64:
            raise ValueError(f"examples={self.examples} is not possible; accepted: 0 to 64")
        if self.spec.contexts:
            raise ValueError("contexts: a prompt has none; accepted: a spec without contexts")

    @cached_property
    def source(self) -> Source:
        """Where the problems come from."""
        return Source(self.spec, self.seed, self.split, "environment")

    def at(self, **settings: Any) -> "Environment":
        """The same environment with other settings of the world (ops, retry_rate, ...): the next level of a course."""
        fields = {f.name for f in dataclasses.fields(Spec)}
        for name in settings:
            if name not in fields:
                raise ValueError(f"{name!r} is no setting of a world; accepted: {', '.join(sorted(fields))}")
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, **settings))

    def __getitem__(self, index: int) -> Task:
        """Task `index`, any whole number from 0."""
        source = self.source
        made = record(source, source.documents([index]), 0, index)
        answer = gold_answer(source.world, made["answer"])
        if self.form == "native":
            marks = {name: vocab.SPECIALS[getattr(vocab, name)] for name in ("PROBLEM", "SOLUTION", "ANSWER", "EOS")}
            prompt = f"{marks['PROBLEM']}{made['problem']}{marks['SOLUTION']}"
            completion = f"{made['solution']}{marks['ANSWER']} {answer}{marks['EOS']}"
            return Task(index, prompt, completion, answer, made)
        text = self._render(made)
        prompt = [{"role": "user", "content": text}] if self.form == "chat" else text
        return Task(index, prompt, self._completion(made), answer, made)

    def tasks(self, start: int, stop: int) -> Iterator[Task]:
        """Tasks start..stop-1."""
        return (self[index] for index in range(start, stop))

    def score(self, task: Task, response: Response) -> Score:
        """The score of a response to a task."""
        return score(task.record, response, self.reading)

    def _completion(self, made: dict[str, Any]) -> str:
        return f"{made['solution'].strip()}\nAnswer: {gold_answer(self.source.world, made['answer'])}"

    @cached_property
    def _shown(self) -> list[dict[str, Any]]:
        """Records of the worked examples."""
        source = Source(self.spec, self.seed, "train", EXAMPLES)
        shown, index = [], 0
        while len(shown) < self.examples:
            documents = source.documents([index])
            if documents.problems.ops[0] >= min(SHOWN_OPS, self.spec.ops) or index > 50 * self.examples:
                shown.append(record(source, documents, 0, index))
            index += 1
        return shown

    def _render(self, made: dict[str, Any]) -> str:
        world = self.source.world
        words = {role: world.phrase(number).strip() for number, role in enumerate(vocab.ROLES)}
        return self._template.render(
            record=made, modulus=world.modulus, words=words, owner=world.possessive,
            shown=[(example, self._completion(example)) for example in self._shown],
            retries=self.spec.retry_rate > 0, missing=self.spec.missing_premise > 0,
        )  # fmt: skip

    @cached_property
    def _template(self) -> Any:
        from jinja2 import Template

        return Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True)


def environment(name: str = "tiny", *, seed: int = 0, split: str = "train", examples: int = 2, form: str = "chat",
                reading: str = "tolerant", **settings: Any) -> Environment:  # fmt: skip
    """The environment of a preset of the world, with some of its settings changed (`synth.spec.Spec`)."""
    return Environment(preset(name, **settings), seed, split, examples, form, reading)
