"""The world as a taskset of `verifiers` (0.4 and newer, its `v1` interface).

    from synth.environment.verifiers_adapter import taskset
    tasks = taskset(preset="med", ops=8, count=1000)        # a verifiers.v1.Taskset: iterate, take, shuffle, select

Each task's rewards are `answer` and `steps`, of equal weight, and its metric is `right`. The package is not imported
before `taskset` is called.
"""

import importlib
from functools import lru_cache
from typing import Any

from synth.environment.rewards import score
from synth.environment.tasks import environment
from synth.problem.records import as_text


@lru_cache(maxsize=1)
def classes() -> tuple[type, type]:
    """(config, taskset): subclasses of the package's. Raises ImportError without it."""
    vf: Any = importlib.import_module("verifiers.v1")

    class IgsmConfig(vf.TasksetConfig):
        preset: str = "tiny"
        settings: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies it)
        seed: int = 0
        split: str = "train"
        examples: int = 2
        reading: str = "tolerant"
        count: int | None = None

    class IgsmData(vf.TaskData):
        record: str
        reading: str

    class IgsmTask(vf.Task[IgsmData, vf.State, vf.TaskConfig]):
        @vf.reward(weight=0.5)
        async def answer(self, trace: Any) -> float:
            return score(self.data.record, trace.last_reply, self.data.reading).answer

        @vf.reward(weight=0.5)
        async def steps(self, trace: Any) -> float:
            return score(self.data.record, trace.last_reply, self.data.reading).steps

        @vf.metric
        async def right(self, trace: Any) -> float:
            return float(score(self.data.record, trace.last_reply, self.data.reading).right)

    class IgsmTaskset(vf.Taskset[IgsmTask, IgsmConfig]):
        INFINITE = True

        @property
        def bounded(self) -> bool:
            return self.config.count is not None or super().bounded

        def load(self) -> Any:
            c = self.config
            tasks = environment(c.preset, seed=c.seed, split=c.split, examples=c.examples, form="text", **c.settings)
            index = 0
            while c.count is None or index < c.count:
                task = tasks[index]
                data = {"id": task.record["id"], "prompt": task.prompt, "record": as_text(task.record)}
                yield IgsmTask(IgsmData(**data, reading=c.reading), c.task)
                index += 1

    return IgsmConfig, IgsmTaskset


def taskset(preset: str = "tiny", *, seed: int = 0, split: str = "train", examples: int = 2, reading: str = "tolerant",
            count: int | None = None, **settings: Any) -> Any:  # fmt: skip
    """The taskset of an environment (`synth.environment.tasks.environment`); endless without `count`."""
    config, kind = classes()
    chosen = {"seed": seed, "split": split, "examples": examples, "reading": reading, "count": count}
    return kind(config(preset=preset, settings=settings, **chosen))
