"""Settings of a command: YAML and `key=value` overrides become a frozen dataclass, or one line that says what is wrong.

Hydra (its compose API only) puts together `configs/NAME.yaml` and the chosen files of the groups beside it; every
setting is then merged into the dataclass by its type hints (`schema.py`), so a misspelt name or a wrong type never
reaches the code below. A dataclass checks its own values in `__post_init__` with `ValueError`. Nothing outside this
file knows Hydra.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synth.entry import message_of, run_command
from train.config.schema import REQUIRED, assign, build, guess, is_single, merge, missing, plain

__all__ = ["CONFIGS", "REQUIRED", "load", "plain", "resolved", "run_entry", "show"]
Config = TypeVar("Config")
_PACKAGED = Path(__file__).resolve().parents[1] / "configs"  # where a wheel puts them
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "configs"
NO_CHOICES = ("claims",)  # files beside those of a group


def load(name: str, schema: type[Config], overrides: Sequence[str] = (), folder: Path = CONFIGS) -> Config:
    """The dataclass `schema` filled from `folder/name.yaml`, its groups, and `key=value` overrides.

    Wherever they stand, an override that chooses a group's file acts first, then `method.faithful`, then those that set
    or choose a whole group (`method.divergence=jsd`, `method.divergence.kind=fkl`), then those inside it. Raises
    ValueError, in one line, on an unknown setting or option, a wrong type, or a value refused. A schema with a static
    method `alias(values, key) -> key` has other names for some of its settings on the command line; one with
    `complete(values, given)` fills in defaults that depend on what is given there.
    """
    values = resolved(name, schema, overrides, folder)
    needed = sorted(missing(values))
    if needed:
        raise ValueError(f"{needed[0]}: needs a value; give {needed[0]}=...")
    return build(schema, values)


def show(name: str, schema: type, overrides: Sequence[str] = (), folder: Path = CONFIGS) -> str:
    """The resolved settings as YAML; a setting that is still missing reads '???'."""
    values = resolved(name, schema, overrides, folder)
    return yaml.safe_dump(values if missing(values) else plain(build(schema, values)), sort_keys=False)


def run_entry(
    name: str,
    schema: type[Config],
    main: Callable[[Config], None],
    doc: str,
    argv: Sequence[str] | None = None,
    rewrite: Callable[[list[str]], list[str]] = list,
) -> int:
    """Runs a command and returns its exit code, as `synth.entry.run_command` says.

    `main(config)` raises ValueError for input it cannot accept; the user reads it as one line on stderr. `--help`,
    `--show` (print the resolved settings) and `--traceback` (show where an error came from) work for every entry.
    `rewrite` writes out what an entry has as short forms of several settings, and may raise ValueError too.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> None:
        if {"-h", "--help"} & set(words):
            print(_help(name, schema, doc))
            return
        overrides = rewrite([one for one in words if one not in ("--traceback", "--show")])
        if "--show" in words:
            print(show(name, schema, overrides), end="")
            return
        main(load(name, schema, overrides))

    return run_command(
        command, again="the same command continues from the last checkpoint", traceback="--traceback" in words
    )


def resolved(name: str, schema: type, overrides: Sequence[str] = (), folder: Path = CONFIGS) -> dict[str, Any]:
    """All settings as plain data, not built yet; what needs a value and has none is REQUIRED."""
    choices, settings = _sort(overrides, schema, folder)
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            given = OmegaConf.to_container(compose(name, overrides=choices))
        values = merge(schema, None, given, "")
    except Exception as error:  # Hydra wraps errors in many types; here all of them come from YAML files and choices
        raise ValueError(f"configs/{name}.yaml {' '.join(choices)}: {message_of(error)}") from error
    given = dict(one.split("=", 1) for one in overrides)
    values = getattr(schema, "complete", lambda values, given: values)(values, given)
    alias = getattr(schema, "alias", lambda _, key: key)
    settings = [(alias(values, key), text) for key, text in settings]
    keys = [key for key, _ in settings]
    for key, text in sorted(settings, key=lambda one: _depth(one[0])):
        values = assign(schema, values, key.split("."), text, key, keys)
    return values


def _depth(key: str) -> float:
    """What acts on a whole group comes before what acts inside it; its form (`schema.assign`) first of all."""
    return key.count(".") - key.endswith(".kind") / 2 - key.endswith(".faithful")


def _sort(overrides: Sequence[str], schema: type, folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Splits `key=value` overrides into choices of a group's file (for Hydra) and single settings (for us)."""
    choices, settings = [], []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key or key.startswith(("-", "+", "~")) or "${" in value:
            accepted = "accepted are key=value overrides, --help, --show and --traceback"
            raise ValueError(f"{override}: not understood; {accepted}")
        options = _options(folder, key)
        if options and not is_single(schema, key):
            if value not in options:
                raise ValueError(f"{override}: no such option{guess(value, options)}; accepted: {', '.join(options)}")
            choices.append(override)
        else:
            settings.append((key, value))
    return choices, settings


def _options(folder: Path, group: str) -> list[str]:
    files = (folder / group).glob("*.yaml") if group.isidentifier() else []
    return sorted(p.stem for p in files if p.stem not in NO_CHOICES)


def _help(name: str, schema: type, doc: str) -> str:
    groups = [p.name for p in sorted(CONFIGS.iterdir()) if p.is_dir()]
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    parts = [f"  {g}={' | '.join(_options(CONFIGS, g))}" for g in groups if f"{g}:" in text]
    lines = [doc.strip(), ""]
    lines.append("Options: --show prints the resolved settings and stops; --traceback shows where an error came from.")
    lines += ["", "Ready-made parts (configs/GROUP/NAME.yaml):", *parts] if parts else []
    lines += ["", "Settings and their defaults (key=value; a.b=value inside a group):"]
    return "\n".join(lines + ["  " + line for line in show(name, schema).rstrip().splitlines()])
