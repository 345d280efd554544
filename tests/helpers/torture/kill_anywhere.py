"""Work that is killed at random moments, on full disks and with a clock set back, and started again until it is done.

`python -m tests.helpers.torture.kill_anywhere FOLDER COUNT` kills pretraining, distillation, a data set, a file of
records and a recipe COUNT times in all (SIGKILL by the parent, wherever the work is), and prints what came of it as
JSON. Whatever happened, the work ends with what it ends with undisturbed, bit for bit, and leaves no temporary file.
Every piece of work is a forked process, so that libraries and compiled kernels are loaded once.
"""

import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from synth.exit_codes import run_command
from synth.spec import preset
from synth.store import writers
from synth.store.files import sha256
from tests.helpers.run_folders import files_of
from tests.helpers.torture.random_kills import end, warm_up
from tests.helpers.untrained_models import save_untrained
from train import pretrain, recipe
from train.config.compose import run_entry
from train.core import checkpoint
from train.opd import run as opd

SMALL = [
    "data=smoke", "evaluate.every=4", "evaluate.problems=2", "evaluate.documents=4", "evaluate.samples=1",
    "out.save_every=2", "out.log_every=1",
]  # fmt: skip
PRETRAIN = [*SMALL, "model=smoke", "budget.steps=12", "batch.documents=2", "batch.bucket=2"]
DISTIL = [*SMALL, "method=opd", "budget.steps=6", "prompts=4", "max_new=12", "evaluate.samples_per_problem=0"]
DISTIL += ["evaluate.continuations=0", "evaluate.ood=0"]
SPEC = preset("med", retry_rate=0.3)
Work = Callable[[Path], object]


def pretraining(root: Path) -> object:
    return run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*PRETRAIN, f"out.folder={root / 'run'}"])


def distillation(root: Path) -> object:
    models = [f"{name}={root.parent / name}" for name in ("student", "teacher")]
    return opd.entry([*DISTIL, *models, f"out.folder={root / 'run'}"])


def data_set(root: Path) -> object:
    return run_command(lambda: writers.write_shards(SPEC, 5, "train", 10, 50, 1, str(root / "data"), shard=8))


def records(root: Path) -> object:
    out = root / "data.jsonl"
    return 0 if out.exists() else run_command(lambda: writers.write_lines(SPEC, 5, "train", 0, 60, 1, str(out)))


def small_recipe(root: Path) -> object:
    """A student, and its distillation from a teacher that is there."""
    first, second = ([word.split("=", 1) for word in words] for words in (PRETRAIN, DISTIL))
    stages = {
        "student": recipe.StageConfig("train.pretrain", set=dict(first)),
        "opd": recipe.StageConfig("train.opd.run", set=dict(second) | {"student": "@student", "teacher": "@student"}),
    }
    made = recipe.RecipeFile("small", "A small recipe", stages=stages)
    config = recipe.RecipeConfig(made, recipe.ScaleFile("cpu", claims=False), out=str(root))
    code = run_command(lambda: recipe.main(config))
    return 2 if code == 1 else code  # 1: of a stage that the recipe before it is still ending, or that has no room


WORKS: dict[str, Work] = {
    "pretraining": pretraining, "distillation": distillation, "data set": data_set, "records": records,
    "recipe": small_recipe,
}  # fmt: skip


def outcome(root: Path) -> dict[str, str]:
    """The weights of every run at its end, and every byte of data."""
    found = {}
    for index in sorted(root.rglob(checkpoint.INDEX)):
        assert (index.parent / "summary.json").is_file(), index
        step = checkpoint.find(index.parent)
        found[index.parent.name.partition("-")[0]] = f"{step.name} {sha256(step / checkpoint.WEIGHTS)}"
    data = (root / "data", root / "data.jsonl")
    found |= {f"{name}": str(hash(content)) for d in data if d.is_dir() for name, content in files_of(d).items()}
    return found | {path.name: sha256(path) for path in data if path.is_file()}


def fork(work: Work, root: Path, back: float = 0.0, room: int | None = None) -> int:
    """Starts the work in a child, whose clock is `back` seconds late and whose files have no more `room`."""
    if pid := os.fork():
        return pid
    os.setsid()  # a recipe's stages end with it
    with (root / "said").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    clock = time.time
    time.time = lambda: clock() - back
    if room is not None:
        sys.dont_write_bytecode = True  # Python would leave half a file there, without an error
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        os._exit(int(work(root) or 0))
    except BaseException as error:
        print(f"BUG {error!r}", flush=True)
        os._exit(1)


def disturb(root: Path, rng: np.random.Generator) -> None:
    """Gives every file a time at random: what was written when decides nothing."""
    for path in root.rglob("*"):
        if rng.random() < 0.5 and path.is_file():
            os.utime(path, (moment := float(rng.uniform(0, 2e9)), moment))


def to_the_end(work: Work, root: Path, seconds: float, kills: int, rng: np.random.Generator, counts: Counter) -> None:
    """Starts the work until it has ended well, killed up to `kills` times at moments of the time that it takes."""
    root.mkdir(parents=True)
    undisturbed = 0  # starts, one after the other; a recipe may have to wait for the stages of the one before it
    while True:
        kind = "kill" if counts["kill"] < kills else "nothing"
        if kind == "kill" and rng.random() < 0.1:
            kind = "full disk"
        room = int(rng.uniform(0, 60_000)) if kind == "full disk" else None
        pid = fork(work, root, back=float(rng.choice([0.0, 1e5, 1e9])), room=room)
        second = fork(work, root) if rng.random() < 0.1 else None  # another process in the same folder
        if kind == "kill":
            time.sleep(rng.uniform(0, 1.1) * seconds)
            os.kill(pid, signal.SIGKILL)
        code = end(pid)
        if second is not None:
            counts["second"] += 1
            code = min(code, end(second), key=abs)
        counts[kind if code else "ended"] += 1
        undisturbed = undisturbed + 1 if kind == "nothing" else 0
        assert code in (0, 2, -signal.SIGKILL) and undisturbed < 20, (root, code, (root / "said").read_text())
        disturb(root, rng)
        if code == 0:
            break


def main(root: Path, count: int, names: list[str]) -> None:
    warm_up([*PRETRAIN, f"out.folder={root}"])
    for k, name in enumerate(("student", "teacher")):
        save_untrained(root / name, seed=k)
    rng, report = np.random.default_rng(int(os.environ.get("KILL_SEED", "0"))), {}
    for name in names or list(WORKS):
        work, straight = WORKS[name], root / f"{name} straight"
        begun, counts, wrong = time.monotonic(), Counter(), []
        to_the_end(work, straight, 0.0, 0, np.random.default_rng(1), Counter())
        seconds, wanted = time.monotonic() - begun, -(-count // len(names or WORKS))
        while counts["kill"] < wanted:
            folder = root / f"{name} {counts['ended']}"
            to_the_end(work, folder, seconds, min(wanted, counts["kill"] + 10), rng, counts)
            if outcome(folder) != outcome(straight):
                wrong.append(str(folder))
            wrong += [str(p) for p in folder.rglob("*.tmp")]
            said = (folder / "said").read_text()
            wrong += [line for line in said.splitlines() if "Traceback" in line or "BUG" in line]
        report[name] = {**counts, "wrong": wrong}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
