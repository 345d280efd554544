"""How every command begins and ends: signals, closed pipes, locales and disks become one line and an exit code.

    sys.exit(run_command(main))     # the last line of a command's module

0 done; 1 what came out is bad (a run that diverged, a proof that failed); 2 bad input, or a file that cannot be read or
written; 130 interrupted from the keyboard; 143 ended by SIGTERM. A reader that closes the pipe early is no error. The
packages call `quiet_start` when they are imported: until `run_command` takes over, a signal ends the process at once.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("synth", "models", "train", "probes")
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
AGAIN = "the same command starts again"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # of a file system


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end: what cleans up on Ctrl-C does so too."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class CommandFailed(Exception):
    """Ends a command with its message, of several lines where it shows the end of a log, and the exit code `code`."""

    code = 1


def run_command(main: Callable[[], Any], again: str = AGAIN, traceback: bool = False) -> int:
    """Calls a command and returns its exit code, as the head of this module says.

    main: returns an exit code or None for 0, exits, or raises ValueError for input that it cannot accept. again: what
    an interrupted command does when it is started again. traceback: errors are raised with where they came from.
    """
    _make_readable()
    try:
        with _raising():
            try:
                code = main()
            except SystemExit as ended:
                code = ended.code
            _flush()
        if isinstance(code, str):
            say(code)
        return 1 if isinstance(code, str) else int(code or 0)
    except BrokenPipeError:
        _leave_closed_pipes()
        return 0
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        say(f"{SIGNALS[signal.Signals(number)]}: {again}")
        return 128 + number
    except (CommandFailed, ValueError, FloatingPointError, MemoryError, OSError) as error:
        if traceback:
            raise
        say(f"error: {error if isinstance(error, CommandFailed) else message_of(error)}")
        _leave_closed_pipes()
        return error.code if isinstance(error, CommandFailed) else 2 if isinstance(error, ValueError | OSError) else 1


def message_of(error: BaseException) -> str:
    """An error in one line; of a file, with its name and what to do."""
    if isinstance(error, OSError) and error.errno is not None:
        name = os.fspath(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else error.filename
        where = _shortened(os.fsdecode(name) if isinstance(name, bytes) else str(name)) if name else "the output"
        if error.errno in NO_ROOM:
            return (
                f"{where}: cannot be written ({error.strerror}); accepted: a folder with room that may be written; "
                "then the same command continues"
            )
        return f"{where}: cannot be read or written ({error.strerror}); accepted: a path that can"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first_two = "; ".join(lines[:2]).replace(":; ", ": ")
    return first_two or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def say(line: str) -> None:
    """Prints one line on standard error, once for all processes of a run; a closed one is no error."""
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """Prints one line on standard error and exits with code 2."""
    say(f"error: {' '.join(message.split())}")
    raise SystemExit(2)


def quiet_start(launched: bool = False) -> None:
    """While a command of ours is imported (seconds, with torch), a signal ends it with one line and no trace.

    Nothing happens in a process that only imports the package: `python -m` is known by the name that it gives itself
    until it has found the module. launched: the process is a command of ours however it was started.
    """
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if launched or (sys.argv[:1] == ["-m"] and module.partition(".")[0] in PACKAGES):
        for number in _ours():
            signal.signal(number, _end_at_once)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes that are started here do not hear Ctrl-C, which reaches a whole group: their parent ends them."""
    before = signal.getsignal(signal.SIGINT)
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGINT, before)


def _ours() -> list[signal.Signals]:
    """The signals that nobody else handles or ignores."""
    return [n for n in SIGNALS if signal.getsignal(n) in (signal.default_int_handler, signal.SIG_DFL, _end_at_once)]


def _end_at_once(number: int, _frame: Any) -> None:
    os.write(2, f"{SIGNALS[signal.Signals(number)]}: {AGAIN}\n".encode())
    os._exit(128 + number)


def _raise_stopped(number: int, _frame: Any) -> NoReturn:
    raise Stopped(number)


@contextmanager
def _raising() -> Iterator[None]:
    """Signals raise `Stopped` in here, as far as nobody else handles them."""
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not in the main thread
        for number in _ours():
            before[number] = signal.signal(number, _raise_stopped)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_readable() -> None:
    """What the terminal cannot show is written as \\x.., standard input is UTF-8 whatever the locale, and a stream that
    was closed before the start (`>&-`, None in Python) is an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (open to the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):  # something was read from it
            sys.stdin.reconfigure(encoding="utf-8")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _leave_closed_pipes() -> None:
    """Sends what a stream cannot write nowhere, so that Python does not complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _shortened(name: str) -> str:
    return name if len(name) <= 160 else f"{name[:80]}...{name[-60:]}"
