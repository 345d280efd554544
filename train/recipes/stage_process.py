"""Starts the stages of a recipe as processes, by the standard library's fork server where the system allows it.

Importing torch and the lab costs a core some four seconds, as much as a small stage itself. On Linux one server process
imports the entries that several stages use, and every stage is a fork of it; elsewhere a stage imports what it needs.
Either way it is a session of its own, writes to its log, and ends when the recipe ends, however that ends.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

LINUX = sys.platform == "linux"
PRELOADED = ("train", "probes")  # packages whose modules may be imported before a stage starts
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 10.0  # seconds between asking a process to end and killing it
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def prepare(entries: Iterable[str]) -> None:
    """Starts the fork server with these entries imported. Once in the life of a process; later calls do nothing."""
    if LINUX:
        known = [entry for entry in dict.fromkeys(entries) if entry.split(".")[0] in PRELOADED]
        multiprocessing.set_forkserver_preload(["train.recipes.follow_parent", *known])
        with _exported(stage_environment()):
            multiprocessing.forkserver.ensure_running()


def start(entry: str, argv: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> BaseProcess:
    """Starts `python -m entry argv` with one thread and its output in `log`. variables: of its environment."""
    context: Any = multiprocessing.get_context("forkserver" if LINUX else "spawn")
    arguments = (entry, list(argv), str(log.resolve()), stage_environment() | dict(variables or {}))
    process = context.Process(target=_run_module, args=arguments)
    process.start()
    return process


def end(processes: Iterable[BaseProcess]) -> None:
    """Asks processes and all that they started to end, and kills those that do not."""
    for send in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.exitcode is None]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(cast(int, process.pid), send)
        deadline = time.monotonic() + PATIENCE
        while any(process.exitcode is None for process in alive) and time.monotonic() < deadline:
            time.sleep(0.05)


def end_with_parent() -> None:
    """Makes Linux end this process when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stage_environment() -> dict[str, str]:
    """The environment of every stage: this code can be imported, and numeric libraries use one thread."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _exported(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run_module(entry: str, argv: list[str], log: str, environment: dict[str, str]) -> None:
    """In the new process: becomes the command `python -m entry argv`."""
    os.setsid()  # Ctrl-C reaches the recipe alone, which ends its stages
    if LINUX:  # the parent is the server, which ends with the recipe
        end_with_parent()
    os.environ.update(environment)
    sys.path[:0] = [p for p in environment["PYTHONPATH"].split(os.pathsep) if p not in sys.path]
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.argv = [entry, *argv]
    sys.modules.pop(entry, None)
    runpy.run_module(entry, run_name="__main__", alter_sys=True)
