"""Problems per second with tokens and truth on one core, beside a straightforward generator. Try: `make bench`.

The presets (20,000 med and 12,000 hard problems per second are wanted) beside the object graph of
`tests/bench/object_graph.py` and beside the same kernels without the JIT, in the same run; the cost against the number
of operations up to 64 (wanted: no faster than linear: the exponent between 8 and 64 must not pass one); and the first
page a person sees. Times are of the process, best of three; nothing about time is asserted.

    python -m tests.bench.plot_generate_speed        # the figure of cost against operations
"""

import json
import os
import subprocess
import sys
import time

import pytest

from synth.dataset import Source
from synth.spec import preset
from tests.bench.paired_timing import line, ratios
from tests.bench.plot_generate_speed import OPS, exponent, kernels, objects, seconds_each
from tests.helpers.paths import ROOT

PLAIN = """
import json, sys, time
from synth.dataset import Source
from synth.spec import preset
source = Source(preset(sys.argv[1]), 0)
start = time.process_time()
source.documents(range(100))
print(json.dumps((time.process_time() - start) / 100))
"""


@pytest.mark.parametrize("name", ["med", "hard"])
def test_problems_per_second(name):
    source = Source(preset(name), 0)
    with_tokens, without = seconds_each(source, 4000), seconds_each(source, 4000, "problems")
    environment = {**os.environ, "GLASSHOUSE_JIT": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, name], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    plain = json.loads(done.stdout)
    tokens = len(source.documents(range(4000)).tokens) / 4000

    def kernels_made() -> int:
        source.documents(range(4000))
        return 4000

    def objects_made() -> tuple[float, float]:
        return 400, 400 * objects(source.spec, False, 400)

    found = ratios(kernels_made, objects_made, rounds=5)
    print("\n" + line(f"generator with tokens, {name} (peer: object graph)", "problems", *found))
    print(
        f"{name}: {1 / with_tokens:,.0f} problems/s with {tokens:.0f} tokens each, {1 / without:,.0f}/s without; "
        f"without the JIT {1 / plain:,.0f}/s, ratio {plain / with_tokens:.0f}"
    )


def test_cost_against_operations():
    print("\n  ops   problems/s   microseconds   microseconds per op   object graph")
    each, naive = [kernels(ops) for ops in OPS], [objects(None, True, 30, ops) for ops in OPS]
    for ops, mine, theirs in zip(OPS, each, naive, strict=True):
        print(f"  {ops:3d}   {1 / mine:10,.0f}   {1e6 * mine:12.0f}   {1e6 * mine / ops:19.1f}   {1e6 * theirs:12,.0f}")
    print(f"  exponent from 8 to 64 operations: {exponent(each):.2f}, object graph {exponent(naive):.2f}")


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
