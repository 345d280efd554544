"""Peak memory of training and rollouts beside `transformers`, each in a process of its own. Try: `make bench`."""

import pytest

from tests.bench.paired_timing import line
from tests.bench.peak_memory import CLEAR
from tests.helpers.commands import command

SHAPE = "llama, mini"


def peak(who: str, what: str) -> float:
    """MiB above what was there before the work."""
    done = command("tests.bench.model_memory", who, what, SHAPE, timeout=3600)
    done.check_returncode()
    return float(done.stdout)


@pytest.mark.skipif(not CLEAR.exists(), reason="needs the high-water mark of Linux")
@pytest.mark.parametrize("what", ["training", "rollouts"])
def test_memory(what):
    """The ratio is theirs over ours: above 1, we need less."""
    both = [(peak("ours", what), peak("theirs", what)) for _ in range(2)]
    ours, theirs = (sum(side) / len(both) for side in zip(*both, strict=True))
    each = sorted(b / a for a, b in both)
    print("\n" + line(f"peak memory, {what}, {SHAPE} (peer over ours)", "MiB", ours, theirs, each, per=""))
