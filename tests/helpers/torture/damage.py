"""One bit flipped somewhere in a folder, and what the commands make of it: named in one line, or without effect.

`trial` copies a folder, damages the copy and calls a reader of it. `python -m tests.helpers.torture.damage N` does so
at N random places of a run, a run that was stopped, a step folder, shards and a model of the zoo, and prints the
counts.
"""

import contextlib
import io
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synth import audit
from synth.exit_codes import run_command
from synth.spec import preset
from synth.store import writers
from tests.helpers.untrained_models import save_untrained
from train import compare, pretrain, zoo
from train.config.compose import run_entry
from train.core import checkpoint, zoo_paths
from train.report.__main__ import main as report

SMALL = [
    "data=smoke", "model=smoke", "budget.steps=6", "batch.documents=2", "batch.bucket=2", "evaluate.every=0",
    "out.save_every=2", "out.log_every=1",
]  # fmt: skip


NOTE = re.compile("(is complete already, nothing is run again|goes on from step [0-9,]+)$")  # said before what is wrong


class Said(NamedTuple):
    """What a command did: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


class Subject(NamedTuple):
    """A folder, what to call on a copy of it, and files that nobody reads."""

    folder: Path
    read: Callable[[Path], object]
    unread: Sequence[str] = ()


def say(call: Callable[[], object]) -> Said:
    """What a command says in this process; any error that `run_command` does not expect is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(lambda: _code(call()))
    if code in (130, 143):  # somebody wants this process to end
        raise SystemExit(code)
    return Said(code, out.getvalue(), err.getvalue())


def _code(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def flip(folder: Path, rng: np.random.Generator, unread: Sequence[str] = ()) -> Path:
    """Flips one bit of one file, each file being as likely as another; returns the file."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size and p.name not in unread]
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return path


def said_of(subject: Subject, work: Path, rng: np.random.Generator | None = None) -> tuple[Path, Said]:
    """What is said of a copy, with `rng` a damaged one; and the damaged file."""
    copy = work / "copy" / subject.folder.name  # of the same name, which stands in what is said
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(subject.folder, copy)
    path = copy if rng is None else flip(copy, rng, subject.unread)
    return path, say(lambda: subject.read(copy))


def trial(subject: Subject, before: Said, rng: np.random.Generator, work: Path) -> tuple[str, str]:
    """(`named`, `no effect` or `SILENT`, a line about it) after one flip; before: what is said of the folder whole."""
    path, after = said_of(subject, work, rng)
    line = f"{path.relative_to(work)}: {after.code} {after.err.strip()[:200]}"
    named = path.name in after.err or path.parent.name in after.err
    said = [text for text in after.err.splitlines() if not NOTE.search(text)]
    if after.code == 2 and named and len(said) == 1 and said[0].startswith("error: "):
        return "named", line
    if after.code == before.code == 0 and after.out == before.out:
        return "named" if named else "no effect", line
    return "SILENT", line


def read_run(folder: Path) -> None:
    """All that reads a finished run: its table, its model, its report, and the command that made it."""
    for call in (lambda: compare.main([str(folder)]), lambda: train(folder)):
        if (code := call()) != 0:
            raise SystemExit(code)
    print(checkpoint.weights_digest(folder), checkpoint.load_model(folder).config)


def read_report(folder: Path) -> None:
    """The report of a run."""
    report([str(folder)])
    print(len((folder / "report.html").read_text(encoding="utf-8")))


def train(folder: Path) -> int:
    """The command that made, or goes on with, a run."""
    return run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*SMALL, f"out.folder={folder}"])


def go_on(folder: Path) -> None:
    """A run that was stopped goes on; in the end its weights are said."""
    if (code := train(folder)) != 0:
        raise SystemExit(code)
    print(checkpoint.weights_digest(folder))


def read_model(folder: Path) -> None:
    """What every command reads of a checkpoint."""
    model = checkpoint.load_model(folder)
    print(checkpoint.notes(folder), model.config, [p.sum().item() for p in model.parameters()])


def read_shards(folder: Path) -> None:
    """The audit of a data set."""
    audit.main([str(folder)])


def read_zoo(folder: Path) -> None:
    """The row of a model of the zoo in its list, and its weights."""
    before, zoo_paths.ZOO = zoo_paths.ZOO, folder.parent
    try:
        print(zoo.row(folder.name), checkpoint.weights_digest(f"zoo/{folder.name}"))
    finally:
        zoo_paths.ZOO = before


class Subjects(dict):
    """The folders to damage by name, each made below `root` when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> Subject:
        self[name] = MAKE[name](self.root)
        return self[name]


def finished(root: Path, read: Callable[[Path], object] = read_run) -> Subject:
    """A training run."""
    if not (root / "run").exists():
        assert train(root / "run") == 0
    return Subject(root / "run", read, (".lock", checkpoint.OPTIMIZER))


def stopped(root: Path) -> Subject:
    """A training run that was interrupted at step 5, with checkpoints of steps 2 and 4."""
    whole = pretrain.NextToken.__call__

    def dying(self, model, step):
        if step == 5:
            raise KeyboardInterrupt
        return whole(self, model, step)

    pretrain.NextToken.__call__ = dying
    try:
        assert train(root / "stopped") == 130
    finally:
        pretrain.NextToken.__call__ = whole
    return Subject(root / "stopped", go_on, (".lock", "ledger.json"))


def alone(root: Path) -> Subject:
    """A step folder that was copied by itself."""
    step = checkpoint.find(save_untrained(root / "untrained"))
    return Subject(shutil.copytree(step, root / "alone"), read_model, (checkpoint.OPTIMIZER,))


def shards(root: Path) -> Subject:
    """A data set."""
    writers.write_shards(preset("tiny", ops=2, edges=4), 0, "train", 0, 12, 1, str(root / "shards"), shard=6)
    return Subject(root / "shards", read_shards, ("shard.json",))


MAKE: dict[str, Callable[[Path], Subject]] = {
    "a finished run": finished,
    "its report": lambda root: finished(root, read_report),
    "a run that was stopped": stopped,
    "a checkpoint alone": alone,
    "shards": shards,
    "the zoo": lambda _: Subject(zoo_paths.ZOO / "tiny-student-0", read_zoo),
}


def main(count: int) -> int:
    """Flips `count` bits and prints what came of them; returns 1 if one had an effect that nobody named."""
    rng, counts, silent = np.random.default_rng(0), Counter(), []
    with tempfile.TemporaryDirectory() as root:
        found = Subjects(Path(root))
        before = {name: said_of(found[name], Path(root))[1] for name in MAKE}
        for i in range(count):
            name = list(MAKE)[i % len(MAKE)]
            came, line = trial(found[name], before[name], rng, Path(root))
            counts[name, came] += 1
            silent += [f"{name}: {line}"] if came == "SILENT" else []
    for (name, came), number in sorted(counts.items()):
        print(f"{name:24} {came:10} {number}")
    print("\n".join(silent))
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
