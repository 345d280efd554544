"""Progress where nobody watches: plain lines at a steady pace, none for short work or from other ranks."""

import io
import re
import signal
import subprocess
import sys

import pytest

from synth.kernel import progress
from synth.kernel.progress import Progress, has_colour
from tests.helpers.paths import ROOT


class Clock:
    """Time that passes by 10 seconds whenever it is asked for."""

    def __init__(self):
        self.now = 0.0

    def time(self):
        self.now += 10.0
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    for name in ("TQDM_MININTERVAL", "RANK", "TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tqdm.std.time", Clock().time)


def shown(stream, steps=20, **how):
    bar = Progress(total=2e6, desc="run-1", unit=" tokens", unit_scale=True, file=stream, **how)
    for step in range(steps):
        bar.set_postfix_str(f"step {step} loss 1.5", refresh=False)
        bar.update(1e5)
    bar.close()
    return stream.getvalue()


def test_a_plain_line_says_share_time_left_rate_step_and_loss_at_a_steady_pace(clock):
    lines = shown(io.StringIO()).splitlines()
    form = r"run-1: \d+%, [\d.]+[kM] of 2\.00M tokens, [\d:]+ gone, [\d:]+ left, [\d.]+\S+ ?tokens\S*"
    form += r", step \d+ loss 1\.5"
    assert all(re.fullmatch(form, line) for line in lines), lines
    assert 3 <= len(lines) <= 20 * 10 * 3 / progress.PACE, "one in thirty seconds, not one a step"
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert shares == sorted(set(shares))


def test_the_pace_is_the_environments(clock, monkeypatch):
    usual = len(shown(io.StringIO()).splitlines())
    monkeypatch.setenv("TQDM_MININTERVAL", "60")
    assert len(shown(io.StringIO()).splitlines()) < usual


def test_short_work_and_other_ranks_print_nothing(clock, monkeypatch):
    assert shown(io.StringIO(), steps=1) == ""
    monkeypatch.setenv("RANK", "1")
    assert shown(io.StringIO()) == ""


def test_without_a_total_there_is_a_count(clock):
    stream = io.StringIO()
    assert list(Progress(iter(range(30)), desc="reading", unit=" records", file=stream)) == list(range(30))
    assert all(re.match(r"reading: \d+ records, [\d:]+ gone, ", line) for line in stream.getvalue().splitlines())
    assert stream.getvalue()


def test_a_terminal_gets_a_bar_and_a_dumb_one_lines_without_escapes(clock, monkeypatch):
    assert "\r" in shown(Terminal()) and has_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    said = shown(Terminal())
    assert "\r" not in said and "\x1b" not in said and said.count("\n") >= 3 and not has_colour(Terminal())


def test_a_bar_leaves_no_semaphore_behind_a_process_that_is_killed():
    """As in a recipe's stages, whose processes come from a fork server."""
    code = (
        "import multiprocessing, os, signal; multiprocessing.set_start_method('forkserver')\n"
        "from synth.kernel.progress import Progress\n"
        "for _ in Progress(range(2)): pass\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and done.stderr == ""
