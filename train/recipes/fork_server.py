"""Starts stages as forks of one process that has loaded the libraries: importing them costs a core some four seconds,
as much as a small stage itself.

A recipe talks to it in lines of JSON: {"entry", "words", "log"} in, {"pid"} back, and {"pid", "code"} when that stage
has ended. Every stage is a process and a session of its own, with its output in its log, as `python -m entry words`
would be. The forge ends with the recipe, and the stages with the forge. Where there is no fork to trust (not Linux),
`train.recipes.runner` starts commands instead.
"""

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOMS = ("train", "probes")  # modules that do nothing when they are imported
LOOK = 0.05  # seconds between looks at stages that may have ended
LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None) if LINUX else None  # opened here: little is safe between a fork and the stage's start
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def die_with_parent() -> None:
    """In a child: be ended when the parent is killed in a way that it cannot answer."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Forged:
    """A stage that the forge started; `poll` and `returncode` as in subprocess.Popen."""

    def __init__(self, forge: "Forge", pid: int):
        self.forge, self.pid = forge, pid

    @property
    def returncode(self) -> int | None:
        return self.forge.codes.get(self.pid)

    def poll(self) -> int | None:
        self.forge.listen()
        return self.returncode


class Forge:
    """The recipe's end: a context manager, whose process starts with the first stage."""

    def __init__(self, environment: Mapping[str, str]):
        self.environment = dict(environment)
        self.codes: dict[int, int] = {}
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Forge":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stdin.close()  # it then ends by itself
            self._process.wait()
            self._process.stdout.close()

    def start(self, entry: str, words: Sequence[str], log: Path) -> Forged:
        """Starts `python -m entry words`, its output in `log`."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "train.recipes.fork_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.environment,
                start_new_session=True,  # an interrupt from the keyboard reaches the recipe, and that ends its stages
                preexec_fn=die_with_parent,
            )
        line = json.dumps({"entry": entry, "words": list(words), "log": str(log.resolve())})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        while "code" in (said := self._hear()):
            self.codes[said["pid"]] = said["code"]
        return Forged(self, said["pid"])

    def listen(self) -> None:
        """Takes note of the stages that have ended."""
        while self._process is not None and select.select([self._process.stdout], [], [], 0)[0]:
            said = self._hear()
            self.codes[said["pid"]] = said["code"]

    def _hear(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):  # byte by byte: what a buffer held back, `select` would not see
            if not (byte := os.read(self._process.stdout.fileno(), 1)):
                raise RuntimeError(f"the forge of stages has ended with code {self._process.wait()}")
            line += byte
        return json.loads(line)


def serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """The forge's end: starts what is ordered, tells what has ended, and ends it all when nobody orders any more."""
    alive: set[int] = set()

    def say(**what: Any) -> None:
        answers.write(json.dumps(what).encode() + b"\n")
        answers.flush()

    while True:
        if select.select([orders], [], [], LOOK if alive else None)[0]:
            if not (line := orders.readline()):
                break
            order = json.loads(line)
            if order["entry"].split(".")[0] in ROOMS:
                with contextlib.suppress(Exception):  # the stage meets the same error, and its log says so
                    importlib.import_module(order["entry"])
            if (pid := os.fork()) == 0:
                _be(order["entry"], order["words"], order["log"])
            alive.add(pid)
            say(pid=pid)
        for pid in sorted(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.remove(pid)
                say(pid=pid, code=os.waitstatus_to_exitcode(status))
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)


def _be(entry: str, words: list[str], log: str) -> None:
    """In the child: become the command `python -m entry words`. Does not return."""
    code = 1
    try:
        os.setsid()
        die_with_parent()
        nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(ours, theirs)
        sys.argv = [entry, *words]
        sys.modules.pop(entry, None)
        runpy.run_module(entry, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    # Orders and answers have descriptors of their own, so that nothing an import prints gets among the answers.
    spoken = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)
    serve(os.fdopen(os.dup(0), "rb", 0), spoken)
