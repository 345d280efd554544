"""Runs one training many times, killing it in every way there is, and prints how each ended (for test_resume).

Every run is a forked process that does what `python -m train.pretrain` does; the parent only loads libraries and
compiled kernels, so a fork is safe and costs neither.
Usage: python -m tests.helpers.torture.random_kills FOLDER WORDS...
"""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from synth.judge.checker import check
from synth.oracle.next_token import Oracle
from synth.store.files import read_json_lines
from tests.helpers.effort import effort
from train import pretrain
from train.config.compose import load
from train.core import checkpoint

RANDOM, EVERY = effort(4, 60), effort(4, 1)  # random moments; one file operation of a save in so many
NOT_SHARED = ("seconds", "tokens_per_second")  # wall time differs from run to run


def fork(folder: Path, words: list[str], arm=lambda: None) -> int:
    """Starts the training in a child, after `arm` has set its trap; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        sys.stdout = sys.stderr
        arm()
        pretrain.main(load("pretrain", pretrain.PretrainConfig, [*words, f"out.folder={folder}"]))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at_step(step: int):
    def arm():
        whole = pretrain.NextToken.__call__

        def call(self, model, k):
            if k == step:
                os._exit(9)
            return whole(self, model, k)

        pretrain.NextToken.__call__ = call

    return arm


def die_before_the_index(which: int):
    def arm():
        count, whole = 0, checkpoint.append_json_line

        def append(*arguments):
            nonlocal count
            count += 1
            if count == which:
                os._exit(9)
            whole(*arguments)

        checkpoint.append_json_line = append

    return arm


def die_writing_weights(which: int):
    def arm():
        count, whole = 0, checkpoint.save_weights

        def save(model, path, metadata):
            nonlocal count
            count += 1
            whole(model, path, metadata=metadata)
            if count == which:
                os.truncate(path, 100)
                os._exit(9)

        checkpoint.save_weights = save

    return arm


def die_within(steps: float):
    """The kernel ends the child at once, wherever it is, so many steps after its first two.

    Their length is that of the second step, in CPU time of the child itself: a fast machine or a busy one does not
    bring the end of the training before that moment, as it can with a delay on the parent's clock.
    """

    def arm():
        starts, whole = [], pretrain.NextToken.__call__

        def call(self, model, k):
            starts.append(time.process_time())
            if len(starts) == 3:
                signal.setitimer(signal.ITIMER_PROF, steps * (starts[2] - starts[1]))
            return whole(self, model, k)

        pretrain.NextToken.__call__ = call

    return arm


def kill_at_random(folder: Path, words: list[str], times: int) -> list[int]:
    """Starts the run again and again, each time to die at a random moment of its next twelve steps."""
    moments = np.random.default_rng(int(os.environ.get("KILL_SEED", "0"))).uniform(0.1, 12.0, times)
    return [end(fork(folder, words, die_within(moment))) for moment in moments]


FILE_WORK = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.listdir", "os.scandir")


def die_inside_a_save(which: int):
    """SIGKILL before file operation number `which` of a save, the first one that has so many."""

    def arm():
        count, whole = None, checkpoint.save

        def save(*arguments):
            nonlocal count
            count = 0
            whole(*arguments)
            count = None

        def watch(event, _arguments):
            nonlocal count
            if count is not None and event in FILE_WORK:
                count += 1
                if count == which:
                    os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save = save
        sys.addaudithook(watch)

    return arm


def kill_in_every_save(folder: Path, words: list[str]) -> list[int]:
    """Kills the run before one file operation of a save after another, until none is left to die at."""
    codes = []
    while not codes or codes[-1] != 0:
        codes.append(end(fork(folder, words, die_inside_a_save(EVERY * len(codes) + 1))))
    return codes


def damage(folder: Path) -> None:
    """Flips one bit of the weights of the newest checkpoint."""
    victim = checkpoint.latest(folder) / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)


def outcome(folder: Path, deaths: list[int]) -> dict:
    last = checkpoint.latest(folder)
    rows = read_json_lines(folder / "metrics.jsonl")
    return {
        "deaths": deaths,
        "final": hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest(),
        "step": int(last.name.removeprefix("step-")),
        "rows": [{k: v for k, v in row.items() if k not in NOT_SHARED} for row in rows],
        "tokens": json.loads((folder / "ledger.json").read_text())["tokens"],
        "complete": (folder / "summary.json").exists(),
        "leftovers": sorted(p.name for p in folder.rglob("*.tmp")),
    }


def warm_up(words: list[str]) -> None:
    """Has numba load the kernels that a run calls."""
    source = load("pretrain", pretrain.PretrainConfig, words).data.source("train")
    documents = source.documents(range(2))
    Oracle(source.spec).documents(documents)
    check(documents.problems, source.world, np.zeros((2, 8), "int64"), np.full(2, 8))


def main(root: Path, words: list[str]) -> None:
    warm_up(words)
    traps = {
        "straight": None,
        "step": die_at_step(12),
        "first step": die_at_step(3),
        "index": die_before_the_index(2),
        "weights": die_writing_weights(2),
        "damage": die_at_step(13),
    }
    results = {}
    for name, trap in traps.items():
        folder, deaths = root / name, []
        if trap:
            deaths.append(end(fork(folder, words, trap)))
        if name == "damage":
            damage(folder)
        deaths.append(end(fork(folder, words)))
        results[name] = outcome(folder, deaths)
    folder = root / "saving"
    deaths = kill_in_every_save(folder, [*words, "out.save_every=1", "out.keep=1"])
    results["saving"] = outcome(folder, deaths)
    folder = root / "random"
    deaths = kill_at_random(folder, words, times=RANDOM)
    deaths.append(end(fork(folder, words)))
    results["random"] = outcome(folder, deaths)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
