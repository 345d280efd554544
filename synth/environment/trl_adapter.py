"""The world for TRL: datasets and reward functions for its trainers (package `trl`, with `datasets`).

    tasks = environment("med", ops=4)
    GRPOTrainer(model, reward_funcs=[answer_reward, step_reward], train_dataset=grpo_dataset(tasks, 1000), ...)
    GKDTrainer(model, teacher_model, train_dataset=gkd_dataset(tasks, 1000), ...)

GRPO decodes completions without special tokens; both rewards read them as `synth.environment.rewards.score` does. The
form native is for models that were exported from here (`train.export`), whose tokenizers bring a chat template.
"""

from collections.abc import Sequence
from typing import Any

from synth.environment.rewards import Response, score
from synth.environment.tasks import Environment, Task
from synth.problem.records import as_text


def answer_reward(completions: Sequence[Response], record: Sequence[str], **_: Any) -> list[float]:
    """1 for each completion with the right answer. record: the column of that name of `grpo_dataset`."""
    return [score(r, c).answer for c, r in zip(completions, record, strict=True)]


def step_reward(completions: Sequence[Response], record: Sequence[str], **_: Any) -> list[float]:
    """For each completion the share of the solution that is right up to its first wrong step."""
    return [score(r, c).steps for c, r in zip(completions, record, strict=True)]


def strict_reward(completions: Sequence[Response], record: Sequence[str], **_: Any) -> list[float]:
    """1 for each completion that is a right solution by the strict reading, as the lab's own outcome rewards."""
    return [float(score(r, c, "strict").right) for c, r in zip(completions, record, strict=True)]


def messages(task: Task) -> list[dict[str, str]]:
    """A task as a chat with its right response. Of the form native: what an exported template puts marks around."""
    if isinstance(task.prompt, str) and task.prompt.startswith("<problem>"):
        user, assistant = task.record["problem"], task.completion.removesuffix("<eos>")
    else:
        user = task.prompt if isinstance(task.prompt, str) else task.prompt[-1]["content"]
        assistant = task.completion
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def grpo_dataset(tasks: Environment, count: int, start: int = 0) -> Any:
    """`datasets.Dataset` of prompt, answer, ops and record (JSON text) of tasks start..start+count-1."""
    from datasets import Dataset

    rows = [
        {"prompt": t.prompt, "answer": t.answer, "ops": t.record["ops"], "record": as_text(t.record)}
        for t in tasks.tasks(start, start + count)
    ]
    return Dataset.from_list(rows)


def gkd_dataset(tasks: Environment, count: int, start: int = 0) -> Any:
    """`datasets.Dataset` of messages (user and right response), for GKD and for supervised training."""
    from datasets import Dataset

    return Dataset.from_list([{"messages": messages(t)} for t in tasks.tasks(start, start + count)])
