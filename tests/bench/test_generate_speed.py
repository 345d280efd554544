"""Problems per second with tokens and truth on one core, beside the same code without the JIT. Try: `make bench`.

Three tables: the presets (20,000 med and 12,000 hard problems per second are wanted), the cost against the number of
operations up to 64 (wanted: no faster than linear, so the last column must not grow), and the first page a person
sees. Times are of the process, best of three; nothing about time is asserted.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synth.dataset import Source
from synth.spec import preset

ROOT = Path(__file__).resolve().parents[2]
PLAIN = """
import json, sys, time
from synth.dataset import Source
from synth.spec import preset
source = Source(preset(sys.argv[1]), 0)
start = time.process_time()
source.documents(range(100))
print(json.dumps((time.process_time() - start) / 100))
"""


def seconds_each(source: Source, count: int, method: str = "documents") -> float:
    """Seconds of process time for one problem."""
    make, best = getattr(source, method), float("inf")
    make(range(2))  # compiles
    for _ in range(3):
        start = time.process_time()
        make(range(count))
        best = min(best, time.process_time() - start)
    return best / count


@pytest.mark.parametrize("name", ["tiny", "med", "hard"])
def test_problems_per_second(name):
    source = Source(preset(name), 0)
    with_tokens, without = seconds_each(source, 4000), seconds_each(source, 4000, "problems")
    environment = {**os.environ, "GLASSHOUSE_JIT": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, name], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    plain = json.loads(done.stdout)
    tokens = len(source.documents(range(4000)).tokens) / 4000
    print(
        f"\n{name}: {1 / with_tokens:,.0f} problems/s with {tokens:.0f} tokens each, {1 / without:,.0f}/s without; "
        f"plain Python {1 / plain:,.0f}/s; ratio {plain / with_tokens:.0f}"
    )


def test_cost_against_operations():
    print("\n  ops   problems/s   microseconds   microseconds per op")
    for ops in (1, 2, 4, 8, 16, 24, 32, 48, 64):
        spec = preset("med", ops=ops, exact_ops=True, edges=min(48, max(20, -(-4 * ops // 3))), letters=104)
        each = seconds_each(Source(spec, 0, "all"), 600)
        print(f"  {ops:3d}   {1 / each:10,.0f}   {1e6 * each:12.0f}   {1e6 * each / ops:19.1f}")


def test_split_and_mistakes_cost():
    print()
    for title, settings in (
        ("template split", {}),
        ("template split, published order", {"solution_order": "published"}),
        ("problem split", {"split_by": "problem"}),
        ("retry rate 0.5", {"retry_rate": 0.5}),
    ):
        rates = [
            1 / seconds_each(Source(preset("med", **settings), 0, split), 2000) for split in ("all", "train", "test")
        ]
        print(f"  med, {title:32s} all {rates[0]:8,.0f}/s   train {rates[1]:8,.0f}/s   test {rates[2]:8,.0f}/s")


def test_first_page_of_a_fresh_process():
    """Wall seconds until the first full problem is on the screen (wanted: under 1)."""
    first = []
    for _ in range(3):
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "synth.generate", "--ops", "15"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            for line in process.stdout:
                if line.startswith("Answer"):
                    first.append(time.perf_counter() - start)
                    break
            process.stdout.read()
    print(f"\nfirst problem after {min(first):.2f} s (best of three; worst {max(first):.2f} s)")
