"""Killed for real at random moments, on full disks, beside another process, with a clock set back: the same bits."""

import json
import subprocess
import sys

import pytest

from tests.helpers.commands import environment
from tests.helpers.effort import TORTURE, effort
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.timeout(effort(900, 40_000))


def test_work_that_is_killed_anywhere_ends_with_the_same_bits(tmp_path):
    """In `make torture` a thousand kills over pretraining, distillation, data and a recipe; else a few of two."""
    names = [] if TORTURE else ["distillation", "records"]
    command = [
        sys.executable,
        "-m",
        "tests.helpers.torture.kill_anywhere",
        str(tmp_path / "work"),
        str(effort(4, 1000)),
        *names,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report, indent=1))  # shown by `make torture`
    assert all(row["wrong"] == [] and row["ended"] >= 1 for row in report.values()), report
    assert sum(row["kill"] for row in report.values()) >= effort(4, 1000)


MEMORY = """
import ctypes, gc, os, sys
from pathlib import Path
from tests.helpers.torture import kill_anywhere as k
from train import pretrain
from train.opd.objective import Objective

class Heap(ctypes.Structure):  # glibc's struct mallinfo2
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

heap = ctypes.CDLL(None).mallinfo2
heap.restype = Heap
root, steps, rows = Path(sys.argv[1]), int(sys.argv[3]), []
root.mkdir()
of = {"pretraining": pretrain.NextToken, "distillation": Objective}[sys.argv[2]]
whole = of.__call__
def call(self, model, step):
    if len(rows) in (steps // 3, steps - 1):
        gc.collect()  # what only waits for the collector is no leak
    now = heap()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    rows.append((now.uordblks + now.hblkhd, resident))
    return whole(self, model, step)
of.__call__ = call
for i, name in enumerate(("student", "teacher")):
    k.save_untrained(root.parent / name, seed=i)
for words in (k.PRETRAIN, k.DISTIL):
    words[:] = [w for w in words if "budget" not in w] + [f"budget.steps={steps}", "out.keep=1", "out.save_every=50"]
assert k.WORKS[sys.argv[2]](root) == 0
print(*rows[steps // 3], *rows[-1])
"""


@pytest.mark.skipif(not TORTURE, reason="thousands of steps; make torture")
@pytest.mark.parametrize("work", ["pretraining", "distillation"])
def test_memory_does_not_grow_with_the_steps(tmp_path, work):
    """After a third of the steps and at the end, in bytes: memory in use (200 a step more at most, and a megabyte for
    buffers that once have to hold a longer text), and resident memory (1,500 a step: the heap's holes settle slowly,
    and large pages come 2 MB at a time)."""
    steps = 3000
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "work"), work, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    in_use_third, third, in_use_last, last = map(int, done.stdout.split()[-4:])
    more = (in_use_last - in_use_third, last - third)
    print(f"{work}: {more[0] / 1e3:.0f} kB in use and {more[1] / 1e3:.0f} kB resident more in {steps * 2 // 3} steps")
    assert more[0] < 200 * steps * 2 // 3 + 2**20 and more[1] < 1500 * steps * 2 // 3 + 2**21
