"""Starting the commands of the lab as a user does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.paths import ROOT


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child process that imports this checkout from any folder; it tells no progress."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_MININTERVAL": "3600", **variables}


def start(module: str, *arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    """Starts `python -m MODULE ARGUMENTS...`, under torchrun where it is more than one process."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, "-m", *torchrun, module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )


def kill_worker(process: subprocess.Popen[str], index: Path, timeout: float = 500) -> None:
    """Kills one worker of torchrun, or the only process, as soon as there is a line in `index`; the others then end."""
    deadline = time.monotonic() + timeout
    while not (index.exists() and index.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    victim = process.pid
    if "torch.distributed.run" in process.args:
        victim = int(Path(f"/proc/{victim}/task/{victim}/children").read_text().split()[-1])
    os.kill(victim, signal.SIGKILL)
    process.communicate(timeout=200)
    assert process.returncode != 0 and index.read_text()


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
