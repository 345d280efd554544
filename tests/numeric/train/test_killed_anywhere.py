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
import os, sys
from pathlib import Path
from tests.helpers.torture import kill_anywhere as k
from train import pretrain
from train.opd.objective import Objective
root, steps = Path(sys.argv[1]), int(sys.argv[3])
root.mkdir()
page = os.sysconf("SC_PAGE_SIZE")
used = []
of = {"pretraining": pretrain.NextToken, "distillation": Objective}[sys.argv[2]]
whole = of.__call__
def call(self, model, step):
    used.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    return whole(self, model, step)
of.__call__ = call
for i, name in enumerate(("student", "teacher")):
    k.save_untrained(root.parent / name, seed=i)
for words in (k.PRETRAIN, k.DISTIL):
    words[:] = [w for w in words if "budget" not in w] + [f"budget.steps={steps}", "out.keep=1", "out.save_every=50"]
assert k.WORKS[sys.argv[2]](root) == 0
print(used[steps // 3], used[-1])
"""


@pytest.mark.skipif(not TORTURE, reason="thousands of steps; make torture")
@pytest.mark.parametrize("work", ["pretraining", "distillation"])
def test_memory_does_not_grow_with_the_steps(tmp_path, work):
    """Resident memory after a third of the steps and at the end: less than a kilobyte a step more."""
    steps = 3000
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "work"), work, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    third, last = map(int, done.stdout.split()[-2:])
    assert last - third < 1000 * (steps * 2 // 3), f"{(last - third) / 1e6:.1f} MB in {steps * 2 // 3} steps"
