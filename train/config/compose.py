"""Settings of a command: YAML and the words of a command line become a frozen dataclass, or one line that says what is
wrong.

Commands are Hydra applications (`python -m train.pretrain -m optim.lr=1e-3,2e-3 seed=0,1`): its grammar, sweepers,
launchers, `--cfg`, `--info` and completion are its own; `loader.py` gives them our settings. What is different: a wrong
setting is one line and exit code 2, `--help` is ours, and Hydra makes no folder for a run.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synth.exit_codes import message_of, run_command
from train.config import grammar, notes
from train.config.help import page
from train.config.loader import (
    CONFIGS,
    NO_CHOICES,
    OWN_FOLDERS,
    Command,
    Loader,
    checked,
    resolved_values,
    values_of,
    waits_inside,
)
from train.config.schema import REQUIRED, build, missing, plain

__all__ = ["CONFIGS", "NO_CHOICES", "REQUIRED", "load", "plain", "resolved", "run_entry", "show", "words_of"]
Config = TypeVar("Config")
SWEEPS = "runs/sweeps"


def load(name: str, schema: type[Config], overrides: Sequence[str] = (), folder: Path = CONFIGS) -> Config:
    """The dataclass `schema` filled from `folder/name.yaml`, its groups, and words of Hydra's grammar.

    Wherever they stand, a word that chooses a group's file acts first, then `method.faithful`, then those that set
    or choose a whole group (`method.divergence=jsd`, `method.divergence.kind=fkl`), then those inside it. Raises
    ValueError, in one line, on an unknown setting or option, a wrong type, or a value refused. A schema with a static
    method `alias(values, key) -> key` has other names for some of its settings on the command line; one with
    `complete(values, given)` fills in defaults that depend on what is given there.
    """
    return checked(schema, resolved(name, schema, overrides, folder))


def resolved(name: str, schema: type, overrides: Sequence[str] = (), folder: Path = CONFIGS) -> dict[str, Any]:
    """All settings as plain data, not built yet; what needs a value and has none is REQUIRED."""
    return Loader(Command(name, schema, folder=folder)).composed(name, overrides, RunMode.RUN)[1]


def show(name: str, schema: type, overrides: Sequence[str] = (), folder: Path = CONFIGS) -> str:
    """The resolved settings as YAML; a setting that is still missing reads '???'."""
    return _yaml(schema, resolved(name, schema, overrides, folder))


def run_entry(
    name: str,
    schema: type[Config],
    main: Callable[[Config], None],
    doc: str,
    argv: Sequence[str] | None = None,
    rewrite: Callable[[list[str], type], list[str]] | None = None,
    folder: Path = CONFIGS,
) -> int:
    """Runs a command and returns its exit code, as `synth.exit_codes.run_command` says.

    `main(config)` raises ValueError for input it cannot accept; the user reads it as one line on stderr. Beside Hydra's
    options, `--show` prints the resolved settings and `--traceback` shows where an error came from. `rewrite` writes
    out what a command has as short forms of several settings, and may raise ValueError too. Under `-m` the code is the
    highest of all runs.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = Command(name, schema, main, doc, rewrite, folder)
    if folder == CONFIGS and main.__module__ == "__main__":
        notes.note(notes.noted_as(name, getattr(schema, "task", "")), schema, lambda: page(command))
    return reported(lambda: _dispatch(command, words), "--traceback" in words)


def check(name: str, schema: type, argv: Sequence[str], rewrite: Callable[[list[str], type], list[str]] | None) -> int:
    """The exit code 2 for words that the settings do not accept, with the line that says why; else 0."""
    return reported(lambda: _check(Command(name, schema, rewrite=rewrite), list(argv)))


def _check(command: Command, words: list[str]) -> None:
    given = _arguments(words)
    if given.config_dir is None and given.config_path is None and given.config_name is None:
        mode = RunMode.MULTIRUN if given.multirun or "hydra.mode=MULTIRUN" in given.overrides else RunMode.RUN
        Loader(command).composed(command.name, given.overrides, mode)


def reported(run: Callable[[], int | None], traceback: bool = False) -> int:
    """The exit code of `run`, with its error as one line on stderr."""
    return run_command(run, again="the same command continues from the last checkpoint", traceback=traceback)


