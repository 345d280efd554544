"""Probing: what can be read from the hidden states of a saved model, beside what is read without them.

    python -m probes.run model=runs/quickstart/teacher-1a2b3c4d data=tiny probe=quickstart
    python -m probes.run task=mistakes checkpoint=runs/quickstart/teacher-1a2b3c4d
    python -m probes.run task=export checkpoint=runs/quickstart/teacher-1a2b3c4d export.tasks=[nece]
    python -m probes.run task=capability checkpoint=runs/quickstart/opd-5e6f7a8b capability.before=STUDENT
    python -m probes.run task=capability --help

`model` (or `checkpoint`) is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder. Results go to a
run folder. task=layers: summary.json holds a row for each task, probe and layer, with every control beside it; the same
command again continues after the last part that was finished. task=mistakes: a table of what goes wrong, whether the
model knew, and what retrying upon regret brings. task=export: activations as safetensors, labels as parquet. The other
tasks analyse distillation (`probes.analyses`): tables/*.csv, one figure, and the same tables in summary.json. Each task
has the settings below and a section of its own, which `task=NAME --help` shows.
"""

if __name__ == "__main__":  # before torch is imported
    from probes.words import rewrite, task_of
    from train.config.early import early

    early("probe", rewrite, task_of)

import shutil
import sys
from collections.abc import Sequence

from models.gpt import GPT
from probes.analyses import capability, collapse, futures, merge, premise, provenance, recovery, signal
from probes.runs import Run, check_vocabulary, checkpoint, open_run, plain, run_entry, set_up
from probes.settings import ProbeConfig
from probes.tasks import export, layers, mistakes
from probes.tasks.published import beside
from probes.tasks.task import Task
from probes.words import rewrite, task_of

ANALYSES = (signal, provenance, capability, recovery, futures, premise, merge, collapse)
TASKS: dict[str, Task] = {m.TASK.config.task: m.TASK for m in (layers, mistakes, export, *ANALYSES)}


def main(config: ProbeConfig) -> None:
    """Does the task into a run folder; one that is complete is only shown again."""
    if config.task not in TASKS:
        raise ValueError(f"task={config.task}: accepted: {', '.join(TASKS)}")
    device, task = str(set_up(config.threads, config.device)), TASKS[config.task]
    models: dict[str, GPT] = {}
    paths = {"model": config.model, **task.checkpoints(config)}
    for setting, path in paths.items():
        check_vocabulary(checkpoint.notes(path, setting), config.data, path)
        models[setting] = checkpoint.load_model(path, setting, device)
    prepared = task.prepare(config, models)
    inputs = {setting: checkpoint.weights_digest(path, setting) for setting, path in paths.items()}
    seeds = {"probe": config.seed, "data": config.data.seed}
    kind = "probe" if config.task == ProbeConfig.task else "analysis"
    with open_run(plain(config), inputs, seeds, config.data.fingerprint(), entry="probes.run", kind=kind) as run:
        if not run.complete:
            try:
                run.write_json("summary.json", task.run(config, models, prepared, run.path))
            except ValueError:
                if not run.resumed:  # a refusal leaves nothing behind
                    shutil.rmtree(run.path)
                raise
    summary = Run(run.path).summary
    print("\n".join([task.text(summary), *beside(summary, config.data.spec())]))
    print(run.path)


def entry(argv: Sequence[str]) -> int:
    """Runs the command with the settings of the task that `task=` names."""
    task = TASKS.get(task_of(argv))
    schema = task.config if task is not None else ProbeConfig
    return run_entry("probe", schema, main, __doc__ or "", argv, rewrite)


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
