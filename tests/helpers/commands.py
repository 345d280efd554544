"""Starting the commands of the lab as a user does."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child process that imports this checkout from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def command(
    module: str, *arguments: object, timeout: float = 120, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ARGUMENTS...` with these environment variables; returns code, stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**variables),
    )
