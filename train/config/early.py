"""Answers that need no torch: `--help`, the other views of the settings, and the line about a wrong one.

The dataclasses of a command's settings stand beside the code they steer, so reading them imports torch, some seconds.
The first run of a command therefore leaves a note of them (`notes.py`), which later ones read first.
"""

import sys
from collections.abc import Callable

from synth.exit_codes import run_command
from train.config import notes

VIEWS = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")
Rewrite = Callable[[list[str], type], list[str]]  # short forms of several settings written out


def early(name: str, rewrite: Rewrite | None = None, section: Callable[[list[str]], str] = lambda words: "") -> None:
    """Ends the process where the note of the command `name` is enough to answer; else returns. `section`: of a command
    whose settings depend on its words."""
    words = sys.argv[1:]
    if "torch" in sys.modules or "--traceback" in words:
        return
    known = notes.read(notes.noted_as(name, section(words)))
    if known is None:
        return
    if {"-h", "--help"} & set(words) and not {"--config-dir", "-cd"} & set(words):
        raise SystemExit(run_command(lambda: print(known["help"])))
    if known["own_names"]:
        return
    from train.config.compose import check, run_entry

    if set(words) & set(VIEWS) and not known["complete"]:
        raise SystemExit(run_entry(name, known["schema"], print, "", words, rewrite))
    if code := check(name, known["schema"], words, rewrite):
        raise SystemExit(code)
