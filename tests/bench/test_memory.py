"""Peak memory of training and rollouts beside `transformers`, each in a process of its own. Try: `make bench`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paired_timing import line
from tests.helpers.paths import ROOT

SHAPE = "llama, mini"


def peak(who: str, what: str) -> float:
    """MiB above what was there before the work."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.peak_memory", who, what, SHAPE],
        check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return float(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the high-water mark of Linux")
@pytest.mark.parametrize("what", ["training", "rollouts"])
def test_memory(what):
    """The ratio is theirs over ours: above 1, we need less."""
    both = [(peak("ours", what), peak("theirs", what)) for _ in range(2)]
    ours, theirs = (sum(side) / len(both) for side in zip(*both, strict=True))
    each = sorted(b / a for a, b in both)
    print("\n" + line(f"peak memory, {what}, {SHAPE} (peer over ours)", "MiB", ours, theirs, each, per=""))
