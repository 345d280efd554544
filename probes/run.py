"""Probing: what can be read from the hidden states of a saved model, beside what is read without them.

    python -m probes.run model=runs/quickstart/teacher-1a2b3c4d data=tiny probe=quickstart
    python -m probes.run task=mistakes checkpoint=runs/quickstart/teacher-1a2b3c4d
    python -m probes.run task=export checkpoint=runs/quickstart/teacher-1a2b3c4d export.tasks=[nece]
    python -m probes.run task=capability checkpoint=runs/quickstart/opd-5e6f7a8b capability.before=STUDENT

`model` (or `checkpoint`) is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder. Results go to a
run folder. task=layers: summary.json holds a row for each task, probe and layer, with every control beside it; the same
command again continues after the last part that was finished. task=mistakes: a table of what goes wrong, whether the
model knew, and what retrying upon regret brings. task=export: activations as safetensors, labels as parquet. The
other tasks analyse distillation (`probes.analyses`): tables/*.csv, one figure, and the same tables in summary.json.
"""

import sys
from collections.abc import Sequence

from probes.analyses.run import MODULES, analyse, words
from probes.runs import check_vocabulary, checkpoint, open_run, plain, run_entry, set_up
from probes.settings import EXPORT, LAYERS, ProbeConfig
from probes.tasks import export, layers, mistakes, mistakes_table
from probes.tasks.published import beside
from probes.tasks.results import table
from synth.store.files import read_json


def main(config: ProbeConfig) -> None:
    """Probes one checkpoint into a run folder; a complete one is only shown again."""
    device = set_up(config.threads, config.device)
    if config.task in MODULES:
        analysis = analyse(config, str(device))
        print(words(analysis))
        print(analysis.path)
        analysis.close()
        return
    check_vocabulary(checkpoint.notes(config.model, "model"), config.data, config.model)
    model = checkpoint.load_model(config.model, "model", str(device))
    world = config.data.spec().load_world()
    part = {LAYERS: layers, EXPORT: export}.get(config.task, mistakes)
    splits = {task: layers.split(task, config) for task in part.tasks(config)}
    part.check(config, model, splits)
    seeds = {"probe": config.seed, "data": config.data.seed}
    inputs = {"model": checkpoint.weights_digest(config.model, "model")}
    kind = "probe" if config.task == LAYERS else "analysis"
    run = open_run(plain(config), inputs, seeds, config.data.fingerprint(), entry="probes.run", kind=kind)
    if not run.complete:
        run.write_json("summary.json", part.run(config, model, world, splits, run.path))
    summary = read_json(run.path / "summary.json")
    print({LAYERS: table, EXPORT: export.table}.get(config.task, mistakes_table.table)(summary))
    for line in beside(summary, config.data.spec()):
        print(line)
    print(run.path)


def named(words: Sequence[str]) -> list[str]:
    """The words of the command line with `checkpoint=`, as the other entries call it, read as `model=`."""
    return [f"model={word.partition('=')[2]}" if word.startswith("checkpoint=") else word for word in words]


if __name__ == "__main__":
    sys.exit(run_entry("probe", ProbeConfig, main, __doc__ or "", named(sys.argv[1:])))
