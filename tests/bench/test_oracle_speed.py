"""How fast the oracle answers, as rows of log-probabilities over the vocabulary. Try: `make bench`.

The peer is the same walk in plain Python, the obvious way to do it (`GLASSHOUSE_JIT=0`, in a process of its own).
Nothing about time is asserted; lines with the rates and their ratio are printed.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from synth.dataset import Source
from synth.oracle import Oracle
from synth.spec import preset

MANY, BLOCK = 1024, 4096
PLAIN = (
    "import sys, time; from synth.dataset import Source\n"
    "from synth.oracle import Oracle; from synth.spec import preset\n"
    "spec = preset(sys.argv[1], retry_rate=0.2); documents = Source(spec, 0).documents(range(4))\n"
    "start = time.process_time(); law = Oracle(spec).documents(documents)\n"
    "print(len(law.status) / (time.process_time() - start))"
)


@pytest.mark.parametrize("name", ["tiny", "med", "hard"])
def test_oracle_speed(name):
    spec = preset(name, retry_rate=0.2)
    oracle, documents = Oracle(spec), Source(spec, 0).documents(range(MANY))
    law = oracle.documents(documents)  # compiles, too
    positions = len(law.status)
    sparse, dense = np.inf, np.inf
    for _ in range(3):
        start = time.process_time()
        law = oracle.documents(documents)
        sparse = min(sparse, time.process_time() - start)
        start = time.process_time()
        for first in range(0, positions, BLOCK):
            law.dense(oracle.world.size, slice(first, first + BLOCK))
        dense = min(dense, time.process_time() - start)
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, name], check=True, capture_output=True, text=True,
        env=os.environ | {"GLASSHOUSE_JIT": "0"},
    )  # fmt: skip
    peer = float(plain.stdout)
    print(
        f"\noracle {name}: {positions} positions, {positions / sparse:,.0f} laws a second, "
        f"{positions / (sparse + dense):,.0f} rows of {oracle.world.size} log-probabilities a second and core; "
        f"plain Python {peer:,.0f} laws a second, ratio {positions / sparse / peer:,.0f}"
    )
    assert np.isfinite(law.entropy()).all()
