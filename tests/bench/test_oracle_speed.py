"""How fast the oracle answers, as rows of log-probabilities over the vocabulary. Try: `make bench`.

The peer is the same walk in plain Python, the obvious way to do it (`GLASSHOUSE_JIT=0`, in a process of its own).
Nothing about time is asserted; lines with the rates and their ratio are printed.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

from synth.dataset import Source
from synth.oracle.next_token import Oracle
from synth.spec import preset
from tests.bench.paired_timing import line

MANY, BLOCK = 1024, 4096
PLAIN = (
    "import sys, time; from synth.dataset import Source\n"
    "from synth.oracle.next_token import Oracle; from synth.spec import preset\n"
    "spec = preset(sys.argv[1], retry_rate=0.2); documents = Source(spec, 0).documents(range(4))\n"
    "for _ in range(3):\n"
    "    start = time.process_time(); next_token = Oracle(spec).documents(documents)\n"
    "    print(len(next_token.status) / (time.process_time() - start))"
)


@pytest.mark.parametrize("name", ["tiny", "med", "hard"])
def test_oracle_speed(name):
    spec = preset(name, retry_rate=0.2)
    oracle, documents = Oracle(spec), Source(spec, 0).documents(range(MANY))
    next_token = oracle.documents(documents)  # compiles, too
    positions = len(next_token.status)
    rates, dense = [], np.inf
    for _ in range(3):
        start = time.process_time()
        next_token = oracle.documents(documents)
        rates.append(positions / (time.process_time() - start))
        start = time.process_time()
        for first in range(0, positions, BLOCK):
            next_token.log_probs(oracle.world.size, slice(first, first + BLOCK))
        dense = min(dense, time.process_time() - start)
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, name], check=True, capture_output=True, text=True,
        env=os.environ | {"GLASSHOUSE_JIT": "0"},
    )  # fmt: skip
    peers = [float(rate) for rate in plain.stdout.split()]
    each = sorted(a / b for a, b in zip(rates, peers, strict=True))
    found = statistics.median(rates), statistics.median(peers), each
    print("\n" + line(f"oracle, {name} (peer: the same without the JIT)", "laws", *found))
    rows = positions / (positions / max(rates) + dense)
    print(f"{positions} positions; {rows:,.0f} rows of {oracle.world.size} log-probabilities a second and core")
    assert np.isfinite(next_token.entropy()).all()
