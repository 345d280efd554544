"""An analysis as a run: its checkpoints opened and checked, its tables and figure written, its lines printed."""

import shutil
from types import ModuleType

from matplotlib import rc_context

from models.gpt import GPT
from probes.analyses import capability, collapse, futures, merge, premise, provenance, recovery, signal
from probes.analyses.parts import Parts
from probes.analyses.tables import as_csv, lines
from probes.runs import RC_PARAMS, RunFolder, check_vocabulary, checkpoint, open_run, plain, save
from probes.settings import ProbeConfig
from synth.store.files import atomic_write, read_json

MODULES: dict[str, ModuleType] = {
    module.NAME: module for module in (signal, provenance, capability, recovery, futures, premise, merge, collapse)
}


def analyse(config: ProbeConfig, device: str) -> RunFolder:
    """Runs config.task into its folder, unless it is complete. Raises ValueError for checkpoints that do not fit."""
    module = MODULES[config.task]
    paths = {"model": config.model, **module.checkpoints(config)}
    models: dict[str, GPT] = {}
    for setting, path in paths.items():
        check_vocabulary(checkpoint.notes(path, setting), config.data, path)
        models[setting] = checkpoint.load_model(path, setting, device)
    inputs = {setting: checkpoint.weights_digest(path, setting) for setting, path in paths.items()}
    seeds = {"analysis": config.seed, "data": config.data.seed}
    digest = config.data.fingerprint()
    run = open_run(plain(config), inputs, seeds, digest, entry="probes.run", kind="analysis")
    if not run.complete:
        try:
            tables = module.run(config, models, Parts(run.path / "metrics.jsonl"))
        except ValueError:
            if not run.resumed:  # what was refused leaves nothing behind
                shutil.rmtree(run.path)
            raise
        found = {"stage": "analysis", "task": config.task, **tables}
        (run.path / "tables").mkdir(exist_ok=True)
        for name, rows in (found["tables"] | found.get("curves", {})).items():
            atomic_write(run.path / "tables" / f"{name}.csv", as_csv(rows))
        with rc_context(RC_PARAMS):
            drawn = module.figure(found)
        save(drawn, run.path / "figures" / f"{config.task}.png")
        text = [*lines(found["tables"]), *found["notes"]]
        of = {"title": drawn.title, "caption": drawn.caption}
        run.write_json("summary.json", found | {"lines": text, "figure": of})
    return run


def words(run: RunFolder) -> str:
    """The tables and notes of a complete run, for a person."""
    return "\n".join(read_json(run.path / "summary.json")["lines"])
