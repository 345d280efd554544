"""What all tests share: one thread per process, reproducible property tests, and a way to run the commands.

Small models run fastest on one thread, and two busy test processes on two cores must not fight for them; the limits
are set here, before any test module imports numpy or torch. Property tests draw the same examples every time, so a red
test stays red. Try: `make unit`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers import commands
from tests.helpers.paths import ROOT

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["MPLBACKEND"] = "Agg"

settings.register_profile(
    "house", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture
def command() -> Callable[..., CompletedProcess[str]]:
    """Runs `python -m MODULE ARGS...` from the repository as a user would, and returns code, stdout and stderr."""
    return commands.command
