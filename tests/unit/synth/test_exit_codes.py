"""How every command ends: an exit code and at most one line, whatever the signal, the pipe, the locale or the disk."""

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synth import generate, tokenizer
from synth.exit_codes import Stopped, message_of, run_command
from tests.helpers.commands import environment
from tests.helpers.paths import ROOT

COMMANDS = sorted(
    path
    for package in ("synth", "models", "train", "probes")
    for path in (ROOT / package).rglob("*.py")
    if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_begins_and_ends_in_one_place(path):
    last = path.read_text(encoding="utf-8").partition('\nif __name__ == "__main__":\n')[2].strip()
    assert last.startswith("sys.exit(") and last.count("\n") == 0
    called = last.removeprefix("sys.exit(").partition("(")[0]
    assert called in ("run_command", "run_entry", "entry")
    if called == "entry":
        assert "run_entry(" in path.read_text(encoding="utf-8")
    assert "quiet_start()" in (ROOT / path.relative_to(ROOT).parts[0] / "__init__.py").read_text(encoding="utf-8")


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\nlines"), 2, "error: two; lines"),
        (FloatingPointError("loss nan"), 1, "error: loss nan"),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted: the same command starts again"),
        (Stopped(signal.SIGTERM), 143, "ended by SIGTERM: the same command starts again"),
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), 2, "error: x.json: cannot be written (No space"),
        (OSError(errno.EROFS, "Read-only file system", "x.json"), 2, "error: x.json: cannot be written (Read-only"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y" * 300), 2, "error: yyy"),
        (FileNotFoundError(errno.ENOENT, "No such file", "z"), 2, "error: z: cannot be read or written (No such file)"),
        (BrokenPipeError(), 0, ""),
        (SystemExit(2), 2, ""),
        (SystemExit("why"), 1, "why"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    assert run_command(raising(error)) == code
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == bool(line)
    assert len(said) < 300


def test_a_bug_is_no_error_of_the_user():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))
    with pytest.raises(ValueError, match="here"):
        run_command(raising(ValueError("here")), traceback=True)


def test_signals_are_raised_inside_and_put_back_after():
    before = signal.getsignal(signal.SIGTERM)

    def main():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    assert run_command(main) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_text_is_readable_in_any_locale(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é".encode()), encoding="ascii"))
    assert run_command(lambda: print(f"{sys.stdin.read()} → x")) == 0
    assert shown.buffer.getvalue() == b"\\xe9 \\u2192 x\n"


def test_a_closed_or_full_output_is_one_line(capsys):
    assert "the output: cannot be written" in message_of(OSError(errno.ENOSPC, "No space left on device"))
    command = [sys.executable, "-m", "synth.generate", "--ops", "5", "--count", "1", "--out"]
    options = {"cwd": ROOT, "env": environment(GLASSHOUSE_JIT="0"), "stderr": subprocess.PIPE, "text": True}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, "-"], stdout=full, check=False, **options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left on device" in done.stderr
    done = subprocess.run(f"{' '.join(command)} - >&-", shell=True, check=False, **options)
    assert done.returncode in (0, 2) and done.stderr.count("\n") <= 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "seconds", "workers"), [(signal.SIGINT, 0.1, 1), (signal.SIGINT, 2.5, 2)])
def test_a_signal_to_all_processes_is_one_line_and_leaves_nothing(tmp_path, number, seconds, workers):
    """While it imports, and while workers write."""
    out = tmp_path / "x.jsonl"
    words = ["--ops", "12", "--count", "1000000", "--workers", str(workers), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "synth.generate", *words], cwd=ROOT, env=environment(GLASSHOUSE_JIT="0"),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell's job in the background hands down that interrupts are ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        time.sleep(seconds)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != -signal.SIGINT:  # before Python itself was up
        assert (process.returncode, said) == (130, "interrupted: the same command starts again\n")
    assert list(tmp_path.iterdir()) == []


def without_room(call, room):
    """Exit code and what is said by a fork of this process whose files may not grow beyond `room` bytes."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(write, 2)
        sys.stderr, sys.stdout = os.fdopen(2, "w", closefd=False), io.StringIO()
        sys.dont_write_bytecode = True  # Python would leave half a file there, without an error
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        os._exit(run_command(call))
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (generate.main, ["--preset", "tiny", "--count", "3", "--out", "{}/x.jsonl"]),
        (generate.main, ["--preset", "tiny", "--count", "3", "--out", "{}/x.parquet"]),
        (generate.main, ["--preset", "tiny", "--count", "3", "--out", "{}/x/"]),
        (generate.main, ["--preset", "tiny", "--figure", "{}/x.png"]),
        (tokenizer.main, ["--preset", "tiny", "--out", "{}/x"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_full_disk_is_one_line_that_names_the_file_and_nothing_is_left(tmp_path, main, words):
    """What was written whole before (the plan of a data set, shards) stays: the same command goes on from it."""
    code, said = without_room(lambda: main([word.format(tmp_path) for word in words]), room=100)
    assert code == 2 and said.count("\n") == 1 and said.startswith("error: "), said
    assert str(tmp_path / "x") in said and "File too large" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    code, said = without_room(lambda: generate.main(["--ops", "2", "--out", f"{tmp_path}/x.jsonl"]), room=10**9)
    assert code == 2 and said.count("\n") == 1 and str(tmp_path) in said
