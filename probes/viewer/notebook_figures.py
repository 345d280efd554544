"""What a notebook shows of a run: a problem, the model's solution of it, and the map of what probes read.

Everything comes from saved runs, or from the zoo where there are none; nothing is trained here.

    look = Look.at()                 # the newest teacher under runs/, or Look.at("runs/quickstart/teacher-1a2b3c4d")
    print(look.problem(0))
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from matplotlib import rc_context

from models.gpt import GPT
from probes.runs import (
    RC_PARAMS,
    DataConfig,
    Experiment,
    Run,
    checkpoint,
    draw,
    evaluate,
    layer_map,
    rollout_fragment,
    run_folder_name,
)
from synth.dataset import Source
from synth.store.encodings import PHRASE
from synth.view.text import show

RUNS = Path(__file__).resolve().parents[2] / "runs"
MAKE_ONE, KEPT = "python -m train.recipe recipe=quickstart", "zoo/tiny-teacher-0"


@dataclass(frozen=True)
class Look:
    """A run and where its problems come from."""

    source: Source
    run: Path
    model: GPT
    note: str

    @classmethod
    def at(cls, path: str | Path | None = None, runs: Path = RUNS, stream: str = "look") -> "Look":
        """The run at `path`, or the newest one under `runs`, the quickstart's teacher first, or a teacher of the zoo.

        Raises ValueError when `path` is given and holds no checkpoint.
        """
        run = checkpoint.expand_zoo_path(path, "run") if path else newest(runs)
        model = checkpoint.load_model(run, "run")
        data = DataConfig(**checkpoint.notes(run, "run")["data"])
        if data.tokens != PHRASE:
            raise ValueError(f"{run}: was trained with data.tokens={data.tokens}; accepted: a run with {PHRASE} tokens")
        return cls(
            data.source("test", stream), run, model, f"{run_folder_name(str(run))}: {data.preset} world, test split"
        )

    def problem(self, index: int) -> str:
        """Problem `index` as text: the question, the graph of parameters, and the generator's own solution."""
        return show(self.source, self.source.documents([index]), 0, index, colour=False)

    def solution(self, index: int) -> str:
        """The model's greedy solution as HTML, each step with the checker's verdict."""
        sample = evaluate(self.model, self.source, [index]).samples(self.source, 1)[0]
        return rollout_fragment(sample)

    def layer_map(self) -> bytes | None:
        """PNG of this model's newest finished probe run: accuracy over layers beside the controls. None without one."""
        run = self.probe_run()
        if run is None:
            return None
        with rc_context(RC_PARAMS):
            image = BytesIO()
            draw(layer_map, [Experiment({run.name: run})]).figure.savefig(image, format="png")
        return image.getvalue()

    def probe_run(self) -> Run | None:
        """The newest finished probe run whose `model` is this run, beside it or under runs/probes."""
        name = run_folder_name(str(self.run))
        home = next((p for p in (self.run, *self.run.parents) if p.name == name), self.run).parent
        found = [Run(p.parent) for folder in (home, home.parent / "probes") for p in folder.glob("*/summary.json")]
        mine = [run for run in found if run.kind == "probe" and run_folder_name(str(run.config.get("model"))) == name]
        return max(mine, key=lambda run: (run.folder / "summary.json").stat().st_mtime, default=None)

    @property
    def no_probe(self) -> str:
        """What to do when there is no probe run."""
        return f"No finished probe run of this model: first run `python -m probes.run model={self.run}`."


def newest(runs: Path) -> Path:
    """The quickstart's newest teacher, else the newest run of any kind that has a checkpoint, else one of the zoo."""
    for pattern in ("quickstart/teacher-*/checkpoints.jsonl", "*/*/checkpoints.jsonl"):
        found = [index for index in runs.glob(pattern) if checkpoint.latest(index.parent) is not None]
        if found:
            return max(found, key=lambda index: index.stat().st_mtime).parent
    return checkpoint.expand_zoo_path(KEPT)