@dataclass(frozen=True)
class Job:
    """One run of a command: what Hydra calls with the settings, here or in a process of its launcher."""

    command: Command
    traceback: bool = False

    def __call__(self, cfg: DictConfig) -> int:
        """Runs the command; its exit code. A run of a sweep that fails says so and lets the others go on."""
        if OmegaConf.is_missing(HydraConfig.get().job, "num"):
            self._run(cfg)
            return 0
        stopped: list[KeyboardInterrupt] = []

        def run() -> None:
            try:
                self._run(cfg)
            except KeyboardInterrupt as stop:
                stopped.append(stop)

        code = reported(run, self.traceback)
        if stopped:  # the whole sweep ends
            raise stopped[0]
        return code

    def _run(self, cfg: DictConfig) -> None:
        schema, values, job = self.command.schema, values_of(cfg), HydraConfig.get().job
        if any(waits_inside(values)):
            values = resolved_values(schema, values)
        if not OmegaConf.is_missing(job, "num"):  # of a sweep
            words = [grammar.read(one) for one in HydraConfig.get().overrides.task]
            shared = job.config.override_dirname.exclude_keys
            differs = {w.key_or_group: grammar.text_of(w) for w in words if w.key_or_group not in shared}
            values = getattr(schema, "named", _named)(values, differs)
            with _command_line([word.input_line or "" for word in words]):
                return self.command.main(checked(schema, values))
        self.command.main(checked(schema, values))


@contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    """The words of one run of a sweep as those of the process, which a run's manifest notes."""
    before, sys.argv = sys.argv, [sys.argv[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def _named(values: dict[str, Any], differs: dict[str, str]) -> dict[str, Any]:
    """The settings of one run of a sweep, with what differs in the name of its folder."""
    out = values.get("out")
    if not isinstance(out, dict) or not (words := words_of(differs, ("out",))):
        return values
    return values | {"out": out | {"name": f"{out['name']}-{words}"}}


def words_of(differs: dict[str, str], leave_out: Sequence[str] = ()) -> str:
    """What differs between the runs of a sweep, as part of a folder's name: `lr=0.002-seed=1`."""
    keys = [key for key in differs if key.split(".")[0] not in leave_out]
    short = [key.rpartition(".")[2] for key in keys]
    names = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    parts = [f"{name}={differs[key]}" for name, key in zip(names, keys, strict=True)]
    return "".join(letter if letter.isalnum() or letter in "=.-_+@," else "_" for letter in "-".join(parts))[:120]


class _Parser(argparse.ArgumentParser):
    """Raises ValueError where argparse ends the process."""

    def error(self, message: str) -> Any:
        unknown = message.removeprefix("unrecognized arguments: ")
        raise ValueError(f"{unknown}: not understood; {grammar.ACCEPTED}" if unknown != message else message)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(parents=[get_args_parser()], add_help=False, allow_abbrev=False)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--traceback", action="store_true")
    found = parser.parse_intermixed_args(words)
    if found.experimental_rerun is not None:
        parser.error(f"unrecognized arguments: --experimental-rerun={found.experimental_rerun}")
    modes = found.run + found.multirun + found.show + found.shell_completion + bool(found.cfg) + bool(found.info)
    if modes > 1:
        raise ValueError("several of --run, --multirun, --cfg, --info, --show, --shell-completion; accepted: one")
    if found.resolve and not found.cfg:
        raise ValueError("--resolve: has no effect without --cfg")
    return found


def _dispatch(command: Command, words: list[str]) -> int:
    given = _arguments(words)
    if given.config_dir is not None:  # also for the processes that this one starts
        os.environ[OWN_FOLDERS] = os.pathsep.join(
            dict.fromkeys([str(Path(given.config_dir).absolute()), *filter(None, [os.environ.get(OWN_FOLDERS)])])
        )
    if given.config_path is not None:
        command = replace(command, folder=Path(given.config_path).absolute())
    if given.help:
        print(page(command))
        return 0
    name, overrides = given.config_name or command.name, given.overrides
    hydra = Hydra(command.name, Loader(command))
    mode = RunMode.MULTIRUN if given.multirun else RunMode.RUN
    if given.show:
        print(_yaml(command.schema, values_of(hydra.compose_config(name, overrides, mode))), end="")
    elif given.hydra_help:
        hydra.hydra_help(name, get_args_parser(), given)
    elif given.cfg:
        _show_cfg(hydra, name, given)
    elif given.info:
        hydra.show_info(given.info, name, overrides)
    elif given.shell_completion:
        from train.config.completion import complete

        complete(hydra, name, overrides)
    elif given.multirun or "hydra.mode=MULTIRUN" in overrides:
        return _sweep(hydra, command, name, overrides, given.traceback)
    else:
        return _run(hydra, command, name, overrides, given.traceback)
    return 0


def _show_cfg(hydra: Hydra, name: str, given: argparse.Namespace) -> None:
    try:
        hydra.show_cfg(name, given.overrides, given.cfg, given.package, given.resolve)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(message_of(error)) from error


def _run(hydra: Hydra, command: Command, name: str, overrides: list[str], traceback: bool) -> int:
    """One run, as Hydra does it; a sweep where a configuration file says so."""
    cfg = hydra.compose_config(name, overrides, RunMode.RUN)
    if cfg.hydra.mode == RunMode.MULTIRUN:
        return _sweep(hydra, command, name, overrides, traceback)
    cfg.hydra.mode = RunMode.RUN
    callbacks = Callbacks(cfg)
    callbacks.on_run_start(config=cfg, config_name=name)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
    done = run_job(
        hydra_context=context, task_function=Job(command, traceback), config=cfg,
        job_dir_key="hydra.run.dir", job_subdir_key=None,
    )  # fmt: skip
    callbacks.on_run_end(config=cfg, config_name=name, job_return=done)
    if done.status == JobStatus.FAILED:
        raise done._return_value
    return done.return_value


def _sweep(hydra: Hydra, command: Command, name: str, overrides: list[str], traceback: bool) -> int:
    """All runs of a sweep, by Hydra's sweeper and launcher; their highest exit code."""
    words = [word for word in map(grammar.read, overrides) if word.key_or_group != "hydra.mode"]
    folder = Path(SWEEPS, f"{command.name}-{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")  # for what is swept, and for logs
    more = ["hydra.mode=MULTIRUN"]
    if not any(word.key_or_group == "hydra.sweep.dir" for word in words):
        more.append(f"hydra.sweep.dir={folder}")
    shared = [word.key_or_group for word in words if not word.is_sweep_override() and not word.is_hydra_override()]
    more.append(f"hydra.job.config.override_dirname.exclude_keys={grammar.listed(shared)}")
    job = Job(_by_reference(command), traceback)
    hydra.config_loader.command = job.command  # type: ignore[attr-defined]
    try:
        batches = hydra.multirun(name, job, [*(word.input_line or "" for word in words), *more]) or []
    except (ValueError, HydraException) as error:
        _forget(folder)
        raise ValueError(message_of(error)) from error
    except RuntimeError as error:  # of submitit, where there is no SLURM
        if "srun" not in str(error):
            raise
        _forget(folder)
        raise ValueError(f"hydra/launcher: {message_of(error)}") from error
    codes = [done.return_value for batch in batches for done in batch]
    return max((code for code in codes if isinstance(code, int)), default=0)


def _forget(folder: Path) -> None:
    """Takes away the folder of a sweep that was refused, and those above it that are empty then."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        for empty in (folder, *list(folder.parents)[:-1]):
            empty.rmdir()


def _by_reference(command: Command) -> Command:
    """The command from the module that other processes import, where this one runs it as `__main__`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or "__main__" not in (command.main.__module__, command.schema.__module__):
        return command
    module = importlib.import_module(spec.name)
    found = {"main": getattr(module, command.main.__name__)}
    if command.schema.__module__ == "__main__":
        found["schema"] = getattr(module, command.schema.__name__)
    return replace(command, **found)


def _yaml(schema: type, values: dict[str, Any]) -> str:
    if any(waits_inside(values)) and not missing(values):
        values = resolved_values(schema, values)
    return yaml.safe_dump(values if missing(values) else plain(build(schema, values)), sort_keys=False)
