"""The world as a dataset of reasoning-gym (package `reasoning-gym`), registered under the name `igsm`.

    from synth.environment.reasoning_gym_adapter import register
    register()
    data = reasoning_gym.create_dataset("igsm", preset="med", max_ops=8, seed=0, size=100)
    data.score_answer(text, entry=data[0])     # (answer + steps) / 2, from free text
    reasoning_gym.create_curriculum("igsm")    # levels of max_ops

The package is not imported before `register` is called.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from synth.environment.rewards import score
from synth.environment.tasks import Environment, environment

NAME = "igsm"
TRIES = 10_000  # problems that are drawn for one of at least `min_ops` operations
LEVELS = [1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 32]


@dataclass
class IgsmConfig:
    """Settings of the dataset; `settings` are further ones of `synth.spec.Spec`."""

    preset: str = "tiny"
    min_ops: int = 1  # problems of fewer operations are passed over
    max_ops: int | None = None  # None: the preset's
    retry_rate: float | None = None
    examples: int = 2
    reading: str = "tolerant"
    split: str = "train"
    settings: dict[str, Any] | None = None
    seed: int | None = None
    size: int = 500

    def validate(self) -> None:
        """Raises ValueError for settings that are not possible."""
        if self.size < 1:
            raise ValueError(f"size={self.size}; accepted: at least 1")
        most = self.environment(0).spec.ops
        if not 1 <= self.min_ops <= most:
            raise ValueError(f"min_ops={self.min_ops}; accepted: 1 to {most}")

    def environment(self, seed: int) -> Environment:
        """The environment of these settings."""
        given = {"ops": self.max_ops, "retry_rate": self.retry_rate}
        settings = (self.settings or {}) | {name: value for name, value in given.items() if value is not None}
        if self.max_ops:  # a problem needs room for its operations
            settings = {"edges": min(48, max(6, 2 * self.max_ops)), "letters": 104} | settings
        if self.min_ops > 1 and self.min_ops == self.max_ops:
            settings["exact_ops"] = True
        return environment(self.preset, seed=seed, split=self.split, examples=self.examples, form="text",
                           reading=self.reading, **settings)  # fmt: skip


def register() -> type:
    """Registers dataset and curriculum once; returns the dataset's class. Raises ImportError without the package."""
    factory = importlib.import_module("reasoning_gym.factory")
    if NAME in factory.DATASETS:
        return factory.DATASETS[NAME][0]
    dataset = importlib.import_module("reasoning_gym.dataset")
    coaching = importlib.import_module("reasoning_gym.coaching")

    class IgsmDataset(dataset.ProceduralDataset):
        """Problem `idx` is a pure function of the config and idx."""

        def __init__(self, config: IgsmConfig) -> None:
            super().__init__(config=config, seed=config.seed, size=config.size)
            self.tasks = config.environment(self.seed)

        def __getitem__(self, idx: int) -> dict[str, Any]:
            if not 0 <= idx < self.size:
                raise IndexError(f"{idx}: accepted: 0 to {self.size - 1}")
            candidates = (self.tasks[idx * TRIES + k] for k in range(TRIES))
            task = next(t for t in candidates if t.record["ops"] >= self.config.min_ops)
            difficulty = {"ops": (self.config.min_ops, self.tasks.spec.ops)}
            about = {"source_dataset": NAME, "source_index": idx, "ops": task.record["ops"], "difficulty": difficulty}
            return {"question": task.prompt, "answer": task.answer,
                    "metadata": about | {"solution": task.completion, "record": task.record}}  # fmt: skip

        def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
            """Half for the answer and half for the steps; 1 for a right solution."""
            return score(entry["metadata"]["record"], answer or "", self.config.reading).reward()

    class IgsmCurriculum(coaching.BaseCurriculum):
        """Levels of the most operations."""

        def __init__(self) -> None:
            super().__init__(IgsmCurriculum.__name__, IgsmConfig)
            self._define_attributes(
                coaching.RangeAttributeDefinition(
                    name="ops", levels=LEVELS, default_level=1, lower_field_name="min_ops", upper_field_name="max_ops",
                    description="operations of a solution", ensure_interval=True,
                )
            )  # fmt: skip

    factory.register_dataset(NAME, IgsmDataset, IgsmConfig, IgsmCurriculum)
    return IgsmDataset
