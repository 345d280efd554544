"""The world as a task of lm-evaluation-harness (package `lm-eval`): a folder with one YAML file.

    python -m synth.environment --preset med --ops 8 --count 200 --lm-eval tasks/
    lm_eval --model hf --model_args pretrained=MODEL --include_path tasks/ --tasks igsm_med --apply_chat_template

The file names functions of this module, so `synth` must be importable where it runs. Problems are made when they are
needed; the worked examples are in the prompt. Metrics: `answer`, `steps` and `right` (`synth.environment.rewards`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synth.environment.rewards import score
from synth.environment.tasks import Environment, environment
from synth.problem.records import as_text
from synth.store.files import atomic_path, atomic_write

METRICS = ("answer", "steps", "right")
TOKENS, OURS = 1024, 192  # of a response at most; of a model of this lab, which reads few


def write_task(folder: Path, name: str, tasks: Environment, preset: str, settings: dict[str, Any], count: int) -> Path:
    """Writes FOLDER/NAME.yaml for the first `count` tasks of an environment; JSON, which is YAML, but for its tags."""
    world = {"preset": preset, "count": count, "seed": tasks.seed, "split": tasks.split, "examples": tasks.examples}
    world |= {"form": tasks.form, "reading": tasks.reading, "settings": settings}
    here = f"!function {__name__}"
    metrics = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in METRICS]
    lines = {
        "task": name, "custom_dataset": f"{here}.documents", "metadata": {"version": 1}, "dataset_kwargs": world,
        "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{completion}}", "process_results": f"{here}.results", "num_fewshot": 0,
        "generation_kwargs": {"until": ["<eos>"] if tasks.form == "native" else ["\n\nExample", "\n\nProblem:"],
                              "do_sample": False, "max_gen_toks": OURS if tasks.form == "native" else TOKENS},
        "metric_list": metrics,
    }  # fmt: skip
    text = "".join(
        f"{key}: {value if str(value).startswith('!function') else json.dumps(value)}\n" for key, value in lines.items()
    )
    path = folder / f"{name}.yaml"
    if folder.is_dir():
        atomic_write(path, text)
        return path
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        atomic_write(temporary / path.name, text)
    return path


def documents(preset: str, count: int, seed: int, split: str, examples: int, form: str, reading: str,
              settings: dict[str, Any], **_: Any) -> dict[str, Any]:  # fmt: skip
    """What the harness reads: {"test": datasets.Dataset of prompt, completion, record and reading}."""
    from datasets import Dataset

    form = "native" if form == "native" else "text"  # the harness makes a chat of a text itself
    tasks = environment(preset, seed=seed, split=split, examples=examples, form=form, reading=reading, **settings)
    rows = [
        {"prompt": t.prompt, "completion": t.completion, "record": as_text(t.record), "reading": reading}
        for t in tasks.tasks(0, count)
    ]
    return {"test": Dataset.from_list(rows)}


def results(doc: dict[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """The metrics of one response."""
    got = score(doc["record"], responses[0], doc["reading"])
    return {"answer": got.answer, "steps": got.steps, "right": float(got.right)}
